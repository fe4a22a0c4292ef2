"""Losses of the networks that are trained in the RL and SFT loops: actor, critics, supervised targets.

The sum of actor and PTX loss, clipping of gradients and the optimizer step are the loop's.
Letters: B sequences, R response tokens, L prompt and response tokens.
Source: PPO, arXiv 1707.06347, eq. 7; Safe RLHF, arXiv 2310.12773, in the form of its code: the mixed
advantage is clipped, not reward and cost apart. Truncated weights: IMPALA, arXiv 1802.01561, section 4.
"""

from typing import NamedTuple

from torch import Tensor

from equipoise.algos.masking import masked_sum, mean_of_sequences


class ActorStats(NamedTuple):
    """Sums over real tokens."""

    tokens: Tensor
    clipped: Tensor  # tokens on the flat branch, which gives no gradient
    ratio: Tensor  # Σ ρ
    approx_kl: Tensor  # Σ (ρ − 1 − ln ρ) ≥ 0, an estimate of KL(π_old ‖ π_θ) in nats


class ValueStats(NamedTuple):
    """Sums over real tokens."""

    tokens: Tensor
    clipped: Tensor  # tokens whose clipped error is the larger
    squared_error: Tensor  # Σ (V − ret)², unclipped


class SamplerStats(NamedTuple):
    """Sums over real tokens."""

    tokens: Tensor
    distance: Tensor  # Σ |ln π_old − ln π_sampler|, nats
    truncated: Tensor  # tokens whose weight would be above the ceiling


class SftStats(NamedTuple):
    """Sums over target tokens; perplexity is exp(nll / tokens)."""

    tokens: Tensor
    nll: Tensor  # nats


def actor_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_ratio: float,
    denominator: float,
) -> tuple[Tensor, ActorStats]:
    """Raise the probability of tokens with positive advantage, no further than a ratio of 1 ± ε.

    L = −Σ_seq mean_tokens min(A·ρ, A·clip(ρ, 1 ± ε)) / denominator,   ρ = π_θ/π_old

    Args:
        log_probs: (B, R) of the actor, with gradient.
        old_log_probs: (B, R) at sampling, from the same processed logits.
        advantages: (B, R), already mixed.
        mask: (B, R) bool, end token included.
        clip_ratio: ε > 0.
        denominator: Number of sequences in the whole batch.

    Returns:
        0-d loss, sums over tokens.
    """
    log_ratio = (log_probs - old_log_probs).masked_fill(~mask, 0.0)
    ratio = log_ratio.exp()
    free = advantages * ratio
    bounded = advantages * ratio.clamp(1.0 - clip_ratio, 1.0 + clip_ratio)
    loss = -mean_of_sequences(free.minimum(bounded), mask, denominator)
    free, bounded, ratio, log_ratio = free.detach(), bounded.detach(), ratio.detach(), log_ratio.detach()
    return loss, ActorStats(
        tokens=mask.sum(),
        clipped=((bounded < free) & mask).sum(),
        ratio=masked_sum(ratio, mask),
        approx_kl=masked_sum(ratio - 1.0 - log_ratio, mask),
    )


def kl_loss(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, denominator: float) -> Tensor:
    """Hold the policy near its reference in the loss, where rewards are standardised and cannot carry it.

    L = Σ_seq mean_tokens (ρ − 1 − ln ρ) / denominator,   ρ = π_ref/π_θ: an estimate of KL(π_θ ‖ π_ref)

    Args:
        log_probs: (B, R) of the actor, with gradient.
        ref_log_probs: (B, R) of the frozen reference.
        mask: (B, R) bool.
        denominator: Number of sequences in the whole batch.

    Returns:
        0-d loss, before it is multiplied by κ. Source: GRPO, arXiv 2402.03300, eq. 4.
    """
    log_ratio = (ref_log_probs - log_probs).masked_fill(~mask, 0.0)
    return mean_of_sequences(log_ratio.exp() - 1.0 - log_ratio, mask, denominator)


def sampler_weights(
    old_log_probs: Tensor, sampler_log_probs: Tensor, mask: Tensor, ceiling: float
) -> tuple[Tensor, SamplerStats]:
    """Weigh tokens that were drawn by something that is not quite the old policy, so that sums are as under it.

    w_t = min(π_old(a_t)/π_sampler(a_t), C)

    As w ≥ 0, w·min(A·ρ, A·clip(ρ)) = min(wA·ρ, wA·clip(ρ)): the weights multiply the advantages of `actor_loss`.
    The ceiling bounds the variance; what it cuts off is a bias, and is counted.

    Args:
        old_log_probs: (B, R) of the trained network before the update, without gradient.
        sampler_log_probs: (B, R) of the distribution that the tokens were drawn from.
        mask: (B, R) bool.
        ceiling: C ≥ 1.

    Returns:
        (B, R) weights, 1 on padding; sums over tokens.
    """
    log_ratio = (old_log_probs - sampler_log_probs).masked_fill(~mask, 0.0)
    ratio = log_ratio.exp()
    return ratio.clamp(max=ceiling), SamplerStats(mask.sum(), log_ratio.abs().sum(), (ratio > ceiling).sum())


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    denominator: float,
    clip_range: float = 5.0,
) -> tuple[Tensor, ValueStats]:
    """Fit a critic to its returns, without reward for moving further than the clip range in one update.

    L = ½·Σ_seq mean_tokens max((V − ret)², (clip(V, V_old ± range) − ret)²) / denominator

    Args:
        values: (B, R) of the critic, with gradient.
        old_values: (B, R) at rollout.
        returns: (B, R) from `credit.gae`.
        mask: (B, R) bool.
        denominator: Number of sequences in the whole batch.
        clip_range: > 0, in units of the score.

    Returns:
        0-d loss, sums over tokens.
    """
    bounded = values.clamp(old_values - clip_range, old_values + clip_range)
    free_error = (values - returns).masked_fill(~mask, 0.0).square()
    bounded_error = (bounded - returns).masked_fill(~mask, 0.0).square()
    loss = 0.5 * mean_of_sequences(free_error.maximum(bounded_error), mask, denominator)
    free_error, bounded_error = free_error.detach(), bounded_error.detach()
    return loss, ValueStats(
        tokens=mask.sum(),
        clipped=(bounded_error > free_error).sum(),
        squared_error=free_error.sum(),
    )


def sft_loss(log_probs: Tensor, mask: Tensor, denominator: float) -> tuple[Tensor, SftStats]:
    """Maximise the likelihood of the target tokens: L = −Σ m·ln π_θ(a_t) / denominator.

    Also the PTX term of PPO-Lag. Every token weighs the same, whatever the length of its sequence.

    Args:
        log_probs: (B, L) with gradient.
        mask: (B, L) bool, True on target tokens: the answer and its end token, never prompt or padding.
        denominator: Number of target tokens in the whole batch.

    Returns:
        0-d loss, sums over tokens.
    """
    nll = -masked_sum(log_probs, mask)
    return nll / denominator, SftStats(mask.sum(), nll.detach())
