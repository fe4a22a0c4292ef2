import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equipoise.algos import credit
from equipoise.algos.credit import gae, kl_estimate, penalize_unfinished, shaped_costs, shaped_rewards
from equipoise.algos.lagrange import mix

seeds = st.integers(0, 2**31)
discounts = st.floats(0, 1)


def draw(seed: int, lengths: tuple[int, ...] = (5, 3, 1)) -> dict[str, Tensor]:
    """Random rewards, values and log-probs for responses of these lengths, right-padded with noise, not zeros."""
    generator = torch.Generator().manual_seed(seed)
    rows, width = len(lengths), max(lengths)
    names = ("rewards", "values", "cost_values", "log_probs", "ref_log_probs")
    batch = {name: torch.randn(rows, width, generator=generator, dtype=torch.float64) for name in names}
    batch["mask"] = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    batch["scores"], batch["costs"] = torch.randn(2, rows, generator=generator, dtype=torch.float64).unbind()
    return batch


def slow_gae(rewards: list[float], values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """Advantages as the λ-weighted average of n-step advantages (Schulman et al. eq. 16), one float at a time.

    A_t^(n) = r_t + γ·r_{t+1} + … + γ^(n−1)·r_{t+n−1} + γ^n·V_{t+n} − V_t, and beyond the end all are A_t^(T−t).
    """
    end, advantages = len(rewards), []
    for t in range(end):
        n_step = []
        for n in range(1, end - t + 1):
            total = sum(gamma**k * rewards[t + k] for k in range(n)) - values[t]
            n_step.append(total + (gamma**n * values[t + n] if t + n < end else 0.0))
        weights = [(1 - gae_lambda) * gae_lambda**k for k in range(len(n_step) - 1)]
        weights.append(gae_lambda ** (len(n_step) - 1))
        advantages.append(sum(w * a for w, a in zip(weights, n_step, strict=True)))
    return advantages


def test_shaped_rewards_hand_worked() -> None:
    # κ = 0.1; kl = (−1 − −2, −3 − −1) = (1, −2) → −κ·kl = (−0.1, +0.2); reward 5 at the last real token, index 1.
    shaped = shaped_rewards(
        scores=torch.tensor([5.0]),
        log_probs=torch.tensor([[-1.0, -3.0, 9.0]]),
        ref_log_probs=torch.tensor([[-2.0, -1.0, -9.0]]),
        mask=torch.tensor([[True, True, False]]),
        kl_coef=0.1,
    )
    assert shaped.values.tolist() == [pytest.approx([-0.1, 5.2, 0.0])]
    assert shaped.clamped_share.item() == 0.0


def test_shaped_costs_carry_the_kl_with_the_opposite_sign() -> None:
    # As above: +κ·kl = (0.1, −0.2), cost −4 at the end.
    shaped = shaped_costs(
        scores=torch.tensor([-4.0]),
        log_probs=torch.tensor([[-1.0, -3.0]]),
        ref_log_probs=torch.tensor([[-2.0, -1.0]]),
        mask=torch.tensor([[True, True]]),
        kl_coef=0.1,
    )
    assert shaped.values.tolist() == [pytest.approx([0.1, -4.2])]


def test_clamp_hand_worked_and_counted() -> None:
    # κ = 1, kl = (60, −49, 0), reward 2: −60 → −50 clamped, 49 kept, 2 kept; the second row −70 → −50.
    # Share 2 of 4.
    shaped = shaped_rewards(
        scores=torch.tensor([2.0, -70.0]),
        log_probs=torch.tensor([[60.0, -49.0, 0.0], [0.0, 500.0, 500.0]]),
        ref_log_probs=torch.zeros(2, 3),
        mask=torch.tensor([[True, True, True], [True, False, False]]),
        kl_coef=1.0,
    )
    assert shaped.values.tolist() == [[-50.0, 49.0, 2.0], [-50.0, 0.0, 0.0]]
    assert shaped.clamped_share.item() == 0.5


def test_the_end_token_is_inside_the_mask_whatever_its_id() -> None:
    # Where pad and EOS are one token, [7, eos] padded differs from [7, eos, eos, eos] in its mask alone: the score
    # falls on the first EOS, which pays its KL like any action.
    log_probs = torch.tensor([[-1.0, -0.5, 0.0, 0.0]])
    ref_log_probs = torch.tensor([[-1.0, -1.5, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False, False]])
    shaped = shaped_rewards(torch.tensor([3.0]), log_probs, ref_log_probs, mask, kl_coef=0.5)
    assert shaped.values.tolist() == [[0.0, 2.5, 0.0, 0.0]]


def test_real_tokens_with_log_prob_zero_still_count() -> None:
    # A certain token has log-prob 0; a mask guessed from `log_probs != 0` would lose it.
    mask = torch.ones(1, 3, dtype=torch.bool)
    shaped = shaped_rewards(torch.tensor([1.0]), torch.zeros(1, 3), torch.zeros(1, 3), mask, kl_coef=0.1)
    assert shaped.values.tolist() == [[0.0, 0.0, 1.0]]


def test_a_response_without_tokens_is_refused() -> None:
    nothing = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="without a single real token"):
        shaped_rewards(torch.ones(1), nothing, nothing, nothing.bool(), kl_coef=0.1)


def test_responses_that_never_end_pay_the_penalty() -> None:
    rewards = penalize_unfinished(torch.tensor([1.0, 1.0]), torch.tensor([True, False]), 2.5)
    assert rewards.tolist() == [1.0, -1.5]


def test_gae_hand_worked() -> None:
    # γ = 0.5, λ = 0.5; r = (1, 2, 4), V = (1, 2, 2), V beyond the end 0.
    # δ_2 = 4 − 2 = 2;  δ_1 = 2 + 0.5·2 − 2 = 1;  δ_0 = 1 + 0.5·2 − 1 = 1
    # A_2 = 2;  A_1 = 1 + 0.25·2 = 1.5;  A_0 = 1 + 0.25·1.5 = 1.375;  returns are A + V
    credit = gae(
        torch.tensor([[1.0, 2.0, 4.0]]),
        torch.tensor([[1.0, 2.0, 2.0]]),
        torch.ones(1, 3, dtype=torch.bool),
        0.5,
        0.5,
    )
    assert credit.advantages.tolist() == [[1.375, 1.5, 2.0]]
    assert credit.returns.tolist() == [[2.375, 3.5, 4.0]]


@given(seeds, discounts, discounts)
def test_gae_equals_the_weighted_average_of_n_step_advantages(seed: int, gamma: float, gae_lambda: float) -> None:
    batch = draw(seed)
    credit = gae(batch["rewards"], batch["values"], batch["mask"], gamma, gae_lambda)
    for row, length in enumerate((5, 3, 1)):
        expected = slow_gae(
            batch["rewards"][row, :length].tolist(), batch["values"][row, :length].tolist(), gamma, gae_lambda
        )
        assert credit.advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-9)
        assert credit.advantages[row, length:].tolist() == [0.0] * (5 - length)


@given(seeds, discounts)
def test_gae_with_lambda_one_equals_monte_carlo_return(seed: int, gamma: float) -> None:
    batch = draw(seed)
    returns = gae(batch["rewards"], batch["values"], batch["mask"], gamma, 1.0).returns
    for row, length in enumerate((5, 3, 1)):
        for t in range(length):
            discounted = sum(gamma**k * r for k, r in enumerate(batch["rewards"][row, t:length].tolist()))
            assert returns[row, t].item() == pytest.approx(discounted, abs=1e-9)


@given(seeds)
def test_gae_with_lambda_zero_is_the_one_step_difference(seed: int) -> None:
    batch = draw(seed, (4,))
    advantages = gae(batch["rewards"], batch["values"], batch["mask"], 1.0, 0.0).advantages
    following = torch.cat([batch["values"][:, 1:], torch.zeros(1, 1)], dim=1)
    torch.testing.assert_close(advantages, batch["rewards"] + following - batch["values"])


@given(seeds, st.integers(1, 4), st.sampled_from([0.0, 1e6, float("nan")]))
def test_padding_changes_nothing(seed: int, padding: int, filler: float) -> None:
    batch = draw(seed)

    def advantages(batch: dict[str, Tensor]) -> Tensor:
        args = (batch["log_probs"], batch["ref_log_probs"], batch["mask"], 0.1)
        rewards = gae(shaped_rewards(batch["scores"], *args).values, batch["values"], batch["mask"], 1.0, 0.95)
        costs = gae(shaped_costs(batch["costs"], *args).values, batch["cost_values"], batch["mask"], 1.0, 0.95)
        return mix(rewards.advantages, costs.advantages, 0.7)

    wider = {
        name: torch.cat(
            [x, torch.full((3, padding), False if x.dtype == torch.bool else filler, dtype=x.dtype)], dim=1
        )
        for name, x in batch.items()
        if x.ndim == 2
    }
    padded = advantages({**batch, **wider})
    assert torch.equal(padded[:, :5], advantages(batch))
    assert torch.equal(padded[:, 5:], torch.zeros(3, padding, dtype=torch.float64))


@given(seeds, st.floats(0, 50), st.floats(0, 1), discounts, discounts)
def test_the_kl_part_of_the_mixed_advantage_is_the_same_for_every_lambda(
    seed: int, lam: float, kl_coef: float, gamma: float, gae_lambda: float
) -> None:
    batch = draw(seed)

    def mixed(kl_coef: float) -> Tensor:
        args = (batch["log_probs"], batch["ref_log_probs"], batch["mask"], kl_coef)
        rewards = shaped_rewards(batch["scores"], *args)
        costs = shaped_costs(batch["costs"], *args)
        assert rewards.clamped_share == costs.clamped_share == 0
        reward_advantages = gae(rewards.values, batch["values"], batch["mask"], gamma, gae_lambda).advantages
        cost_advantages = gae(costs.values, batch["cost_values"], batch["mask"], gamma, gae_lambda).advantages
        return mix(reward_advantages, cost_advantages, lam)

    # What KL adds to the mix is what it alone would add as a reward of −κ·kl per token, with no λ in it.
    penalty = -kl_coef * kl_estimate(batch["log_probs"], batch["ref_log_probs"])
    alone = gae(penalty, torch.zeros_like(penalty), batch["mask"], gamma, gae_lambda).advantages
    torch.testing.assert_close(mixed(kl_coef) - mixed(0.0), alone, atol=1e-9, rtol=1e-9)


def test_the_kl_split_depends_on_lambda_once_something_is_clamped() -> None:
    # κ·kl = 60 with no scores: r̂ = −50, ĉ = +50 leaves −50 for every λ; with c = −20, ĉ = 40 is not
    # clamped any more.
    mask = torch.ones(1, 1, dtype=torch.bool)
    args = (torch.tensor([[60.0]]), torch.zeros(1, 1), mask, 1.0)
    rewards, costs = shaped_rewards(torch.zeros(1), *args), shaped_costs(torch.tensor([-20.0]), *args)
    assert (rewards.clamped_share.item(), costs.clamped_share.item()) == (1.0, 0.0)
    # λ = 1: (−50 − 40)/2 = −45, where unclamped it is (−60 − 40)/2 = −50.
    assert mix(rewards.values, costs.values, 1.0).item() == -45.0


def test_no_gradient_flows_through_credit() -> None:
    values = torch.ones(1, 2, requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    shaped = shaped_rewards(torch.ones(1), values, torch.zeros(1, 2), mask, 0.1)
    credit = gae(shaped.values, values, mask, 1.0, 0.95)
    assert not any(tensor.requires_grad for tensor in (*shaped, *credit))


def test_standardized_scores_by_hand() -> None:
    # group 1: mean 2, s = √((1 + 1)/1) = √2; group 2: all alike
    found = credit.standardize(torch.tensor([1.0, 3.0, 0.1, 0.1]), 2)
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0, 0.0, 0.0]) / math.sqrt(2))


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_standardized_scores_forget_unit_and_zero(seed: int, unit: float, shift: float) -> None:
    scores = torch.randn(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = credit.standardize(scores, 4)
    torch.testing.assert_close(credit.standardize(unit * scores + shift, 4), found, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.view(3, 4).mean(dim=1), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(found.view(3, 4).std(dim=1), torch.ones(3, dtype=torch.float64))


def test_groups_that_are_all_alike_have_no_advantage_whatever_the_rounding() -> None:
    assert not credit.standardize(torch.tensor([0.1, 0.1, 0.1, 1e8, 1e8, 1e8]), 3).any()
    assert not credit.standardize(torch.tensor([-2.0, -2.000002, 1.5, 1.5000001]), 2).any()
    assert credit.standardize(torch.tensor([-2.0, -2.001, 0.0, 1e-6]), 2).all()


def test_leave_one_out_by_hand() -> None:
    # 1 − (2 + 6)/2; 2 − (1 + 6)/2; 6 − (1 + 2)/2
    torch.testing.assert_close(
        credit.leave_one_out(torch.tensor([1.0, 2.0, 6.0]), 3), torch.tensor([-3.0, -1.5, 4.5])
    )


@pytest.mark.parametrize("compare", [credit.standardize, credit.leave_one_out])
def test_groups_of_one_and_groups_that_do_not_divide_are_refused(compare) -> None:
    for group in (1, 3):
        with pytest.raises(ValueError, match="groups of"):
            compare(torch.zeros(4), group)
