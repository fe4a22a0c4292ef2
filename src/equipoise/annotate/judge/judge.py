"""Who judges, what comes of it for one item, and how pairwise answers become a ranking.

Each question is asked apart, each pair in both orders. Left out: how a model is asked (`model`), `scores`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple, Protocol

from equipoise.annotate.judge.parser import Choice, Reason, Unscored
from equipoise.annotate.labels import Draft, Item, Label, Question, RankQuestion
from equipoise.records import Verdict

Pair = tuple[int, int]
"""Positions of two responses in an item, the smaller first."""


class Heard(NamedTuple):
    """One answer: the positions shown, in that order, and what it says of them."""

    question: Question
    shown: tuple[int, ...]
    value: Verdict | Choice | Unscored


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one item; a question that is in neither `verdicts` nor `rankings` stays unlabelled."""

    item: str
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)
    rankings: Mapping[RankQuestion, tuple[int, ...]] = field(default_factory=dict)
    heard: tuple[Heard, ...] = ()
    unranked: Mapping[RankQuestion, Reason] = field(default_factory=dict)

    def labels(self, labeller: str) -> list[Label]:
        """The judgement as labels."""
        return Draft(verdicts=dict(self.verdicts), rankings=dict(self.rankings)).labels(self.item, labeller)


class Judge(Protocol):
    """Sees an item's text alone: the prompt comes without its kind, category, attack and source."""

    def judge(self, item: Item, /) -> Judgement:
        """Answer everything that the item asks.

        Raises:
            NoAnswerError: The judge cannot be reached about this item; asked again later, it goes on from there.
            BudgetError: The next question would exceed the budget.
        """
        ...


def combine_orders(one: Choice | Unscored, other: Choice | Unscored) -> int | Unscored:
    """What a judge says of a pair, asked in both orders.

    Args:
        one: The choice with the pair's first response shown as A.
        other: The choice with the pair's second response shown as A.

    Returns:
        −1 the first is better, 1 the second, 0 a tie: also where the two answers disagree. Unscored if either is.
    """
    if isinstance(one, Unscored):
        return one
    if isinstance(other, Unscored):
        return other
    turned = {"A": 1, "B": -1, "tie": 0}[other]
    straight = {"A": -1, "B": 1, "tie": 0}[one]
    return straight if straight == turned else 0


def rank_pairs(outcomes: Mapping[Pair, int], count: int) -> tuple[int, ...]:
    """Ranks by wins less losses (Copeland 1951), equal ones sharing a rank.

    Without contradictions this is the judge's own order. A cycle is a tie, as far as its members fare alike
    against all others: with a over b, b over c and c over a, all three share a rank.

    Args:
        outcomes: For every pair of positions −1 the first is better, 1 the second, 0 a tie.
        count: K.

    Returns:
        K ranks without gaps, 0 = best.
    """
    score = [0] * count
    for (first, second), outcome in outcomes.items():
        score[first] -= outcome
        score[second] += outcome
    return rank_by(score)


def pairs_of(count: int) -> list[Pair]:
    """All pairs of K positions."""
    return list(combinations(range(count), 2))


def rank_by(values: Sequence[float]) -> tuple[int, ...]:
    """Ranks of numbers without gaps, 0 = the largest, equal ones sharing a rank."""
    places = {value: rank for rank, value in enumerate(sorted(set(values), reverse=True))}
    return tuple(places[value] for value in values)
