import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.algos.selection import Choice, best_under_limit

numbers = st.integers(-4, 4).map(lambda quarter: quarter / 4)  # few values, hence ties
scored = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        # rewards 3 1 2, costs 0.5 −2 −1
        (1.0, Choice(0, True)),  # all are within: the highest reward, 3
        (0.5, Choice(0, True)),  # a cost equal to the limit is within it
        (0.0, Choice(2, True)),  # the first is too costly: 2 is more than 1
        (-1.5, Choice(1, True)),  # only one is left
        (-3.0, Choice(1, False)),  # none: the lowest cost, −2
    ],
)
def test_choice_under_a_limit_hand_worked(limit: float, expected: Choice) -> None:
    assert best_under_limit([3.0, 1.0, 2.0], [0.5, -2.0, -1.0], limit) == expected


def test_of_equals_the_first_is_chosen() -> None:
    assert best_under_limit([1.0, 1.0], [0.0, -1.0], 0.0).chosen == 0
    assert best_under_limit([1.0, 2.0], [1.0, 1.0], 0.0).chosen == 0


@given(scored, numbers)
def test_the_chosen_is_never_above_the_limit_when_one_within_exists(
    pairs: list[tuple[float, float]], limit: float
) -> None:
    rewards, costs = zip(*pairs, strict=True)
    chosen, is_within = best_under_limit(rewards, costs, limit)
    assert is_within == (costs[chosen] <= limit) == any(cost <= limit for cost in costs)
    better = [(r, c) for r, c in pairs if (r > rewards[chosen] and c <= limit if is_within else c < costs[chosen])]
    assert not better


@given(scored, numbers, numbers)
def test_a_looser_limit_never_lowers_the_reward_among_those_within(
    pairs: list[tuple[float, float]], one: float, other: float
) -> None:
    rewards, costs = zip(*pairs, strict=True)
    strict, loose = (best_under_limit(rewards, costs, limit) for limit in sorted((one, other)))
    assert not strict.is_within or rewards[loose.chosen] >= rewards[strict.chosen]


@pytest.mark.parametrize(
    ("rewards", "costs", "limit"),
    [
        ([], [], 0.0),
        ([1.0], [], 0.0),
        ([1.0], [math.nan], 0.0),
        ([math.nan], [1.0], 0.0),
        ([1.0], [1.0], math.nan),
    ],
)
def test_what_cannot_be_ordered_is_refused(rewards: list[float], costs: list[float], limit: float) -> None:
    with pytest.raises(ValueError):
        best_under_limit(rewards, costs, limit)
