"""How far labellers agree: raw agreement of pairs of labellers, and Krippendorff's α. No store, no files."""

from collections import Counter
from collections.abc import Iterable, Sequence

import evalica
import numpy as np
import pandas as pd

from equipoise.records import Record


class Raw(Record):
    """Share of agreeing pairs of labellers; `value` is None where there was no pair."""

    value: float | None
    n: int


class Agreement(Record):
    """Agreement on one question; `alpha` is None where it is undefined: no overlap, or one outcome throughout."""

    raw: Raw
    alpha: float | None


def compare_ranks(ranks: Sequence[int], first: int, second: int) -> int:
    """Which of two ranked responses is better: −1 the first, 1 the second, 0 a tie."""
    return (ranks[first] > ranks[second]) - (ranks[first] < ranks[second])


def measure_agreement(units: Iterable[Sequence[int]]) -> Agreement:
    """Raw agreement and α over units that several labellers judged.

        raw = Σ_u Σ_v n_uv·(n_uv − 1) / Σ_u n_u·(n_u − 1);    α = 1 − D_o / D_e, nominal

    Args:
        units: Per unit (a pair of responses, or one response) the outcomes, one per labeller; a tie is an
            outcome like the others. Units with fewer than two outcomes say nothing and are passed over.

    Returns:
        Raw agreement with n = number of pairs of labellers over all units, and α (Krippendorff 2018, ch. 12).
    """
    judged = [list(outcomes) for outcomes in units if len(outcomes) > 1]
    pairs = sum(len(outcomes) * (len(outcomes) - 1) // 2 for outcomes in judged)
    agreeing = sum(n * (n - 1) // 2 for outcomes in judged for n in Counter(outcomes).values())
    value = agreeing / pairs if pairs else None
    return Agreement(raw=Raw(value=value, n=pairs), alpha=_krippendorff_alpha(judged))


def _krippendorff_alpha(units: Sequence[Sequence[int]]) -> float | None:
    """α does not depend on who said what, so the outcomes of a unit fill a column from the top."""
    if not units:
        return None
    ratings = np.full((max(map(len, units)), len(units)), np.nan)
    for column, outcomes in enumerate(units):
        ratings[: len(outcomes), column] = outcomes
    result = evalica.alpha(pd.DataFrame(ratings), "nominal")
    return float(result.alpha) if result.expected > 0 else None
