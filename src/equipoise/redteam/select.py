"""Which hits become prompts: no repeats, the costliest first, every category in turn; no torch."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

from equipoise.data.dedupe import reading_key, unique
from equipoise.records import Prompt
from equipoise.redteam.mutate import Attack, Names

T = TypeVar("T")


class Attempt(Attack):
    """An attack that was tried: the costliest answer it drew, and its cost (> threshold: a hit)."""

    response: str
    cost: float
    is_hit: bool


def choose_hits(attempts: Sequence[Attempt], near_duplicate: float, limit: int | None) -> list[Attempt]:
    """The hits worth keeping, spread over categories.

    Args:
        attempts: Everything that was tried.
        near_duplicate: Of hits with the same wrappers whose seeds resemble each other more than this, or read the
            same, the costliest stays.
        limit: Keep this many at most; None keeps all.
    """
    hits = sorted((a for a in attempts if a.is_hit), key=lambda a: a.cost, reverse=True)
    kept: dict[Names, list[tuple[Attempt, frozenset[tuple[str, str]]]]] = defaultdict(list)
    for hit in unique(hits, lambda a: reading_key(a.prompt)):
        pairs = word_pairs(hit.seed)
        alike = kept[hit.wrappers]
        if all(resemblance(pairs, others) <= near_duplicate for _, others in alike):
            alike.append((hit, pairs))
    chosen = sorted((hit for alike in kept.values() for hit, _ in alike), key=lambda a: a.cost, reverse=True)
    return spread(chosen, lambda a: a.prompt.category)[:limit]


def spread(items: Iterable[T], category: Callable[[T], str | None]) -> list[T]:
    """The items, one of each category in turn; within a category, and of categories, the order stays."""
    groups: dict[str | None, list[T]] = defaultdict(list)
    for item in items:
        groups[category(item)].append(item)
    places = ((place, item) for group in groups.values() for place, item in enumerate(group))
    return [item for _, item in sorted(places, key=lambda pair: pair[0])]


def word_pairs(prompt: Prompt) -> frozenset[tuple[str, str]]:
    """The neighbouring words of a conversation, its beginning and end counted as words."""
    words = " ".join(text for _, text in reading_key(prompt)).split()
    return frozenset(pairwise(["^", *words, "$"]))


def resemblance(one: frozenset[tuple[str, str]], other: frozenset[tuple[str, str]]) -> float:
    """The share of word pairs in common, |A∩B| / |A∪B| (Jaccard), in [0, 1]."""
    return len(one & other) / len(one | other)
