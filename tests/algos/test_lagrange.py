import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.algos.lagrange import LagrangeState, constant_step, log_dual_step, mix, slide_window
from equipoise.errors import TrainingError


def step(lam: float, mean_cost: float, lr: float = 0.1, cost_limit: float = 0.0) -> float:
    return log_dual_step(LagrangeState(lam), mean_cost, lr=lr, cost_limit=cost_limit, floor=0.01, ceiling=5.0).lam


@pytest.mark.parametrize(
    ("lam", "mean_cost", "cost_limit", "expected"),
    [
        # ln λ' = ln λ + α·λ·(Ĵ_C − limit), α = 0.1
        (1.0, 2.0, 0.0, 1.221403),  # 0 + 0.1·1·2 = 0.2 → e^0.2
        (1.0, -2.0, 0.0, 0.818731),  # e^−0.2
        (2.0, 2.0, 0.0, 2.983649),  # the step grows with λ: 0.1·2·2 = 0.4 → 2·e^0.4
        (0.5, -2.0, -3.0, 0.525636),  # limit −3: cost −2 is 1 too high, 0.1·0.5·1 = 0.05 → 0.5·e^0.05
        (0.5, -3.0, -3.0, 0.5),  # on the limit λ rests
    ],
)
def test_lambda_update_hand_worked(lam: float, mean_cost: float, cost_limit: float, expected: float) -> None:
    assert step(lam, mean_cost, cost_limit=cost_limit) == pytest.approx(expected, abs=1e-6)


def test_lambda_stays_between_floor_and_ceiling_exactly() -> None:
    assert step(1.0, 1e6) == 5.0
    assert step(1.0, -1e6) == 0.01
    assert step(100.0, 0.0) == 5.0
    assert step(0.0, 0.0) == 0.01


def test_lambda_returns_from_the_floor() -> None:
    state = LagrangeState(1.0)
    for _ in range(200):
        state = log_dual_step(state, -50.0, lr=0.1, cost_limit=0.0, floor=0.01, ceiling=5.0)
    assert state.lam == 0.01
    for _ in range(2000):
        state = log_dual_step(state, 1.0, lr=0.1, cost_limit=0.0, floor=0.01, ceiling=5.0)
    # dλ/dn ≈ α·λ² needs 1/(α·λ) = 1,000 steps from the floor to any size.
    assert state.lam == 5.0


@given(st.floats(0.01, 5.0), st.floats(-1e300, 1e300), st.floats(-10, 10))
def test_lambda_moves_towards_the_side_of_the_limit_and_stays_in_bounds(
    lam: float, cost: float, limit: float
) -> None:
    after = step(lam, cost, cost_limit=limit)
    assert 0.01 <= after <= 5.0
    assert after >= lam if cost >= limit else after <= lam


@pytest.mark.parametrize("cost", [math.nan, math.inf, -math.inf])
def test_a_mean_cost_that_is_no_number_stops_the_run(cost: float) -> None:
    with pytest.raises(TrainingError, match="mean cost"):
        step(1.0, cost)


@pytest.mark.parametrize(("floor", "ceiling"), [(0.0, 5.0), (-1.0, 5.0), (2.0, 1.0), (math.nan, 1.0)])
def test_bounds_that_let_lambda_die_are_refused(floor: float, ceiling: float) -> None:
    with pytest.raises(ValueError, match="floor"):
        log_dual_step(LagrangeState(1.0), 0.0, lr=0.1, cost_limit=0.0, floor=floor, ceiling=ceiling)


def test_constant_lambda_ignores_cost() -> None:
    assert constant_step(LagrangeState(0.0), 123.0) == LagrangeState(0.0)


def test_state_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LagrangeState(1.0).lam = 2.0  # type: ignore[misc]


@given(st.lists(st.floats(-5, 5), min_size=12, max_size=12), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_the_window_does_not_depend_on_how_a_batch_is_cut(costs: list[float], part: int) -> None:
    window: tuple[float, ...] = (9.0, 9.0)
    for start in range(0, 12, part):
        window = slide_window(window, costs[start : start + part], 8)
    assert window == slide_window((9.0, 9.0), costs, 8) == tuple(costs[-8:])


def test_a_young_window_holds_what_there_is() -> None:
    assert slide_window((), [1.0, 2.0], 128) == (1.0, 2.0)
    with pytest.raises(ValueError, match="at least one"):
        slide_window((), [1.0], 0)


def test_mix_hand_worked() -> None:
    # (4 − 3·2)/(1 + 3) = −0.5 and (0 − 3·−1)/4 = 0.75
    mixed = mix(torch.tensor([[4.0, 0.0]]), torch.tensor([[2.0, -1.0]]), 3.0)
    assert mixed.tolist() == [[-0.5, 0.75]]


def test_mix_is_the_reward_alone_at_zero_and_the_cost_alone_far_out() -> None:
    rewards, costs = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 5.0]])
    assert torch.equal(mix(rewards, costs, 0.0), rewards)
    torch.testing.assert_close(mix(rewards, costs, 1e9), -costs)
