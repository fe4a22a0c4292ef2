"""λ from stored scores: by hand, by its optimality conditions, and against the formulas of the paper."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from equipoise.algos.offline_dual import Scores, first_wins, solve_lam, tilt
from equipoise.errors import EvaluationError


def scores(*prompts: list[tuple[float, float]]) -> Scores:
    """Prompts as lists of (reward, cost)."""
    rewards, costs = (np.array([row[i] for rows in prompts for row in rows]) for i in (0, 1))
    return Scores(rewards, costs, np.cumsum([0, *map(len, prompts[:-1])]))


def drawn(seed: int, prompts: int = 30) -> Scores:
    """Uneven groups of 2 to 8 responses, in which what helps tends to harm."""
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(prompts):
        costs = rng.normal(0.5, 2.0, rng.integers(2, 9))
        groups.append(list(zip(costs + rng.normal(0, 1, len(costs)), costs, strict=True)))
    return scores(*groups)


TWO_PROMPTS = scores([(2.0, 1.0), (0.0, -1.0)], [(0.0, 1.0), (0.0, -1.0)])


def test_two_prompts_of_two_responses_by_hand() -> None:
    # β = 1. With costs ±1, E[c] of a prompt is tanh(half the difference of its logits r − λc):
    # tanh(1 − λ) in the first, tanh(−λ) in the second. Their mean is 0 where 1 − λ = λ, so λ = ½.
    lam = solve_lam(TWO_PROMPTS, beta=1.0, limit=0.0)
    assert lam == pytest.approx(0.5, abs=1e-9)
    found = tilt(TWO_PROMPTS, lam, beta=1.0, limit=0.0)
    assert found.costs == pytest.approx([math.tanh(0.5), -math.tanh(0.5)])
    # weights σ(1), σ(−1): rewards 2σ(1) and 0; variances of ±1 are 1 − tanh²; 1/Σw² is the same for both
    assert found.rewards == pytest.approx([2 / (1 + math.exp(-1)), 0.0])
    assert found.slope == pytest.approx(-(1 - math.tanh(0.5) ** 2))
    assert found.effective == pytest.approx([2 / (1 + math.tanh(0.5) ** 2)] * 2)
    by_hand = [math.log((math.exp(1.5) + math.exp(0.5)) / 2), math.log((math.exp(-0.5) + math.exp(0.5)) / 2)]
    assert found.dual == pytest.approx(sum(by_hand) / 2)


def test_a_smaller_beta_and_larger_scores_are_the_same_problem() -> None:
    # everything in units of reward by ten: λ is one of reward per cost, so it grows by ten as well
    grown = TWO_PROMPTS._replace(rewards=10 * TWO_PROMPTS.rewards)
    assert solve_lam(grown, beta=10.0, limit=0.2) == pytest.approx(10 * solve_lam(TWO_PROMPTS, 1.0, 0.2))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.02, 20.0), st.floats(-1.0, 2.0))
def test_lam_satisfies_the_conditions_of_an_optimum(seed: int, beta: float, limit: float) -> None:
    data = drawn(seed)
    cheapest = np.minimum.reduceat(data.costs, data.starts).mean()
    if cheapest >= limit:
        with pytest.raises(EvaluationError):
            solve_lam(data, beta, limit)
        return
    lam = solve_lam(data, beta, limit)
    excess = tilt(data, lam, beta, limit).costs.mean() - limit
    assert lam >= 0  # dual feasible
    assert excess <= 1e-6  # primal feasible
    assert lam * excess == pytest.approx(0, abs=1e-5)  # complementary slackness


@pytest.mark.parametrize("seed", range(5))
def test_the_policy_at_lam_maximises_the_lagrangian_and_the_dual_is_its_value(seed: int) -> None:
    data, beta, limit = drawn(seed), 0.7, 0.1
    lam = solve_lam(data, beta, limit)
    assert lam > 0
    found = tilt(data, lam, beta, limit)
    value = found.rewards.mean() - lam * (found.costs.mean() - limit) - beta * found.kl.mean()
    assert found.dual == pytest.approx(value)

    def dual(other: float) -> float:
        return tilt(data, other, beta, limit).dual

    assert minimize_scalar(dual, bounds=(0, 50), method="bounded", options={"xatol": 1e-9}).x == pytest.approx(
        lam, abs=1e-5
    )


def test_the_slope_is_the_derivative_of_the_mean_cost() -> None:
    data, step = drawn(3), 1e-5
    high, low = (tilt(data, 0.8 + d, 0.5, 0.0).costs.mean() for d in (step, -step))
    assert tilt(data, 0.8, 0.5, 0.0).slope == pytest.approx((high - low) / (2 * step), rel=1e-6)


def test_a_limit_that_holds_without_it_needs_no_lam() -> None:
    free = tilt(TWO_PROMPTS, 0.0, 1.0, 0.0).costs.mean()
    assert solve_lam(TWO_PROMPTS, 1.0, free) == 0.0
    assert solve_lam(TWO_PROMPTS, 1.0, free - 1e-6) > 0.0


def test_a_limit_below_the_cheapest_responses_is_refused_in_words() -> None:
    data = scores([(1.0, 3.0), (0.0, 1.0)], [(1.0, 2.0), (0.0, -1.0)])  # the cheapest: (1 − 1)/2 = 0
    assert solve_lam(data, 0.1, 1e-3) > 0
    for limit in (0.0, -0.5):
        with pytest.raises(EvaluationError, match="even the cheapest response of a prompt costs 0,"):
            solve_lam(data, 0.1, limit)


def test_the_dual_on_log_ratios_is_the_one_of_the_preference_based_method() -> None:
    rng = np.random.default_rng(0)
    beta, margin, groups, size = 0.3, 0.2, 20, 16
    ell_r, ell_s = rng.normal(0, 2, (groups, size)), rng.normal(-0.5, 2, (groups, size))
    starts = np.arange(0, groups * size, size)
    data = Scores(beta * ell_r.ravel(), -beta * ell_s.ravel(), starts)
    kl = -ell_s.mean()  # KL(π_ref‖π_S) from responses of π_ref

    def pecan(lam: float) -> float:
        inner = logsumexp(ell_r + lam * ell_s, axis=1) - math.log(size)
        return float(inner.mean() + lam * (kl - margin / beta))

    limit = float(data.costs.mean()) - margin
    for lam in (0.0, 0.4, 2.0):
        assert tilt(data, lam, beta, limit).dual == pytest.approx(beta * pecan(lam))
    best = minimize_scalar(pecan, bounds=(0, 50), method="bounded", options={"xatol": 1e-9}).x
    assert solve_lam(data, beta, limit) == pytest.approx(best, abs=1e-5)


def test_a_prompt_whose_rewards_are_all_higher_changes_no_lam() -> None:
    data, sizes = drawn(1), np.diff([*drawn(1).starts, len(drawn(1).rewards)])
    shifted = data._replace(rewards=data.rewards + np.repeat(np.arange(len(sizes)) * 5.0, sizes))
    assert solve_lam(shifted, 0.5, 0.0) == pytest.approx(solve_lam(data, 0.5, 0.0))


def test_preferences_are_even_for_equals_and_sure_for_the_far_better() -> None:
    odds = first_wins(np.array([0.0, math.log(3.0), 900.0]), np.array([0.0, 0.0, -900.0]))
    assert odds == pytest.approx([0.5, 0.75, 1.0])
