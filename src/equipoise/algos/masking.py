"""Which positions count: sums, means and positions under a bool mask.

Masks are made where tokens are made; nothing here guesses one from the values of a tensor.
Letters: B sequences, R response tokens, L prompt and response tokens.
"""

import torch
from torch import Tensor


def last_true(mask: Tensor) -> Tensor:
    """Find the last real position of each sequence: max{t : m_t}.

    Args:
        mask: (B, L) bool, padded on either side.

    Returns:
        (B,) int64 indices into L.

    Raises:
        ValueError: A row has no True; a score would be read at an arbitrary token.
    """
    if not bool(mask.any(dim=-1).all()):
        raise ValueError("a sequence without a single real token has no last position")
    positions = torch.arange(mask.shape[-1], device=mask.device)
    return positions.mul(mask).amax(dim=-1)


def position_ids(mask: Tensor) -> Tensor:
    """Number the real tokens of each sequence 0, 1, 2, … whatever the padding; padding before the first gets 0.

    Args:
        mask: (B, L) bool.

    Returns:
        (B, L) int64.
    """
    return (mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum over the real positions, Σ x·m; what stands elsewhere, NaN included, has no influence.

    Args:
        x: Any shape.
        mask: Bool, same shape.

    Returns:
        0-d.
    """
    return x.masked_fill(~mask, 0.0).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real positions, Σ x·m / Σ m; NaN, not 0, where there is none.

    Args:
        x: Any shape.
        mask: Bool, same shape.

    Returns:
        0-d.
    """
    return masked_sum(x, mask) / mask.sum()


def mean_of_sequences(x: Tensor, mask: Tensor, denominator: float) -> Tensor:
    """Average each sequence over its tokens, then over sequences: Σ_b (Σ_t x·m / Σ_t m) / denominator.

    A short response weighs as much as a long one.

    Args:
        x: (B, R).
        mask: (B, R) bool, at least one True in each row; a row without any gives NaN.
        denominator: Number of sequences in the whole batch, of which these B may be a part.

    Returns:
        0-d.
    """
    per_sequence = x.masked_fill(~mask, 0.0).sum(dim=-1) / mask.sum(dim=-1)
    return per_sequence.sum() / denominator
