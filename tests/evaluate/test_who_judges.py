"""Verdicts by a judge model and by people, and which of them a rate is by."""

import json
from pathlib import Path

import pytest
import synthetic
from pydantic import ValidationError
from scripted_judge import busy, material

from equipoise.data.jsonl import write_records
from equipoise.errors import EndpointError, EvaluationError
from equipoise.evaluate.config import CostVerdict, EvaluateConfig
from equipoise.evaluate.evaluate import evaluate
from equipoise.evaluate.harm import ScoredAnswer
from equipoise.evaluate.people import check_by_people
from equipoise.records import Prompt, Response, SafetyLabel, Verdict
from equipoise.rollout.config import FunctionScore


def answers(folder: Path, name: str, bombs: int, count: int = 20) -> Path:
    """Harmful requests; the first `bombs` answers are unsafe as the honest scripted judge sees it."""
    about = {"kind": "harmful", "category": "own_category", "attack": "own_attack"}
    prompts = [Prompt.from_text(f"question {i} ?", **about) for i in range(count)]
    texts = [f"answer {i}" + (" bomb" if i < bombs else " !") for i in range(count)]
    made = [Response(prompt=p, text=text, policy=name) for p, text in zip(prompts, texts, strict=True)]
    return synthetic.respond(folder / name, made)


def run(folder, **settings):
    policies = settings.pop("policies", None) or {"a": answers(folder, "a", 12), "b": answers(folder, "b", 3)}
    return evaluate(EvaluateConfig(**{"out": folder / "evaluation", "policies": policies, **settings}))


def judged(folder, server, **settings):
    judge = {"url": server.url, "model": "scripted", "retries": 0, **settings.pop("judge", {})}
    return run(folder, **{"verdict": "judge", "judge": judge, **settings})


def summary(path):
    return json.loads((path / "summary.json").read_text())


def test_a_judge_model_says_what_is_harmful_and_is_named(tmp_path, server):
    done = summary(judged(tmp_path, server))
    assert [policy["harmful_rate"]["value"] for policy in done["policies"]] == [12 / 20, 3 / 20]
    assert done["verdict"] == {"kind": "judge", "name": "scripted", "threshold": None}
    assert done["judge"] == {"safety": {"asked": 40, "unscored": {}}}
    assert {tuple(material(body)) for body in server.bodies} == {("user", "response", "outside")}
    shown = str(server.bodies)
    assert "own_category" not in shown
    assert "own_attack" not in shown


def test_a_judge_model_votes_and_says_what_refuses(tmp_path, server):
    done = summary(judged(tmp_path, server, votes="judge", refusal="judge"))
    (tally,) = [t for t in done["comparisons"] if t["arena"] == "helpful_elo_all"]
    assert (tally["wins"], tally["losses"], tally["ties"]) == (
        0,
        9,
        11,
    )  # b has nine more "!", the rest are the same
    assert done["refusal"] == "judge"
    assert done["judge"].keys() == {"safety", "refusal", "helpfulness", "harmlessness"}


def test_answers_of_the_judge_that_cannot_be_read_are_unscored_and_counted_by_reason(tmp_path, server):
    honest = server.brain
    server.brain = lambda body: "It depends." if "answer 1 " in str(body) else honest(body)
    done = summary(judged(tmp_path, server))
    assert done["judge"]["safety"] == {"asked": 40, "unscored": {"broken_json": 2}}
    assert [policy["counts"]["unscored_verdicts"] for policy in done["policies"]] == [1, 1]
    assert [policy["harmful_rate"]["n"] for policy in done["policies"]] == [19, 19]


def test_a_judge_that_never_says_anything_readable_is_an_error_and_not_zero(tmp_path, server):
    server.brain = lambda body: "It depends."
    with pytest.raises(EvaluationError, match=r"(?s)None of the judge's 20 answers on safety.*broken_json: 20"):
        judged(tmp_path, server)
    assert not (tmp_path / "evaluation" / "summary.json").exists()


def test_a_judge_that_fails_is_asked_again_for_the_rest_alone(tmp_path, server):
    server.fault = lambda body, time: busy(500, "0") if "answer 7 " in str(body) else None
    with pytest.raises(EndpointError, match="got no answer"):
        judged(tmp_path, server, judge={"concurrency": 1})
    server.fault = lambda body, time: None
    done = summary(judged(tmp_path, server, judge={"timeout": 7}))
    assert done["policies"][0]["harmful_rate"]["n"] == 20
    assert max(server.served.values()) == 1


def test_the_word_judge_and_its_section_come_together(tmp_path, server):
    judge = {"url": server.url, "model": "scripted"}
    with pytest.raises(ValidationError, match="together or not at all"):
        run(tmp_path, verdict="synthetic:verdicts", judge=judge)
    with pytest.raises(ValidationError, match="together or not at all"):
        run(tmp_path, verdict="judge")
    with pytest.raises(ValidationError, match="needs the section `people`"):
        run(tmp_path, verdict="people")


def test_other_verdicts_are_named_by_their_kind(tmp_path):
    cost = CostVerdict(cost=FunctionScore(function="test_evaluate:planted_costs"), threshold=1.5)
    by_cost = summary(run(tmp_path, verdict=cost))["verdict"]
    assert by_cost == {"kind": "cost", "name": "test_evaluate:planted_costs", "threshold": 1.5}
    by_function = summary(run(tmp_path, verdict="synthetic:verdicts", out=tmp_path / "two"))["verdict"]
    assert by_function["kind"] == "function"


def labels(folder: Path, spec: dict[int, list[bool]], bombs: int = 12) -> str:
    """Per number of a question what its labellers said of policy a's answer."""
    path = folder / "labels.jsonl"
    made = [
        SafetyLabel(
            prompt=Prompt.from_text(f"question {i} ?"),
            response=f"answer {i}" + (" bomb" if i < bombs else " !"),
            is_safe=is_safe,
        )
        for i, said in spec.items()
        for is_safe in said
    ]
    write_records(path, made)
    return str(path)


def test_people_say_what_is_harmful_and_what_they_did_not_see_is_unscored(tmp_path):
    given = labels(tmp_path, {0: [False], 1: [True], 2: [True, False], 13: [True]})
    policies = {"a": answers(tmp_path, "a", 12)}
    done = summary(run(tmp_path, policies=policies, verdict="people", people={"labels": [given]}))
    (policy,) = done["policies"]
    assert (policy["harmful_rate"]["value"], policy["harmful_rate"]["n"]) == (1 / 3, 3)  # question 2 is split
    assert policy["counts"]["unscored_verdicts"] == 17
    assert done["verdict"]["kind"] == "people"
    assert policy["people"] is None


def test_labels_of_other_answers_are_counted_and_alone_refused(tmp_path):
    given = labels(tmp_path, {0: [False], 1: [False], 99: [True]})
    done = summary(run(tmp_path, verdict="people", people={"labels": [given]}))
    assert done["people"] == {"are_a_random_sample": False, "unmatched": 1}
    stale = labels(tmp_path, {0: [False]}, bombs=0)  # both policies answer something else to question 0
    with pytest.raises(EvaluationError, match="None of people's labels, on 1 answers"):
        run(tmp_path, verdict="people", people={"labels": [stale]}, out=tmp_path / "second")


def check(people: dict[int, bool], said: list[bool | None], **settings):
    scored = [
        ScoredAnswer(
            policy="a", prompt=str(i), kind="harmful", category=None, attack=None, is_safe=is_safe,
            categories=(), refusal=None, finished=True,
        )
        for i, is_safe in enumerate(said)
    ]  # fmt: skip
    verdicts = {str(i): Verdict(is_safe=is_safe) for i, is_safe in people.items()}
    return check_by_people(scored, verdicts, **{"are_a_random_sample": True, **settings})


def test_a_judge_that_is_always_right_adds_what_people_did_not_see() -> None:
    # people: 2 of 4 unsafe; judge: the same, and 1 of 4 of the others.
    # Var(f) over all 8: 3/8 unsafe → 8/7 · 15/64 = 15/56; Cov = ¼; λ = ¼ / (2 · 15/56) = 7/15.
    # θ = ½ + 7/15 · (¼ − ½) = 23/60
    said = [False, True, False, True, False, True, True, True]
    found = check({0: False, 1: True, 2: False, 3: True}, said)
    assert found.calibrated is not None
    assert found.calibrated.power == pytest.approx(7 / 15)
    assert found.calibrated.value == pytest.approx(23 / 60)
    assert (found.agreement.raw.value, found.agreement.raw.n) == (1.0, 4)
    assert found.rate is not None
    assert found.rate.value == 0.5


def test_without_a_random_sample_nothing_is_calibrated() -> None:
    found = check({0: False, 1: True}, [False, True, False, True], are_a_random_sample=False)
    assert found.calibrated is None
    assert "random sample" in found.why_not
    assert found.agreement.raw.n == 2


def test_labels_that_are_all_the_same_calibrate_nothing_and_say_why() -> None:
    found = check({0: True, 1: True, 2: True}, [False, True, True, False])
    assert found.calibrated is None
    assert "labels that differ" in found.why_not


def test_labels_of_everything_leave_nothing_to_calibrate() -> None:
    found = check({0: True, 1: False}, [True, True])
    assert (found.calibrated, found.labelled) == (None, 2)
    assert found.agreement.raw.value == 0.5


def test_an_unscored_verdict_is_in_neither_the_agreement_nor_the_estimate() -> None:
    found = check({0: False, 1: True, 2: True}, [None, True, False, None, True])
    assert (found.labelled, found.agreement.raw.n) == (3, 2)


def test_the_calibrated_rate_stands_beside_the_judges_own(tmp_path, server):
    given = labels(tmp_path, {i: [i not in (0, 1, 2, 18)] for i in range(0, 20, 2)})
    policies = {"a": answers(tmp_path, "a", 12)}
    people = {"labels": [given], "are_a_random_sample": True}
    (policy,) = summary(judged(tmp_path, server, policies=policies, people=people))["policies"]
    assert policy["harmful_rate"]["value"] == 12 / 20
    found = policy["people"]
    assert (found["labelled"], found["rate"]["value"]) == (10, 0.3)  # 0, 2 and 18
    assert found["agreement"]["raw"]["value"] == pytest.approx(5 / 10)  # wrong on 4, 6, 8, 10 and 18
    assert found["calibrated"]["low"] < found["calibrated"]["value"] < found["calibrated"]["high"]


def test_labels_by_policy_and_prompt_need_no_text(tmp_path):
    rows = [
        {"prompt": "question 0 ?", "policy": "a", "is_safe": False, "labeller": "ann"},
        {"prompt": "question 0 ?", "policy": "a", "is_safe": False, "labeller": "bob"},
        {"prompt": "question 0 ?", "policy": "a", "is_safe": True, "labeller": "cem"},
        {"prompt": "question 1 ?", "policy": "a", "response": "answer 1 bomb", "is_safe": True},
        {"prompt": "question 0 ?", "policy": "b", "is_safe": True},
        {"prompt": "question 2 ?", "policy": "b", "response": "something else", "is_safe": False},
        {"prompt": "question 3 ?", "policy": "nobody", "is_safe": False},
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    people = {"files": [str(tmp_path / "labels.jsonl")]}
    done = summary(run(tmp_path, verdict="people", people=people))
    rates = [(policy["harmful_rate"]["value"], policy["harmful_rate"]["n"]) for policy in done["policies"]]
    assert rates == [(0.5, 2), (0.0, 1)]
    assert done["people"]["unmatched"] == 2
