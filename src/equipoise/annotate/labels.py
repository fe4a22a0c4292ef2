"""What a labelling project consists of: items, assignments and labels, and what makes one of them impossible.

An item is a prompt with the responses that are judged together. Stage 1 asks `safety` of each response by
itself; stage 2 asks for rankings of all of them, helpfulness (ignoring safety) and harmlessness apart. The mixed
`single` question exists to measure how much worse people agree on it, `refusal` (does the response refuse?) for
imported labels of sets that ask it. No SQL here.

Positions and ranks are always in the item's own order, whatever order the labeller saw. Rank 0 is best (the most
helpful, the least harmful); equal ranks are a tie.
"""

import hashlib
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, JsonValue

from equipoise.errors import StoreError
from equipoise.records import Prompt, Record, Verdict

RankQuestion = Literal["helpfulness", "harmlessness", "single"]
Question = Literal["safety", "refusal", "helpfulness", "harmlessness", "single"]
RANK_QUESTIONS: tuple[RankQuestion, ...] = ("helpfulness", "harmlessness", "single")
DECOUPLED: tuple[Question, ...] = ("safety", "helpfulness", "harmlessness")
MOST_RESPONSES = 6


class Item(Record):
    """A prompt with 1 to 6 distinct responses; a single response can only be asked about its safety."""

    prompt: Prompt
    responses: tuple[str, ...]
    questions: tuple[Question, ...] = DECOUPLED
    source: str = ""
    repeat: int = Field(0, ge=0, description="How often these responses were judged before, each time anew.")

    @cached_property
    def id(self) -> str:
        """16 hex digits that depend on the conversation, the responses in their order, and `repeat`."""
        content = json.dumps([self.prompt.id, *self.responses, *([self.repeat] if self.repeat else [])])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def rank_questions(self) -> tuple[RankQuestion, ...]:
        """The rankings it asks for, in the order they are asked."""
        return tuple(question for question in RANK_QUESTIONS if question in self.questions)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One labeller is to answer one item; `shown[j]` is the position of the response shown as the j-th."""

    item: str
    labeller: str
    shown: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VerdictLabel:
    """A labeller's verdict on the response at `position` of an item: its safety, or whether it refuses."""

    item: str
    labeller: str
    position: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class RankingLabel:
    """A labeller's ranking of an item's responses."""

    item: str
    labeller: str
    question: RankQuestion
    ranks: tuple[int, ...]


Label = VerdictLabel | RankingLabel


def question_of(label: Label) -> Question:
    """What the label answers; an unscored verdict is about safety."""
    if isinstance(label, RankingLabel):
        return label.question
    return "safety" if label.verdict.refusal is None else "refusal"


class Draft(Record):
    """A labeller's answers about one item, finished or not, in the item's own order."""

    verdicts: dict[int, Verdict] = Field({}, description="By the response's position.")
    rankings: dict[RankQuestion, tuple[int, ...]] = Field({}, description="Ranks, by question; 0 is best.")
    screen: dict[str, JsonValue] = Field({}, description="What the screen remembers besides; never exported.")

    @classmethod
    def of(cls, labels: Iterable[Label]) -> Self:
        """The answers that the labels of one item and labeller are."""
        verdicts, rankings = dict[int, Verdict](), dict[RankQuestion, tuple[int, ...]]()
        for label in labels:
            if isinstance(label, VerdictLabel):
                verdicts[label.position] = label.verdict
            else:
                rankings[label.question] = label.ranks
        return cls(verdicts=verdicts, rankings=rankings)

    def labels(self, item: str, labeller: str) -> list[Label]:
        """The answers as labels."""
        verdicts = [VerdictLabel(item, labeller, at, verdict) for at, verdict in sorted(self.verdicts.items())]
        asked = [question for question in RANK_QUESTIONS if question in self.rankings]
        return [*verdicts, *(RankingLabel(item, labeller, q, self.rankings[q]) for q in asked)]

    def is_same(self, other: Self) -> bool:
        """Whether both hold the same answers, whatever the screen remembers."""
        return (self.verdicts, self.rankings) == (other.verdicts, other.rankings)


def missing_answers(item: Item, draft: Draft) -> list[str]:
    """What the item asks and the draft leaves open, such as `safety 0` or `helpfulness`."""
    missing = [n for n in range(len(item.responses)) if n not in draft.verdicts]
    verdicts = [f"{q} {n}" for q in ("safety", "refusal") if q in item.questions for n in missing]
    rankings = [q for q in item.rank_questions if q not in draft.rankings]
    return [*verdicts, *rankings]


def check_item(item: Item) -> None:
    """Refuse an item that nobody could answer.

    Raises:
        StoreError: No question, or two that exclude each other; no response or more than six; a ranking of one;
            the same response twice.
    """
    count = len(item.responses)
    where = f"item {item.id}, prompt {item.prompt.text[:60]!r}"
    if not item.questions or len(set(item.questions)) < len(item.questions):
        raise StoreError("An item needs questions, each once.", where=where, why=f"it has {item.questions}")
    if not (2 if item.rank_questions else 1) <= count <= MOST_RESPONSES:
        raise StoreError(
            f"An item of {count} response(s) cannot be labelled.",
            where=where,
            why=f"rankings need 2 to {MOST_RESPONSES} responses; a single one can only be asked about safety",
            fix='Give it more responses, or questions=("safety",).',
        )
    if "refusal" in item.questions and "safety" in item.questions:
        raise StoreError("An item asks about safety or about refusal, not both.", where=where)
    if len(set(item.responses)) < count:
        raise StoreError("An item holds the same response twice.", where=where, fix="Merge equal responses.")


def compare_ranks(ranks: Sequence[int], first: int, second: int) -> int:
    """Which of two ranked responses is better: −1 the first, 1 the second, 0 a tie."""
    return (ranks[first] > ranks[second]) - (ranks[first] < ranks[second])


def check_ranks(ranks: Sequence[int], count: int, *, where: str) -> tuple[int, ...]:
    """The ranks as plain integers.

    Args:
        ranks: One rank per response, 0 = best, ties share a rank.
        count: Number of responses.
        where: Item, labeller and question, for the message.

    Raises:
        StoreError: Not one whole number per response, or none of them is 0, or one is negative.
    """
    try:
        plain = tuple(operator.index(rank) for rank in ranks)
    except TypeError:
        plain = ()
    if len(plain) != count or min(plain) != 0:
        raise StoreError(
            "A ranking has the wrong shape.",
            where=where,
            why=f"{count} responses need {count} whole numbers, the best of them 0; got {ranks!r}",
        )
    return plain


def check_verdict(verdict: Verdict, position: int, count: int, *, where: str) -> None:
    """Refuse a verdict on a response that is not there, or one that calls a response with harm categories safe.

    Raises:
        StoreError: Either of these.
    """
    if not 0 <= position < count:
        raise StoreError("A verdict is about no response.", where=where, why=f"{position} is not below {count}")
    if verdict.is_safe and verdict.categories:
        raise StoreError(
            "A safe response cannot violate a category.", where=where, why=f"it is marked {verdict.categories}"
        )


def check_harmlessness(verdicts: Mapping[int, bool | None], ranks: Sequence[int], *, where: str) -> None:
    """Refuse a harmlessness ranking that contradicts the same labeller's safety verdicts.

    Args:
        verdicts: Position → is it safe; unscored and missing ones bind nothing.
        ranks: Harmlessness ranks, 0 = least harmful.
        where: Item and labeller, for the message.

    Raises:
        StoreError: A response called safe is not ranked strictly less harmful than one called unsafe.
    """
    safe = [position for position, is_safe in verdicts.items() if is_safe is True]
    unsafe = [position for position, is_safe in verdicts.items() if is_safe is False]
    worst_safe = max(safe, key=lambda position: ranks[position], default=None)
    best_unsafe = min(unsafe, key=lambda position: ranks[position], default=None)
    if worst_safe is None or best_unsafe is None or ranks[worst_safe] < ranks[best_unsafe]:
        return
    raise StoreError(
        "The labels contradict each other: a safe response always ranks safer than an unsafe one.",
        where=where,
        why=f"response {worst_safe} is safe with harmlessness rank {ranks[worst_safe]}, "
        f"response {best_unsafe} is unsafe with rank {ranks[best_unsafe]}",
        fix="Change a verdict or the ranking.",
    )
