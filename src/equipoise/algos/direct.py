"""Losses that train a policy on preferences directly: no reward model, no sampling.

The policy is its own reward model: β·ln(π_θ/π_ref) of a response is its implicit reward, and each loss is a
Bradley–Terry loss on the difference of two of them, β·h. They differ in which response wins and by how much.

h = ln[π_θ/π_ref](winner) − ln[π_θ/π_ref](loser), of whole responses: sums over their tokens, end token included.
Letters: M pairs. Left out: C-DPO and MoCAN, which choose the winner by scores and then are DPO.
"""

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

Rearrangement = Literal["keep", "swap", "drop"]


class DirectStats(NamedTuple):
    """Sums over pairs; implicit accuracy is correct / pairs."""

    pairs: Tensor
    correct: Tensor  # pairs with h > 0; h = 0, as before the first step, is wrong
    margin: Tensor  # Σ β·h
    winners: Tensor  # Σ ln(π_θ/π_ref) of the winners, nats
    losers: Tensor  # Σ ln(π_θ/π_ref) of the losers, nats


def dpo_loss(winners: Tensor, losers: Tensor, beta: float, denominator: float) -> tuple[Tensor, DirectStats]:
    """Make the winner likelier against the reference, and the loser less likely.

    L = Σ −ln σ(β·h) / denominator        (DPO, arXiv 2305.18290, eq. 7)

    Args:
        winners: (M,) float32, ln(π_θ/π_ref) of the preferred response of each pair, in nats.
        losers: (M,) float32, of the other.
        beta: β > 0, the weight of the KL term of the objective whose optimum this is.
        denominator: Number of pairs in the whole batch.

    Returns:
        0-d loss, sums over pairs.
    """
    return _bradley_terry(beta * (winners - losers), winners, losers, beta, denominator)


def safe_dpo_loss(
    winners: Tensor, losers: Tensor, unsafe_gaps: Tensor, beta: float, margin: float, denominator: float
) -> tuple[Tensor, DirectStats]:
    """DPO that asks for more than a lead where a safe response stands against an unsafe one.

    L = Σ −ln σ(β·h − (u_l − u_w)·Δ) / denominator        (SafeDPO, arXiv 2505.20065, eq. 12)

    Sign: Δ > 0 is taken off β·h, so −ln σ falls to ln 2 only when the safe winner leads by Δ, not by 0. Such pairs
    have larger gradients, and have them for longer; pairs of two safe responses are as in DPO.

    Args:
        winners: (M,) float32, ln(π_θ/π_ref) of the preferred response of each pair, after `rearranged`.
        losers: (M,) float32, of the other.
        unsafe_gaps: (M,) float32, u_l − u_w with u = 1 for unsafe and 0 for safe: 0 or 1 after `rearranged`.
        beta: β > 0.
        margin: Δ ≥ 0, in units of the implicit reward.
        denominator: Number of pairs in the whole batch.

    Returns:
        0-d loss, sums over pairs.
    """
    logits = beta * (winners - losers) - margin * unsafe_gaps
    return _bradley_terry(logits, winners, losers, beta, denominator)


def modpo_loss(
    winners: Tensor, losers: Tensor, other_gaps: Tensor, beta: float, weight: float, denominator: float
) -> tuple[Tensor, DirectStats]:
    """DPO for a weighted sum of what the pairs say and what a score model says.

    L = Σ −ln σ( (β·h − w₁·Δ_other) / w₀ ) / denominator,   w₁ = 1 − w₀        (MODPO, arXiv 2310.03708)

    The optimum is that of w₀·r + w₁·r_other − β·KL. A winner that the other objective likes less (Δ_other < 0)
    needs a smaller lead, or none. w₁ = 1 − w₀ is no restriction: multiplying w₀, w₁ and β by one number changes
    nothing.

    Args:
        winners: (M,) float32, ln(π_θ/π_ref) of the preferred response of each pair.
        losers: (M,) float32, of the other.
        other_gaps: (M,) float32, Δ_other = r_other(winner) − r_other(loser); a cost is −r_other.
        beta: β > 0.
        weight: w₀ in (0, 1], the weight of what the pairs say; 1 is DPO.
        denominator: Number of pairs in the whole batch.

    Returns:
        0-d loss, sums over pairs.
    """
    logits = (beta * (winners - losers) - (1.0 - weight) * other_gaps) / weight
    return _bradley_terry(logits, winners, losers, beta, denominator)


def rearranged(winner_is_safe: bool, loser_is_safe: bool) -> Rearrangement:
    """What SafeDPO does with a helpfulness pair: an unsafe response never wins.

    | winner | loser  | the pair |
    |--------|--------|----------|
    | safe   | any    | stays    |
    | unsafe | safe   | is swapped: the safe response wins |
    | unsafe | unsafe | is dropped |

    Args:
        winner_is_safe: Whether the more helpful response is labelled safe.
        loser_is_safe: Whether the other one is.
    """
    if winner_is_safe:
        return "keep"
    return "swap" if loser_is_safe else "drop"


def _bradley_terry(
    logits: Tensor, winners: Tensor, losers: Tensor, beta: float, denominator: float
) -> tuple[Tensor, DirectStats]:
    winners, losers = winners.detach(), losers.detach()
    lead = winners - losers
    stats = DirectStats(
        lead.new_tensor(lead.numel()), (lead > 0).sum(), beta * lead.sum(), winners.sum(), losers.sum()
    )
    return -F.logsigmoid(logits).sum() / denominator, stats
