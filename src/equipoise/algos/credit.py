"""From one score per response to one advantage per token: KL shaping, and estimation with a critic or without.

Reward and cost go through the same functions, each with its own critic; only the sign of the KL term differs.
Mixing the two is `lagrange.mix`. Advantages are constants to the losses, so no gradient flows through here.
Letters: B sequences, R response tokens. Positions: index t of values belongs to the position before token t, and
the end token is an action inside the mask. Masks are True from t = 0 to the end of the response.
Source: Safe RLHF, arXiv 2310.12773; GAE, arXiv 1506.02438, eq. 16. Of groups: G responses to one prompt, which
stand together in a batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.algos.masking import last_true, masked_mean


class Shaped(NamedTuple):
    """Per-token rewards or costs, and how much of them the clamp touched."""

    values: Tensor  # (B, R), 0 outside the mask
    clamped_share: Tensor  # 0-d, share of real tokens outside ±limit before the clamp


class Credit(NamedTuple):
    """What each token is worth; both are 0 outside the mask."""

    advantages: Tensor  # (B, R)
    returns: Tensor  # (B, R), the critic's target A + V


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Estimate KL(π_old ‖ π_ref) per token by its one-sample form: ln π_old(a_t) − ln π_ref(a_t).

    Args:
        log_probs: (B, R) of the policy that sampled, in nats.
        ref_log_probs: (B, R) of the frozen reference.

    Returns:
        (B, R) in nats; a single token's may be negative.
    """
    return log_probs - ref_log_probs


def penalize_unfinished(rewards: Tensor, finished: Tensor, penalty: float) -> Tensor:
    """Take the penalty off the reward of every response that was cut at the limit: r − penalty·1[unfinished].

    Args:
        rewards: (B,).
        finished: (B,) bool, True where the policy itself wrote the end token.
        penalty: ≥ 0, in units of reward.

    Returns:
        (B,).
    """
    return rewards - penalty * (~finished).to(rewards.dtype)


def shaped_rewards(
    scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, kl_coef: float, limit: float = 50.0
) -> Shaped:
    """Spread a reward over its tokens: r̂_t = clamp(−κ·kl_t + 1[t = end]·r, ±limit).

    Args:
        scores: (B,) reward of each response.
        log_probs: (B, R) of the policy that sampled.
        ref_log_probs: (B, R) of the reference.
        mask: (B, R) bool.
        kl_coef: κ ≥ 0, half the paper's β.
        limit: Bound on |r̂_t|, in units of reward.

    Returns:
        (B, R) rewards per token and the clamped share.

    Raises:
        ValueError: A response has no token.
    """
    return _shape(scores, -kl_coef * kl_estimate(log_probs, ref_log_probs), mask, limit)


def shaped_costs(
    scores: Tensor, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, kl_coef: float, limit: float = 50.0
) -> Shaped:
    """Spread a cost over its tokens: ĉ_t = clamp(+κ·kl_t + 1[t = end]·c, ±limit).

    The KL term has the opposite sign of that in `shaped_rewards`: costs enter the mix as −λ·A_C, so the strength
    of the KL penalty in (A_R − λ·A_C)/(1 + λ) is κ for every λ while nothing is clamped.

    Args:
        scores: (B,) cost of each response; > 0 is unsafe.
        log_probs: (B, R) of the policy that sampled.
        ref_log_probs: (B, R) of the reference.
        mask: (B, R) bool.
        kl_coef: κ ≥ 0, the same as for rewards.
        limit: Bound on |ĉ_t|, in units of cost.

    Returns:
        (B, R) costs per token and the clamped share.

    Raises:
        ValueError: A response has no token.
    """
    return _shape(scores, kl_coef * kl_estimate(log_probs, ref_log_probs), mask, limit)


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Credit:
    """Estimate advantages by exponentially weighted temporal differences, without whitening.

    δ_t = r_t + γ·V_{t+1} − V_t;   A_t = δ_t + γ·λ_GAE·A_{t+1};   ret_t = A_t + V_t;   V = A = 0 after the end

    Args:
        rewards: (B, R) per token; shaped rewards or shaped costs.
        values: (B, R) of the matching critic.
        mask: (B, R) bool.
        gamma: γ in [0, 1].
        gae_lambda: λ_GAE in [0, 1]; 1 is the Monte-Carlo return, 0 the one-step difference.

    Returns:
        (B, R) advantages and (B, R) returns.
    """
    rewards, values = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    columns: list[Tensor] = []
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = delta + gamma * gae_lambda * next_advantage
        next_value = values[:, t]
        columns.append(next_advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    return Credit(advantages, advantages + values)


def standardize(scores: Tensor, group: int) -> Tensor:
    """Compare each response with the others to its prompt: (x − mean)/s, and 0 where a group is all alike.

    Alike are scores that differ by no more than rounding: a model gives the same response another last digit in
    another batch, and divided by its own deviation that digit would weigh as much as a real difference.

    Args:
        scores: (B,) rewards or costs; each stream goes through here before the two are mixed.
        group: G ≥ 2; s is the deviation of a sample of G.

    Returns:
        (B,), a mean of 0 and a deviation of 1 in each group that is not all alike.

    Raises:
        ValueError: G is below 2, or does not divide B.

    Source: GRPO, arXiv 2402.03300; signal by signal: Constrained GRPO, arXiv 2602.05863.
    """
    groups = _groups(scores, group)
    centered = groups - groups.mean(dim=1, keepdim=True)
    rounding = 64 * torch.finfo(groups.dtype).eps * groups.abs().amax(dim=1, keepdim=True)
    alike = groups.amax(dim=1, keepdim=True) - groups.amin(dim=1, keepdim=True) <= rounding
    return (centered / groups.std(dim=1, keepdim=True)).masked_fill(alike, 0.0).flatten()


def leave_one_out(returns: Tensor, group: int) -> Tensor:
    """Compare each response with the mean of the others to its prompt: x_i − Σ_{j≠i} x_j/(G − 1).

    Args:
        returns: (B,) sums of shaped rewards or costs.
        group: G ≥ 2.

    Returns:
        (B,).

    Raises:
        ValueError: As in `standardize`.

    Source: RLOO, arXiv 2402.14740.
    """
    groups = _groups(returns, group)
    return (groups - (groups.sum(dim=1, keepdim=True) - groups) / (group - 1)).flatten()


def _groups(x: Tensor, group: int) -> Tensor:
    if group < 2 or x.numel() % group:
        raise ValueError(f"{x.numel()} responses are no groups of {group}, each of at least 2")
    return x.view(-1, group)


@torch.no_grad()
def _shape(scores: Tensor, kl_term: Tensor, mask: Tensor, limit: float) -> Shaped:
    at_end = torch.arange(mask.shape[1], device=mask.device) == last_true(mask).unsqueeze(1)  # (B, R)
    values = kl_term.masked_fill(~mask, 0.0) + at_end * scores.unsqueeze(1)
    return Shaped(values.clamp(-limit, limit), masked_mean((values.abs() > limit).float(), mask))
