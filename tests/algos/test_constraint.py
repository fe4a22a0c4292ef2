"""What a constraint watches, by hand; how far it is exceeded is in tests/train/test_frame.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.algos.constraint import excess_cost, is_exceeded, scalarize, window_mean
from equipoise.algos.lagrange import mix

COSTS = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=2, max_size=20)


def test_a_response_below_the_limit_earns_nothing_by_hand() -> None:
    costs = [-5.0, 1.0, 3.0]
    assert [excess_cost(c, 1.0) for c in costs] == [0.0, 0.0, 2.0]
    assert [is_exceeded(c, 1.0) for c in costs] == [0.0, 0.0, 1.0]
    assert window_mean(costs) == pytest.approx(-1 / 3)


@given(COSTS, st.floats(-5, 5))
def test_safer_answers_elsewhere_never_pay_for_an_unsafe_one(costs: list[float], limit: float) -> None:
    safer = [cost - 3.0 if cost <= limit else cost for cost in costs]
    for watch in (excess_cost, is_exceeded):
        assert window_mean([watch(c, limit) for c in safer]) == window_mean([watch(c, limit) for c in costs])
    assert window_mean(safer) <= window_mean(costs)  # the mean is what they can pay with


def test_several_constraints_as_one_by_hand() -> None:
    assert scalarize([4.0, 1.0], [1.0, 3.0]) == (pytest.approx(1.75), 4.0)  # (1·4 + 3·1)/4
    assert scalarize([4.0, 1.0], [0.0, 0.0]) == (2.5, 0.0)
    assert scalarize([], []) == (0.0, 0.0)


def test_mixing_them_as_one_is_mixing_each_with_its_own_lambda() -> None:
    draw = torch.Generator().manual_seed(0)
    reward, first, second = torch.randn(3, 4, 1, generator=draw, dtype=torch.float64)
    lams = (0.3, 1.7)
    weighed = [scalarize([float(a), float(b)], lams) for a, b in zip(first, second, strict=True)]
    one = mix(reward, torch.tensor([[c] for c, _ in weighed]), torch.tensor([[lam] for _, lam in weighed]))
    by_hand = (reward - 0.3 * first - 1.7 * second) / (1 + 2.0)
    torch.testing.assert_close(one, by_hand)
