"""What moves a judge besides the responses' quality: the order they are shown in, and their length.

Functions of what was heard about pairs. Left out: people (`card` brings their view of the same pairs).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest, norm

from equipoise.annotate.judge.judge import Heard, combine_orders
from equipoise.annotate.judge.parser import Choice, Unscored
from equipoise.annotate.labels import Item, RankQuestion
from equipoise.records import Record
from equipoise.stats import Z95, Floats, Rate, fit_logistic, has_finite_fit, wilson


class PairHeard(NamedTuple):
    """Both answers about a pair of one item: in `turned` its second response was shown first."""

    item: Item
    first: int
    second: int
    straight: Choice | Unscored
    turned: Choice | Unscored

    @property
    def outcome(self) -> int | None:
        """−1 the first is better, 1 the second, 0 a tie or answers that disagree; None unscored."""
        found = combine_orders(self.straight, self.turned)
        return None if isinstance(found, Unscored) else found

    @property
    def first_shown_wins(self) -> list[bool]:
        """Whether the response shown first won, per answer that names a winner."""
        return [choice == "A" for choice in (self.straight, self.turned) if choice in ("A", "B")]


class OrderLean(Record):
    """How often the response shown first wins, ½ being fair: each pair was asked in both orders.

    `first_wins` is over the pairs with a winner in some answer, each counted once; its interval holds however the
    two answers to a pair hang together. `both_first` and `both_second` are the pairs whose winner depends on the
    order; `p` is the exact two-sided test that both kinds are as frequent, None where there is none of them.
    """

    first_wins: Rate | None
    both_first: int
    both_second: int
    p: float | None


class Slope(Record):
    """Log-odds that the longer response wins, per doubling of its length relative to the other; `p` two-sided."""

    value: float
    low: float
    high: float
    p: float
    n: int


class LengthLean(Record):
    """Whether longer responses win, and whether they still do where people see no difference.

    `longer_wins`: over pairs with a winner and two lengths. `slope`: logistic fit on the log-ratio of lengths.
    `controlled`: the same with people's preference beside it, on pairs that people settled. `at_parity`: the
    chance, by that fit, that the longer wins where people are tied, at the typical ratio of lengths (`low` and
    `high` from the slope's interval). None where the data give no finite value.
    """

    longer_wins: Rate | None
    slope: Slope | None
    controlled: Slope | None
    at_parity: Rate | None


class Compared(NamedTuple):
    """A pair with the judge's outcome and people's: −1 the first, 1 the second, 0 a tie, None not settled."""

    heard: PairHeard
    people: int | None


def pairs_heard(item: Item, heard: Sequence[Heard], question: RankQuestion) -> list[PairHeard]:
    """The answers to one question about an item, pair by pair."""
    choices = {one.shown: one.value for one in heard if one.question == question}
    return [
        PairHeard(item, first, second, straight, turned)
        for (first, second), straight in choices.items()
        if first < second
        and not isinstance(straight, Record)
        and not isinstance(turned := choices[second, first], Record)
    ]


def order_lean(pairs: Sequence[PairHeard]) -> OrderLean:
    """How often the first shown wins; see `OrderLean`."""
    wins = [pair.first_shown_wins for pair in pairs if pair.first_shown_wins]
    shares = [sum(won) / len(won) for won in wins]
    both_first, both_second = shares.count(1.0), shares.count(0.0)
    leaning = both_first + both_second
    return OrderLean(
        first_wins=wilson(sum(shares), len(shares)) if shares else None,
        both_first=both_first,
        both_second=both_second,
        p=float(binomtest(both_first, leaning).pvalue) if leaning else None,
    )


def length_lean(pairs: Sequence[Compared]) -> LengthLean:
    """Whether the longer wins; see `LengthLean`."""
    settled = [(pair, outcome) for pair in pairs if (outcome := pair.heard.outcome) is not None]
    ratios = np.array([_log_ratio(pair.heard) for pair, _ in settled])
    first_better = np.array([(1 - outcome) / 2 for _, outcome in settled])
    people = np.array([np.nan if pair.people is None else -float(pair.people) for pair, _ in settled])
    prompts = [pair.heard.item.prompt.id for pair, _ in settled]
    decided = (first_better != 0.5) & (ratios != 0)
    wins = int(((ratios > 0) == (first_better == 1))[decided].sum())
    known = ~np.isnan(people)
    of = [prompt for prompt, is_known in zip(prompts, known, strict=True) if is_known]
    controlled = _slope(np.column_stack([ratios, people])[known], first_better[known], of)
    return LengthLean(
        longer_wins=wilson(wins, int(decided.sum())) if decided.any() else None,
        slope=_slope(ratios[:, None], first_better, prompts),
        controlled=controlled,
        at_parity=_at_parity(controlled, float(np.abs(ratios[known]).mean())) if controlled else None,
    )


def _log_ratio(pair: PairHeard) -> float:
    """log₂ of the first's length in characters to the second's; one is added, for empty responses."""
    first, second = (len(pair.item.responses[at]) for at in (pair.first, pair.second))
    return float(np.log2((first + 1) / (second + 1)))


def _slope(design: Floats, outcomes: Floats, prompts: Sequence[str]) -> Slope | None:
    """The first coefficient of a logistic fit, errors clustered by prompt; None where there is no finite one."""
    if len(set(prompts)) < 2 or not has_finite_fit(design, outcomes):
        return None
    fit = fit_logistic(design, outcomes, prompts)
    value, error = float(fit.coefficients[0]), float(np.sqrt(fit.covariance[0, 0]))
    p = float(2 * norm.sf(abs(value) / error)) if error > 0 else float(value == 0)
    return Slope(value=value, low=value - Z95 * error, high=value + Z95 * error, p=p, n=len(outcomes))


def _at_parity(slope: Slope, ratio: float) -> Rate:
    value, low, high = (float(expit(end * ratio)) for end in (slope.value, slope.low, slope.high))
    return Rate(value=value, low=low, high=high, n=slope.n)
