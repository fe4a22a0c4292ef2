"""Bringing the scores of a published or own model to a common scale; off by default.

A reward may be shifted and scaled. A cost may only be scaled: its zero is the boundary between safe and unsafe,
and the constraint is stated against it.
"""

from dataclasses import dataclass

from torch import Tensor

from equipoise.errors import ModelError


@dataclass(frozen=True)
class Normalizer:
    """Mean μ and standard deviation σ of a model's raw scores, and whether to use them."""

    on: bool = False
    mean: float = 0.0
    std: float = 1.0


def normalize_rewards(rewards: Tensor, normalizer: Normalizer) -> Tensor:
    """Shift and scale rewards, (r − μ) / σ, where the normalizer is on, else leave them; any shape."""
    return (rewards - normalizer.mean) / normalizer.std if normalizer.on else rewards


def normalize_costs(costs: Tensor, normalizer: Normalizer) -> Tensor:
    """Scale costs, c / σ, where the normalizer is on, else leave them; any shape, and no sign ever changes."""
    return costs / normalizer.std if normalizer.on else costs


def measure(scores: Tensor) -> Normalizer:
    """The normalizer of some raw scores (N,), switched on.

    Raises:
        ModelError: Fewer than two scores, or no spread between them.
    """
    std = float(scores.float().std()) if scores.numel() > 1 else 0.0
    if not std > 0.0:
        raise ModelError(
            "Scores without spread cannot be normalized.",
            why=f"{scores.numel()} score(s), standard deviation {std}.",
            fix="Measure on more responses, or leave normalization off.",
        )
    return Normalizer(True, float(scores.float().mean()), std)
