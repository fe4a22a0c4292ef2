import math
import re

import pytest

from equipoise.train.alarms import WINDOW, alarms

FINE = {
    "lambda": 1.0, "mean_cost": 0.0, "excess": 0.0, "kl": 0.5, "response_length": 20.0, "repeated_share": 0.1,
    "same_start_share": 0.3, "unfinished_share": 0.0,
}  # fmt: skip
CEILING, FLOOR = 5.0, 0.01


def steps(count: int, **changed: float) -> list[dict[str, float]]:
    return [{**FINE, **changed} for _ in range(count)]


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"lambda": 5.0, "excess": 2.0}, "λ has been at its ceiling 5 .* the constraint is exceeded by 2"),
        ({"lambda": 0.01}, "λ has been at its floor 0.01 .* does not bind"),
        ({"repeated_share": 0.95, "same_start_share": 1.0}, "the same text: the policy has collapsed"),
        ({"same_start_share": 0.95}, "start with the same three words: the policy may only refuse"),
        ({"unfinished_share": 0.6}, "more than half of the responses never end: raise max_new_tokens"),
        ({"response_length": 50.0}, "response length drifted from 20 to 41 tokens"),  # (6·20 + 14·50)/20 = 41
        ({"response_length": 2.0}, "response length drifted from 20 to 9.2 tokens"),  # (8·20 + 12·2)/20 = 9.2
    ],
)
def test_trouble_is_said_once_when_it_is_certain(trouble, words):
    history = steps(WINDOW)
    said = []
    for _ in range(WINDOW + 5):
        history += steps(1, **trouble)
        said += alarms(history, CEILING, FLOOR)
    assert len(said) == 1
    assert re.search(words, said[0]), said[0]


def test_exploding_kl_is_said_at_once_and_again_when_it_returns():
    history = steps(3)
    said = []
    for kl in (19.0, 21.0, 25.0, 1.0, 30.0):  # 20 tokens: more than one nat per token
        history += steps(1, kl=kl)
        said.append(alarms(history, CEILING, FLOOR))
    assert [len(messages) for messages in said] == [0, 1, 0, 0, 1]
    assert "21 nats from its reference: raise kl_coef" in said[1][0]


def test_nothing_is_said_about_a_run_that_goes_well():
    history: list[dict[str, float]] = []
    for _ in range(3 * WINDOW):
        history += steps(1)
        assert alarms(history, CEILING, FLOOR) == []


def test_a_ceiling_that_keeps_the_limit_is_no_trouble():
    assert alarms(steps(WINDOW, **{"lambda": 5.0, "excess": -1.0}), CEILING, FLOOR) == []


def test_a_constant_lambda_is_not_pinned():
    assert alarms(steps(WINDOW, **{"lambda": 0.0, "mean_cost": 9.0}), math.inf, -math.inf) == []


def test_of_several_the_one_at_its_ceiling_is_named_and_another_that_is_exceeded_is_not_taken_for_it():
    several = {"lambda": 5.0, "lambda/theft": 5.0, "lambda/drugs": 0.5}
    exceeded = steps(WINDOW, **several, **{"excess": 2.0, "excess/theft": 2.0, "excess/drugs": -1.0})
    met = steps(WINDOW, **several, **{"excess": 2.0, "excess/theft": -1.0, "excess/drugs": 2.0})
    [said] = alarms(exceeded, CEILING, FLOOR)
    assert said.startswith("λ of theft has been at its ceiling")
    assert alarms(met, CEILING, FLOOR) == []
