"""Several sources in stated shares."""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import Field

from equipoise.data.source import DataSource
from equipoise.errors import DataError

T = TypeVar("T")


class WeightedSource(DataSource):
    """A source with its share of a mixture; shares are relative to their sum."""

    weight: float = Field(1.0, gt=0, description="Share of the mixture, relative to the other sources.")


def load_mixture(
    sources: Sequence[WeightedSource], load_one: Callable[[DataSource], Sequence[T]], size: int, seed: int
) -> list[T]:
    """Load every source with one of the `load_…` functions and mix what they hold by weight."""
    parts = [load_one(source) for source in sources]
    return mix(parts, [source.weight for source in sources], size, random.Random(seed))


def mix(parts: Sequence[Sequence[T]], weights: Sequence[float], size: int, rng: random.Random) -> list[T]:
    """`size` items drawn from the parts in proportion to the weights, shuffled.

    A part gives each of its items once before it gives any twice. Shares are rounded by largest remainder.

    Raises:
        DataError: A part with a weight is empty, or weights and parts do not match.
    """
    if len(parts) != len(weights) or not parts or min(weights) < 0 or sum(weights) <= 0:
        raise DataError(f"A mixture of {len(parts)} part(s) has the weights {list(weights)}.")
    mixed: list[T] = []
    for number, (part, count) in enumerate(zip(parts, allot(weights, size), strict=True)):
        if count and not part:
            raise DataError(f"Part {number} of the mixture is empty.", fix="Leave it out, or weight it 0.")
        while count > 0:
            mixed += rng.sample(part, min(count, len(part)))
            count -= len(part)
    rng.shuffle(mixed)
    return mixed


def allot(weights: Sequence[float], size: int) -> list[int]:
    """Whole numbers that add up to `size` in proportion to the weights, by largest remainder."""
    exact = [weight * size / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: size - sum(counts)]:
        counts[i] += 1
    return counts
