import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equipoise.algos.preference import category_loss, cost_loss, reward_loss, sign_loss

scores = st.lists(st.floats(-8, 8), min_size=8, max_size=8).map(lambda xs: torch.tensor(xs, dtype=torch.float64))
signs = st.lists(st.sampled_from([-1.0, 1.0]), min_size=8, max_size=8).map(
    lambda xs: torch.tensor(xs, dtype=torch.float64)
)


def test_reward_loss_hand_worked() -> None:
    # −ln σ(x) = ln(1 + e^−x). Pair 1: x = 2 − 1 = 1 → 0.313262.  Pair 2: x = 0 − 0.5 = −0.5 → 0.974077.
    # Mean 0.643669. Squares 4, 1, 0, 0.25 have mean 5.25/4 = 1.3125, times μ = 0.1 is 0.13125. Sum 0.774919.
    loss, stats = reward_loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.5]), 0.1, 2)
    assert loss.item() == pytest.approx(0.774919, abs=1e-6)
    assert (stats.pairs.item(), stats.correct.item(), stats.margin.item()) == (2, 1, 0.5)


def test_equal_rewards_cost_ln_two_and_rank_nothing() -> None:
    loss, stats = reward_loss(torch.zeros(3), torch.zeros(3), 0.001, 3)
    assert loss.item() == pytest.approx(math.log(2))
    assert stats.correct.item() == 0


def test_reward_gradient_hand_worked() -> None:
    # d/dr_w [−ln σ(r_w − r_l)] = −(1 − σ(1)) = −0.268941; the μ-term adds μ·r_w = 0.5·2 = 1,
    # and μ·r_l = 0.5 to r_l.
    winner, loser = torch.tensor([2.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    reward_loss(winner, loser, 0.5, 1)[0].backward()
    assert winner.grad is not None and loser.grad is not None
    assert winner.grad.item() == pytest.approx(-0.268941 + 1.0, abs=1e-6)
    assert loser.grad.item() == pytest.approx(0.268941 + 0.5, abs=1e-6)


def test_ranking_alone_leaves_the_zero_free_and_the_sign_terms_fix_it() -> None:
    winners, losers = torch.tensor([1.0, 3.0]), torch.tensor([0.0, -2.0])
    unsafe, safe = torch.ones(2), -torch.ones(2)
    torch.testing.assert_close(
        reward_loss(winners + 7, losers + 7, 0.0, 2)[0], reward_loss(winners, losers, 0.0, 2)[0]
    )
    assert (
        cost_loss(winners + 7, losers + 7, unsafe, safe, 0.0, 2)[0]
        > cost_loss(winners, losers, unsafe, safe, 0.0, 2)[0]
    )


def test_cost_loss_hand_worked() -> None:
    # One pair, c_w = 2 unsafe, c_l = −1 safe: −ln σ(3) = 0.048587, −ln σ(2) = 0.126928, −ln σ(−1·−1) = 0.313262;
    # squares 4 and 1 have mean 2.5, times μ = 0.1 is 0.25. Sum 0.738777.
    loss, stats = cost_loss(
        torch.tensor([2.0]), torch.tensor([-1.0]), torch.tensor([1.0]), torch.tensor([-1.0]), 0.1, 1
    )
    assert loss.item() == pytest.approx(0.738777, abs=1e-6)
    assert (stats.pairs.item(), stats.correct.item(), stats.margin.item()) == (1, 1, 3.0)
    assert (stats.responses.item(), stats.sign_correct.item(), stats.cost.item()) == (2, 2, 1.0)


def test_cost_loss_of_two_unsafe_responses_hand_worked() -> None:
    # c_w = 1, c_l = −2, both unsafe: −ln σ(3) = 0.048587, −ln σ(1) = 0.313262, −ln σ(−2) = 2.126928. Sum 2.488777.
    one = torch.ones(1)
    loss, stats = cost_loss(one, -2 * one, one, one, 0.0, 1)
    assert loss.item() == pytest.approx(2.488777, abs=1e-6)
    assert stats.sign_correct.item() == 1


@given(scores, signs)
def test_sign_term_is_bradley_terry_against_a_response_of_cost_zero(costs: Tensor, sign: Tensor) -> None:
    # An unsafe response is more harmful than y0, a safe one less: the pair (y, y0) or (y0, y).
    zero = torch.zeros_like(costs)
    more_harmful = torch.where(sign > 0, costs, zero)
    less_harmful = torch.where(sign > 0, zero, costs)
    expected = reward_loss(more_harmful, less_harmful, 0.0, 8)[0]
    torch.testing.assert_close(sign_loss(costs, sign, 0.0, 8)[0], expected)


@given(scores, signs, scores, signs)
def test_cost_loss_is_ranking_plus_the_two_sign_losses(cw: Tensor, sw: Tensor, cl: Tensor, sl: Tensor) -> None:
    # μ is on the mean over 2M responses, so pairs' squares count half of what they count as single responses.
    together = cost_loss(cw, cl, sw, sl, 0.02, 8)[0]
    apart = reward_loss(cw, cl, 0.0, 8)[0] + sign_loss(cw, sw, 0.01, 8)[0] + sign_loss(cl, sl, 0.01, 8)[0]
    torch.testing.assert_close(together, apart)


def test_single_labelled_response_hand_worked() -> None:
    # c = −1 unsafe: −ln σ(−1) = 1.313262; c = 3 unsafe: 0.048587; mean 0.680925; squares 1, 9: 0.1·5 = 0.5.
    loss, stats = sign_loss(torch.tensor([-1.0, 3.0]), torch.tensor([1.0, 1.0]), 0.1, 2)
    assert loss.item() == pytest.approx(1.180925, abs=1e-6)
    assert (stats.responses.item(), stats.correct.item(), stats.cost.item()) == (2, 1, 2.0)


def test_a_cost_of_exactly_zero_is_on_neither_side() -> None:
    _, stats = sign_loss(torch.zeros(2), torch.tensor([1.0, -1.0]), 0.0, 2)
    assert stats.correct.item() == 0


def test_gradients_push_unsafe_costs_up_and_safe_costs_down() -> None:
    costs = torch.tensor([0.0, 0.0], requires_grad=True)
    sign_loss(costs, torch.tensor([1.0, -1.0]), 0.001, 2)[0].backward()
    # d/dc [−ln σ(s·c)] at 0 is −s/2, over a denominator of 2.
    assert costs.grad is not None
    assert costs.grad.tolist() == [-0.25, 0.25]


def test_extreme_scores_stay_finite() -> None:
    huge = torch.tensor([1e4], requires_grad=True)
    loss, _ = cost_loss(-huge, huge, torch.ones(1), -torch.ones(1), 0.0, 1)
    loss.backward()
    assert huge.grad is not None
    assert loss.item() == pytest.approx(4e4)
    assert huge.grad.item() == pytest.approx(4.0)  # slope 2 from the ranking, 1 from each sign term


@given(scores, scores, signs, signs, st.integers(0, 8))
def test_splitting_a_batch_adds_up_to_the_same_gradient(
    w: Tensor, v: Tensor, sw: Tensor, sv: Tensor, cut: int
) -> None:
    whole_w, whole_v = w.clone().requires_grad_(), v.clone().requires_grad_()
    whole_voss, whole_stats = cost_loss(whole_w, whole_v, sw, sv, 0.001, 8)
    whole_voss.backward()
    split_w, split_v = w.clone().requires_grad_(), v.clone().requires_grad_()
    parts = []
    for part in (slice(0, cut), slice(cut, 8)):
        loss, stats = cost_loss(split_w[part], split_v[part], sw[part], sv[part], 0.001, 8)
        loss.backward()
        parts.append(stats)
    torch.testing.assert_close(split_w.grad, whole_w.grad)
    torch.testing.assert_close(split_v.grad, whole_v.grad)
    for first, second, total in zip(*parts, whole_stats, strict=True):
        torch.testing.assert_close(first + second, total)


def test_stats_are_detached_scalars() -> None:
    winners = torch.ones(2, requires_grad=True)
    for stats in (
        reward_loss(winners, winners, 0.1, 2)[1],
        cost_loss(winners, winners, winners, winners, 0.1, 2)[1],
    ):
        assert all(value.ndim == 0 and not value.requires_grad for value in stats)


def test_category_loss_is_the_sum_of_the_categories_sign_losses_and_counts_each() -> None:
    costs = torch.tensor([[2.0, -1.0], [0.0, 3.0], [-0.5, 1.0]])
    signs = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
    loss, stats = category_loss(costs, signs, 0.1, 3)
    alone = [sign_loss(costs[:, k], signs[:, k], 0.1, 3)[0].item() for k in range(2)]
    assert loss.item() == pytest.approx(sum(alone))
    # first: two named, of which the 0 is not found; second: one named and found, and a false alarm
    assert [counts.tolist() for counts in stats] == [[3, 3], [2, 2], [2, 1], [1, 1]]


def test_category_loss_of_no_response_is_zero_and_has_a_gradient() -> None:
    costs = torch.zeros(0, 2, requires_grad=True)
    loss, stats = category_loss(costs, torch.zeros(0, 2), 0.1, 3)
    loss.backward()
    assert loss.item() == 0
    assert costs.grad is not None
    assert [counts.tolist() for counts in stats] == [[0, 0]] * 4
