"""How far labellers agree: raw agreement, Krippendorff's α and Gwet's AC1, each with its n. No store, no files.

The measures take units (what was judged) with one outcome per labeller; below them are the questions that a lead
asks of ballots: agreement per question, per category and per pair of labellers.
pandas and evalica are imported where α is computed: a server that shows no numbers yet does not pay for them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise.annotate.ballots import Ballots
from equipoise.records import REFUSALS, Record, Verdict

Floats = npt.NDArray[np.float64]
AgreementQuestion = Literal["helpfulness", "harmlessness", "single_dimension", "safety", "refusal"]
Votes = Mapping[Any, Mapping[str, int]]
"""Unit → labeller → outcome."""

OUTCOMES: dict[AgreementQuestion, tuple[int, ...]] = {
    "helpfulness": (-1, 0, 1),
    "harmlessness": (-1, 0, 1),
    "single_dimension": (-1, 0, 1),
    "safety": (0, 1),
    "refusal": (0, 1, 2),
}
"""What a labeller could have answered; AC1 counts answers that nobody gave, too."""
RESAMPLES = 2000
TAIL = 0.025


class Raw(Record):
    """Share of agreeing pairs of labellers; `value` is None where there was no pair."""

    value: float | None
    n: int


class Interval(Record):
    """The ends of a 95 % interval."""

    low: float
    high: float


class Agreement(Record):
    """Agreement on one question.

    `raw.n` counts pairs of labellers, `units` what at least two of them judged. `alpha` is None where it is
    undefined: no overlap, or one outcome throughout; `ac1` where there is no overlap. An interval is None where
    its measure is, or where there is one unit only.
    """

    raw: Raw
    alpha: float | None
    alpha_interval: Interval | None = None
    ac1: float | None = None
    ac1_interval: Interval | None = None
    units: int | None = None


class _Table(NamedTuple):
    """Units that look alike, together: how many labellers gave each outcome, and how many such units there are."""

    counts: Floats  # (P, Q)
    frequency: Floats  # (P,)


def measure_agreement(units: Iterable[Sequence[int]], outcomes: Sequence[int] = ()) -> Agreement:
    """Raw agreement, α and AC1 over units that several labellers judged.

        raw = Σ_u Σ_v n_uv·(n_uv − 1) / Σ_u n_u·(n_u − 1);    α = 1 − D_o / D_e, nominal

    Args:
        units: Per unit (a pair of responses, or one response) the outcomes, one per labeller; a tie is an outcome
            like the others. Units with one outcome bear on AC1's chance agreement alone.
        outcomes: All that a labeller could have answered; what was answered is added.

    Returns:
        Raw agreement with n = number of pairs of labellers over all units; α (Krippendorff 2018, ch. 12), its
        interval from the 2.5 and 97.5 % points of 2,000 bootstrap resamples of the units; AC1 (see `gwet_ac1`).
    """
    rated = [list(unit) for unit in units if len(unit) > 0]
    judged = [unit for unit in rated if len(unit) > 1]
    pairs = sum(len(unit) * (len(unit) - 1) // 2 for unit in judged)
    agreeing = sum(n * (n - 1) // 2 for unit in judged for n in Counter(unit).values())
    raw = Raw(value=agreeing / pairs if pairs else None, n=pairs)
    if not judged:
        return Agreement(raw=raw, alpha=None, units=0)
    values = sorted({*outcomes, *(outcome for unit in rated for outcome in unit)})
    alpha = krippendorff_alpha(judged)
    ac1, ac1_interval = gwet_ac1(*_tabulate(rated, values))
    return Agreement(
        raw=raw,
        alpha=alpha,
        alpha_interval=None if alpha is None else _alpha_interval(_tabulate(judged, values)),
        ac1=ac1,
        ac1_interval=ac1_interval,
        units=len(judged),
    )


def krippendorff_alpha(units: Sequence[Sequence[int]]) -> float | None:
    """Nominal α of units with at least two outcomes each; None where there was one outcome throughout.

    It does not depend on who said what, so the outcomes of a unit fill a column from the top.
    """
    import evalica
    import pandas as pd

    ratings = np.full((max(map(len, units)), len(units)), np.nan)
    for column, outcomes in enumerate(units):
        ratings[: len(outcomes), column] = outcomes
    result = evalica.alpha(pd.DataFrame(ratings), "nominal")
    return float(result.alpha) if result.expected > 0 else None


def gwet_ac1(counts: Floats, frequency: Floats) -> tuple[float | None, Interval | None]:
    """Gwet's AC1, which stays meaningful where nearly all answers are the same, and its interval.

        AC1 = (p_a − p_e) / (1 − p_e),    p_e = Σ_k π_k·(1 − π_k) / (Q − 1)
        p_a = mean_u Σ_k n_uk·(n_uk − 1) / (n_u·(n_u − 1)) over units of at least two labellers
        π_k = mean_u n_uk / n_u over all units

    Args:
        counts: (P, Q) labellers per unit and outcome, at least one each; one row for all units that look alike.
        frequency: (P,) how many units look so.

    Returns:
        AC1 (None where Q is 1 or no unit has two labellers), and AC1 ± t·√variance with units as the sample, its
        upper end at most 1 (Gwet 2008, and Handbook of Inter-Rater Reliability, 4th ed., ch. 5); None where there
        is one unit only.
    """
    n_u, total = counts.sum(axis=1), frequency.sum()
    several = n_u > 1
    compared = frequency[several].sum()
    outcomes = counts.shape[1]
    if outcomes < 2 or compared == 0:
        return None, None
    agreed = (counts * (counts - 1)).sum(axis=1) / np.where(several, n_u * (n_u - 1), 1.0)
    shares = counts / n_u[:, None]
    pi = frequency @ shares / total
    chance = float((pi * (1 - pi)).sum()) / (outcomes - 1)  # at most 1/Q, so 1 − chance > 0
    ac1 = float((frequency @ agreed / compared - chance) / (1 - chance))
    if total < 2:
        return ac1, None
    from scipy.special import stdtrit

    own_chance = shares @ (1 - pi) / (outcomes - 1)
    own = np.where(several, total / compared * (agreed - chance), 0.0) - 2 * (1 - ac1) * (own_chance - chance)
    variance = float(frequency @ (own / (1 - chance) - ac1) ** 2) / (total * (total - 1))
    half = float(stdtrit(total - 1, 1 - TAIL)) * float(np.sqrt(variance))
    return ac1, Interval(low=ac1 - half, high=min(1.0, ac1 + half))


def _alpha_interval(table: _Table) -> Interval | None:
    """Percentile bootstrap over units: α = 1 − (n − 1)·Σ_u d_u / (n² − Σ_k n_k²), n_k labels of outcome k.

    d_u = Σ_k n_uk·(n_u − n_uk) / (n_u − 1). Resamples in which all outcomes are the same have no α and no vote.
    """
    units = int(table.frequency.sum())
    if units < 2:
        return None
    n_u = table.counts.sum(axis=1, keepdims=True)
    disagreement = (table.counts * (n_u - table.counts)).sum(axis=1, keepdims=True) / (n_u - 1)
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(units, table.frequency / units, RESAMPLES).astype(float)  # (B, P)
    sums = drawn @ np.hstack([disagreement, table.counts])
    n = sums[:, 1:].sum(axis=1)
    expected = n**2 - (sums[:, 1:] ** 2).sum(axis=1)
    defined = expected > 0
    alphas = 1 - (n[defined] - 1) * sums[defined, 0] / expected[defined]
    low, high = np.quantile(alphas, [TAIL, 1 - TAIL]) if defined.any() else (np.nan, np.nan)
    return Interval(low=float(low), high=float(high)) if defined.any() else None


def _tabulate(units: Sequence[Sequence[int]], values: Sequence[int]) -> _Table:
    alike = Counter(tuple(unit.count(value) for value in values) for unit in units)
    return _Table(np.array([*alike], dtype=float), np.array([*alike.values()], dtype=float))


def agreements(ballots: Ballots) -> dict[AgreementQuestion, Agreement]:
    """Labellers' agreement on each question, `refusal` only where it was asked.

    Units are pairs of responses; for safety and refusal, single responses.
    """
    asked: list[AgreementQuestion] = ["helpfulness", "harmlessness", "single_dimension", "safety"]
    asked += ["refusal"] if ballots.refusals else []
    return {question: _measure(votes_on(ballots, question), OUTCOMES[question]) for question in asked}


def votes_on(ballots: Ballots, question: AgreementQuestion) -> Votes:
    """Every vote on a question as a number; unscored safety verdicts are none."""
    match question:
        case "safety":
            return _scored(ballots, lambda verdict: int(bool(verdict.is_safe)))
        case "refusal":
            return {
                key: {name: REFUSALS.index(refusal) for name, refusal in votes.items()}
                for key, votes in ballots.refusals.items()
            }
        case "single_dimension":
            return ballots.rankings["single"]
        case _:
            return ballots.rankings[question]


def category_agreements(ballots: Ballots) -> dict[str, Agreement]:
    """Category → agreement on whether a response violates it; units are responses with scored verdicts.

    Only categories that somebody named, in alphabetical order: on others all agree.
    """
    named = {c for votes in ballots.safety.values() for verdict in votes.values() for c in verdict.categories}

    def votes_on_category(category: str) -> Votes:
        return _scored(ballots, lambda verdict: int(category in verdict.categories))

    return {category: _measure(votes_on_category(category), (0, 1)) for category in sorted(named)}


def labeller_agreements(ballots: Ballots, question: AgreementQuestion) -> dict[tuple[str, str], Agreement]:
    """Pair of labellers, in alphabetical order → their agreement, where they judged something in common."""
    shared: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for votes in votes_on(ballots, question).values():
        for one, other in combinations(sorted(votes), 2):
            shared.setdefault((one, other), []).append((votes[one], votes[other]))
    return {pair: measure_agreement(shared[pair], OUTCOMES[question]) for pair in sorted(shared)}


def _measure(votes: Votes, outcomes: Sequence[int]) -> Agreement:
    return measure_agreement(([*unit.values()] for unit in votes.values()), outcomes)


def _scored(ballots: Ballots, outcome: Callable[[Verdict], int]) -> Votes:
    return {
        key: {name: outcome(verdict) for name, verdict in votes.items() if verdict.is_safe is not None}
        for key, votes in ballots.safety.items()
    }
