"""The paper's claims, decided by numbers: reproduced, not reproduced, or cannot tell.

They rest on how policies stand to each other (`studies/relations.py`). That one does not dominate another is shown
only where the other is better in something; where neither is, nothing is shown.
"""

from collections.abc import Mapping, Sequence

from studies.estimates import Contrast
from studies.relations import Outcome, Relation, direction

FAR_LESS = 0.5
"""A gain below this share of another is far less: half, in all words."""


def reaches_beyond(against: Mapping[str, Sequence[Relation]]) -> Outcome:
    """Whether some point is dominated by none of the others.

    Args:
        against: Point → how it stands to each of the others.

    Returns:
        Reproduced if one of the points is better than each of the others in something; not reproduced if each
        point is dominated by some other.
    """
    if any(all(r in ("dominates", "trades off against") for r in found) for found in against.values()):
        return "reproduced"
    if all("is dominated by" in found for found in against.values()):
        return "not reproduced"
    return "cannot tell"


def is_worse(relations: Sequence[Relation]) -> Outcome:
    """Whether a variant is worse than what it is a variant of.

    Args:
        relations: How it stands to the original, at each of the original's settings.

    Returns:
        Reproduced if one setting dominates it; not reproduced if it is better than each in something.
    """
    if "is dominated by" in relations:
        return "reproduced"
    return "cannot tell" if "cannot be told from" in relations else "not reproduced"


def all_dominated(against: Mapping[str, Sequence[Relation]]) -> Outcome:
    """Whether each point is dominated by some of the others: `reaches_beyond` denied."""
    denied: dict[Outcome, Outcome] = {"reproduced": "not reproduced", "not reproduced": "reproduced"}
    return denied.get(reaches_beyond(against), "cannot tell")


def gains_far_less(gain: Contrast, shortfall: Contrast) -> Outcome:
    """Whether one gain is below `FAR_LESS` of another.

    Args:
        gain: The other gain; there must be one.
        shortfall: `FAR_LESS` times the other gain, less the first.
    """
    if direction(gain, gain.p) != 1:
        return "cannot tell"
    decided = direction(shortfall, shortfall.p)
    return "reproduced" if decided == 1 else "not reproduced" if decided == -1 else "cannot tell"
