import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.algos.lagrange import (
    LagrangeState,
    log_dual_step,
    mix,
    optimistic_step,
    pid_step,
    projected_step,
    slide_window,
)
from equipoise.errors import TrainingError


def step(lam: float, mean_cost: float, lr: float = 0.1, cost_limit: float = 0.0) -> float:
    return log_dual_step(LagrangeState(lam), mean_cost - cost_limit, lr=lr, floor=0.01, ceiling=5.0).lam


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
        state = log_dual_step(state, -50.0, lr=0.1, floor=0.01, ceiling=5.0)
    assert state.lam == 0.01
    for _ in range(2000):
        state = log_dual_step(state, 1.0, lr=0.1, floor=0.01, ceiling=5.0)
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
    with pytest.raises(TrainingError, match="constraint of a rollout batch"):
        step(1.0, cost)


@pytest.mark.parametrize("excess", [math.nan, math.inf])
def test_an_excess_that_is_no_number_stops_every_controller_at_any_step(excess: float) -> None:
    gains = {"kp": 0.1, "ki": 0.1, "kd": 0.1}
    for controller, settings in ((projected_step, {"lr": 0.1}), (optimistic_step, {"lr": 0.1}), (pid_step, gains)):
        for before in ([], [1.0]):
            with pytest.raises(TrainingError, match="constraint of a rollout batch"):
                walk(controller, [*before, excess], **settings)


@pytest.mark.parametrize(("floor", "ceiling"), [(0.0, 5.0), (-1.0, 5.0), (2.0, 1.0), (math.nan, 1.0)])
def test_bounds_that_let_lambda_die_are_refused(floor: float, ceiling: float) -> None:
    with pytest.raises(ValueError, match="floor"):
        log_dual_step(LagrangeState(1.0), 0.0, lr=0.1, floor=floor, ceiling=ceiling)


def walk(step, excesses, **settings) -> list[float]:
    state, found = LagrangeState(1.0, integral=1.0), []
    for excess in excesses:
        state = step(state, excess, floor=0.0, ceiling=2.0, **settings)
        found.append(state.lam)
    return found


def test_projected_ascent_by_hand_and_back_from_zero() -> None:
    # 1 + 0.5·0.4; − 0.5·4 → below 0, so 0; + 0.5·1; + 0.5·9 → 2
    assert walk(projected_step, [0.4, -4.0, 1.0, 9.0], lr=0.5) == pytest.approx([1.2, 0.0, 0.5, 2.0])


def test_optimistic_ascent_reckons_with_the_trend_by_hand() -> None:
    # 1 + 0.1·(2·1 − 1); + 0.1·(2·3 − 1); + 0.1·(2·2 − 3); − 0.1·(2·2 + 2)
    assert walk(optimistic_step, [1.0, 3.0, 2.0, -2.0], lr=0.1) == pytest.approx([1.1, 1.6, 1.7, 1.1])


@given(st.floats(-3, 3), st.integers(1, 9))
def test_optimistic_ascent_is_projected_ascent_where_nothing_changes(excess: float, steps: int) -> None:
    still = [excess] * steps
    assert walk(optimistic_step, still, lr=0.1) == pytest.approx(walk(projected_step, still, lr=0.1))


def test_a_pid_controller_by_hand() -> None:
    gains = {"kp": 0.1, "ki": 0.2, "kd": 0.5}
    # I = 1 + 0.2·1 = 1.2; λ = 1.2 + 0.1·1 + 0.5·0 (nothing known before)
    # I = 1.2 + 0.2·1.5 = 1.5; λ = 1.5 + 0.15 + 0.5·0.5 = 1.9
    # I = 1.5 − 0.2·1 = 1.3; λ = 1.3 − 0.1 + 0: a fall is not rewarded
    assert walk(pid_step, [1.0, 1.5, -1.0], **gains) == pytest.approx([1.3, 1.9, 1.2])


def test_the_integral_does_not_wind_up_while_lambda_is_at_its_bound() -> None:
    gains = {"kp": 1.0, "ki": 0.2, "kd": 0.0}
    state = LagrangeState(1.0, integral=1.0)
    for _ in range(50):
        state = pid_step(state, 3.0, floor=0.0, ceiling=2.0, **gains)
    assert (state.lam, state.integral) == (2.0, 1.0)
    assert pid_step(state, -0.1, floor=0.0, ceiling=2.0, **gains).lam == pytest.approx(0.88)  # at once: 0.98 − 0.1


def test_integral_action_alone_is_projected_ascent() -> None:
    draws = [0.3, -0.2, 1.5, -3.0, 0.7]
    assert walk(pid_step, draws, kp=0.0, ki=0.1, kd=0.0) == pytest.approx(walk(projected_step, draws, lr=0.1))


@pytest.mark.parametrize("controller", [projected_step, optimistic_step])
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_every_controller_stays_in_bounds(controller, first: float, second: float) -> None:
    assert all(0.0 <= lam <= 2.0 for lam in walk(controller, [first, second], lr=0.5))
    assert all(0.0 <= lam <= 2.0 for lam in walk(pid_step, [first, second], kp=1.0, ki=0.3, kd=2.0))


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
