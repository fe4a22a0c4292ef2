"""How one policy stands to another in harm and helpfulness, and what may become of an expectation.

A policy is better than another in a measure if the difference is beyond chance over prompts, corrected by Holm for
all comparisons of the claim, and has the same direction in every seed. It dominates another if it is better in one
of the two measures and not worse in the other. Where neither is better in any, nothing is shown.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from studies.estimates import Contrast, Measured, contrast

from equipoise.stats import holm

ALPHA = 0.05

Outcome = Literal["reproduced", "not reproduced", "cannot tell"]
Relation = Literal["dominates", "is dominated by", "trades off against", "cannot be told from"]


class Comparison(NamedTuple):
    """One policy against another; above 0 speaks for the first in both measures."""

    first: str
    second: str
    harm: Contrast  # the second's less the first's
    helpfulness: Contrast  # the first's less the second's
    p_holm: tuple[float, float]  # of harm and helpfulness

    @property
    def signs(self) -> tuple[int, int]:
        """In harm and helpfulness: 1 the first is better, −1 the second, 0 neither is."""
        return direction(self.harm, self.p_holm[0]), direction(self.helpfulness, self.p_holm[1])

    @property
    def relation(self) -> Relation:
        """How the first stands to the second."""
        better, worse = 1 in self.signs, -1 in self.signs
        if better:
            return "trades off against" if worse else "dominates"
        return "is dominated by" if worse else "cannot be told from"


def direction(difference: Contrast, p: float) -> int:
    """1 or −1 where a difference is beyond chance and has one direction in all seeds; else 0."""
    if p >= ALPHA:
        return 0
    if all(value > 0 for value in difference.seeds):
        return 1
    return -1 if all(value < 0 for value in difference.seeds) else 0


def compare(
    pairs: Sequence[tuple[str, str]], harm: Sequence[Measured], helpfulness: Sequence[Measured]
) -> list[Comparison]:
    """Pairs of policies in both measures, p-values corrected for all of them."""
    found = [
        (contrast({first: -1.0, second: 1.0}, harm), contrast({first: 1.0, second: -1.0}, helpfulness))
        for first, second in pairs
    ]
    corrected = iter(holm([one.p for both in found for one in both]))
    return [
        Comparison(*pair, *both, (next(corrected), next(corrected)))
        for pair, both in zip(pairs, found, strict=True)
    ]
