"""All votes of one or several projects, by what they are about: agreement and labels come from them.

A labeller has one vote per response and per pair of responses: asked in several items or projects, the latest. An
item that repeats another (`Item.repeat`) is a vote of its own. What a lead has ruled stands beside the votes.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from equipoise.annotate.labels import (
    RANK_QUESTIONS,
    Draft,
    Item,
    RankingLabel,
    RankQuestion,
    VerdictLabel,
    compare_ranks,
)
from equipoise.annotate.store.core import LabellerKind, Store
from equipoise.annotate.store.rulings import adjudications
from equipoise.records import Prompt, Refusal, Verdict


class ResponseKey(NamedTuple):
    """One response to one prompt, wherever it was labelled."""

    prompt: str
    text: str
    repeat: int = 0


class PairKey(NamedTuple):
    """Two responses to one prompt, in the order in which they first appeared together."""

    prompt: str
    first: str
    second: str
    repeat: int = 0


@dataclass
class Ballots:
    """Votes by what they are about, then by labeller. Outcomes: −1 first better, 0 tie, 1 second better.

    `items` says which items a response or pair was labelled in, oldest first.
    """

    prompts: dict[str, Prompt] = field(default_factory=dict)
    sources: dict[ResponseKey | PairKey, str] = field(default_factory=dict)
    items: dict[ResponseKey | PairKey, list[str]] = field(default_factory=dict)
    safety: dict[ResponseKey, dict[str, Verdict]] = field(default_factory=dict)
    refusals: dict[ResponseKey, dict[str, Refusal]] = field(default_factory=dict)
    rankings: dict[RankQuestion, dict[PairKey, dict[str, int]]] = field(
        default_factory=lambda: {question: {} for question in RANK_QUESTIONS}
    )
    safety_rulings: dict[ResponseKey, Verdict] = field(default_factory=dict)
    pair_rulings: dict[RankQuestion, dict[PairKey, int]] = field(
        default_factory=lambda: {question: {} for question in RANK_QUESTIONS}
    )


class _Place(NamedTuple):
    """A pair of an item, with the positions of its first and second response."""

    pair: PairKey
    first: int
    second: int


def count_in(ballots: Ballots, store: Store, kinds: Collection[LabellerKind] | None = None) -> None:
    """Add a project's labels to the ballots; a labeller's later vote on the same thing replaces the earlier.

    Args:
        ballots: What there is so far.
        store: The project.
        kinds: Whose labels count; None: everybody's.
    """
    items = {item.id: item for item in store.items()}
    pairs = {item.id: list(_open_ballots(item, ballots)) for item in items.values()}
    voters = {name for name, kind in store.labellers().items() if kinds is None or kind in kinds}
    for label in store.verdicts():
        if label.labeller in voters:
            _count_verdict(ballots, items[label.item], label)
    for ranking in store.rankings():
        if ranking.labeller in voters:
            _count_ranking(ballots, pairs[ranking.item], ranking)
    for item, ruling in adjudications(store).items():
        _count_ruling(ballots, items[item], pairs[item], ruling)


def _count_verdict(ballots: Ballots, item: Item, label: VerdictLabel) -> None:
    response = ResponseKey(item.prompt.id, item.responses[label.position], item.repeat)
    if "safety" in item.questions:
        ballots.safety[response][label.labeller] = label.verdict
    if "refusal" in item.questions and label.verdict.refusal is not None:
        ballots.refusals[response][label.labeller] = label.verdict.refusal


def _count_ruling(ballots: Ballots, item: Item, pairs: list[_Place], ruling: Draft) -> None:
    for position, verdict in ruling.verdicts.items():
        ballots.safety_rulings[ResponseKey(item.prompt.id, item.responses[position], item.repeat)] = verdict
    for question, ranks in ruling.rankings.items():
        for pair, first, second in pairs:
            ballots.pair_rulings[question][pair] = compare_ranks(ranks, first, second)


def _count_ranking(ballots: Ballots, pairs: list[_Place], ranking: RankingLabel) -> None:
    for pair, first, second in pairs:
        ballots.rankings[ranking.question][pair][ranking.labeller] = compare_ranks(ranking.ranks, first, second)


def _open_ballots(item: Item, ballots: Ballots) -> Iterator[_Place]:
    """Open the ballots for what an item asks; yields its pairs, none where it asks for no ranking."""
    prompt = ballots.prompts.setdefault(item.prompt.id, item.prompt).id
    for text in item.responses:
        key = ResponseKey(prompt, text, item.repeat)
        _note(ballots, key, item)
        if "safety" in item.questions:
            ballots.safety.setdefault(key, {})
        if "refusal" in item.questions:
            ballots.refusals.setdefault(key, {})
    for one, other in combinations(range(len(item.responses)), 2) if item.rank_questions else ():
        pair = PairKey(prompt, item.responses[one], item.responses[other], item.repeat)
        turned = PairKey(prompt, pair.second, pair.first, item.repeat)
        if turned in ballots.sources:
            pair, one, other = turned, other, one
        _note(ballots, pair, item)
        for question in item.rank_questions:
            ballots.rankings[question].setdefault(pair, {})
        yield _Place(pair, one, other)


def _note(ballots: Ballots, key: ResponseKey | PairKey, item: Item) -> None:
    ballots.sources.setdefault(key, item.source)
    ballots.items.setdefault(key, []).append(item.id)
