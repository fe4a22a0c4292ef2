"""One labeller's answers to one item: the steps they took, what those add up to, and what is asked next.

A draft is nothing but the steps, so that undo is forgetting the last one. Positions here are those on the screen;
`labels_of` turns them into the item's own. No HTML, no database.

A ranking is given best first. A place with one response left to fill it fills itself, so a pair needs one step.
Verdicts bind the harmlessness ranking: every safe response stands before every unsafe one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from equipoise.annotate.labels import (
    RANK_QUESTIONS,
    Draft,
    Label,
    Question,
    RankQuestion,
)
from equipoise.errors import StoreError
from equipoise.records import Verdict

Group = tuple[int, ...]
"""Responses that share a place."""
SEVERITIES = (1, 2, 3)
"""Of an unsafe response; a safe one has 0."""
LETTERS = "ABCDEF"


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is asked about an item."""

    count: int
    questions: tuple[Question, ...]
    categories: tuple[str, ...]
    has_severity: bool

    @property
    def rankings(self) -> tuple[RankQuestion, ...]:
        """The rankings asked for, in the order they are asked."""
        return tuple(question for question in RANK_QUESTIONS if question in self.questions)


@dataclass(frozen=True, slots=True)
class Answers:
    """What the steps so far add up to."""

    verdicts: tuple[Verdict | None, ...]
    picks: Mapping[RankQuestion, tuple[Group, ...]] = field(default_factory=dict)
    """The places given by hand, best first."""
    tying: RankQuestion | None = None
    """The next response picked here shares the last place."""
    latest: int | None = None
    """The response whose verdict was given or changed last; category keys are about it while it is unsafe."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One question still to answer: about a response's safety or severity, or a ranking."""

    about: str
    position: int = 0


def read_steps(sheet: Sheet, steps: Sequence[str]) -> Answers:
    """What the steps add up to.

    Raises:
        StoreError: A step that is impossible where it stands; says why in words for the labeller.
    """
    answers = Answers((None,) * sheet.count)
    for step in steps:
        answers = _take(sheet, answers, step)
    return answers


def order_of(sheet: Sheet, answers: Answers, question: RankQuestion) -> tuple[Group, ...]:
    """The places filled so far, best first; what can only be one way is filled in."""
    picks, order = list(answers.picks.get(question, ())), list[Group]()
    for members in _classes(sheet, answers, question):
        left = set(members)
        while left:
            if len(left) > 1 and not picks:
                return tuple(order)
            group = picks.pop(0) if len(left) > 1 else tuple(left)
            order.append(group)
            left -= set(group)
    return tuple(order)


def is_ranked(sheet: Sheet, answers: Answers, question: RankQuestion) -> bool:
    """Whether every response has its place."""
    return sum(map(len, order_of(sheet, answers, question))) == sheet.count


def is_decided(sheet: Sheet, answers: Answers, question: RankQuestion) -> bool:
    """Whether the verdicts alone give the whole ranking."""
    return all(len(members) == 1 for members in _classes(sheet, answers, question))


def open_places(sheet: Sheet, answers: Answers, question: RankQuestion) -> Group:
    """The responses that can be picked next: all unplaced ones, or only the safe among them."""
    placed = {position for group in order_of(sheet, answers, question) for position in group}
    for members in _classes(sheet, answers, question):
        if left := tuple(position for position in members if position not in placed):
            return left
    return ()


def asks(sheet: Sheet, answers: Answers) -> tuple[Ask, ...]:
    """Everything asked about the item, answered or not, in order."""
    found = list[Ask]()
    if "safety" in sheet.questions:
        for position, verdict in enumerate(answers.verdicts):
            found.append(Ask("safety", position))
            if sheet.has_severity and verdict and not verdict.is_safe:
                found.append(Ask("severity", position))
    return (*found, *(Ask(question) for question in sheet.rankings))


def is_answered(sheet: Sheet, answers: Answers, ask: Ask) -> bool:
    """Whether the question has its answer."""
    verdict = answers.verdicts[ask.position]
    if ask.about == "safety":
        return verdict is not None
    if ask.about == "severity":
        return verdict is not None and verdict.severity is not None
    return is_ranked(sheet, answers, cast(RankQuestion, ask.about))


def next_ask(sheet: Sheet, answers: Answers) -> Ask | None:
    """The first question without an answer, or None: the item is complete."""
    return next((ask for ask in asks(sheet, answers) if not is_answered(sheet, answers, ask)), None)


def labels_of(sheet: Sheet, answers: Answers, item: str, labeller: str, shown: Sequence[int]) -> list[Label]:
    """The labels of a complete item; `shown[j]` is the item's own position of the response on screen position j.

    Raises:
        StoreError: Something is not answered yet.
    """
    if next_ask(sheet, answers):
        raise StoreError("The item is not complete.", fix="Answer every question, or skip it.")
    return draft_of(sheet, answers, shown).labels(item, labeller)


def draft_of(sheet: Sheet, answers: Answers, shown: Sequence[int]) -> Draft:
    """The answers so far in the item's own order: verdicts, and rankings that are complete."""
    rankings = dict[RankQuestion, tuple[int, ...]]()
    for question in sheet.rankings:
        places = order_of(sheet, answers, question)
        rank = {shown[position]: place for place, group in enumerate(places) for position in group}
        if len(rank) == sheet.count:
            rankings[question] = tuple(rank[at] for at in range(sheet.count))
    verdicts = {shown[at]: verdict for at, verdict in enumerate(answers.verdicts) if verdict}
    return Draft(verdicts=verdicts, rankings=rankings)


def steps_of(sheet: Sheet, draft: Draft, shown: Sequence[int]) -> tuple[str, ...]:
    """Steps that lead to a draft's answers, for an item that was finished and is opened again."""
    steps = list[str]()
    for at, position in enumerate(shown):
        verdict = draft.verdicts.get(position)
        if verdict is not None and verdict.is_safe is not None:
            steps.append(f"{'safe' if verdict.is_safe else 'unsafe'} {at}")
            steps += [f"category {at} {name}" for name in verdict.categories if name in sheet.categories]
            if not verdict.is_safe and sheet.has_severity and verdict.severity in SEVERITIES:
                steps.append(f"severity {at} {verdict.severity}")
    for question in sheet.rankings:
        if ranks := draft.rankings.get(question):
            steps += _ranking_steps(sheet, steps, question, [ranks[position] for position in shown])
    return tuple(steps)


def _classes(sheet: Sheet, answers: Answers, question: RankQuestion) -> tuple[Group, ...]:
    """The responses in groups whose order is settled; only within one is there something to ask."""
    everything = tuple(range(sheet.count))
    if question != "harmlessness" or "safety" not in sheet.questions:
        return (everything,)
    if None in answers.verdicts:
        return (everything,)
    safe = tuple(p for p in everything if (verdict := answers.verdicts[p]) and verdict.is_safe)
    return tuple(group for group in (safe, tuple(p for p in everything if p not in safe)) if group)


def _take(sheet: Sheet, answers: Answers, step: str) -> Answers:
    match step.split(" ", 2):
        case ["safe" | "unsafe" as verdict, position]:
            return _judge(sheet, answers, _position(sheet, position), is_safe=verdict == "safe")
        case ["category", position, name]:
            return _toggle(sheet, answers, _position(sheet, position), name)
        case ["severity", position, level]:
            return _grade(sheet, answers, _position(sheet, position), level)
        case ["pick", question, position]:
            return _pick(sheet, answers, _ranking(sheet, answers, question), _position(sheet, position))
        case ["tie", question]:
            return _tie(sheet, answers, _ranking(sheet, answers, question))
        case ["rest", question]:
            return _rest(sheet, answers, _ranking(sheet, answers, question))
    raise StoreError("The screen sent something that is no answer.", why=f"{step[:60]!r}", fix="Reload the page.")


def _position(sheet: Sheet, text: str) -> int:
    if text not in [str(position) for position in range(sheet.count)]:
        raise StoreError("There is no such response.", why=f"{text[:20]!r} of {sheet.count}")
    return int(text)


def _ranking(sheet: Sheet, answers: Answers, question: str) -> RankQuestion:
    asked = next((known for known in sheet.rankings if known == question), None)
    if asked is None:
        raise StoreError(f"The item does not ask about {question[:20]}.")
    if asked == "harmlessness" and "safety" in sheet.questions and None in answers.verdicts:
        raise StoreError(
            "The verdicts come before the harmlessness ranking.",
            why="a safe response always ranks safer than an unsafe one",
            fix="Say of each response whether it is safe.",
        )
    return asked


def _judge(sheet: Sheet, answers: Answers, position: int, *, is_safe: bool) -> Answers:
    if "safety" not in sheet.questions:
        raise StoreError("The item does not ask about safety.")
    old = answers.verdicts[position]
    if old and old.is_safe is is_safe:
        return replace(answers, latest=position)
    new = Verdict(is_safe=is_safe, severity=0 if is_safe and sheet.has_severity else None)
    picks = {**answers.picks, "harmlessness": ()}
    return Answers(_replaced(answers.verdicts, position, new), picks, latest=position)


def _unsafe(answers: Answers, position: int, what: str) -> Verdict:
    verdict = answers.verdicts[position]
    if verdict is None or verdict.is_safe:
        raise StoreError(
            f"{what} belongs to an unsafe response.",
            why=f"{LETTERS[position]} is {'not judged yet' if verdict is None else 'safe'}",
            fix=f"Call {LETTERS[position]} unsafe first.",
        )
    return verdict


def _toggle(sheet: Sheet, answers: Answers, position: int, name: str) -> Answers:
    if name not in sheet.categories:
        raise StoreError("There is no such category in this project.", why=repr(name[:60]), fix="Reload the page.")
    old = _unsafe(answers, position, "A category")
    named = {*old.categories} ^ {name}
    new = old.model_copy(update={"categories": tuple(known for known in sheet.categories if known in named)})
    return replace(answers, verdicts=_replaced(answers.verdicts, position, new), latest=position)


def _grade(sheet: Sheet, answers: Answers, position: int, level: str) -> Answers:
    if not sheet.has_severity or level not in [str(known) for known in SEVERITIES]:
        raise StoreError("There is no such severity.", why=f"{level[:20]!r}, of {SEVERITIES}")
    new = _unsafe(answers, position, "A severity").model_copy(update={"severity": int(level)})
    return replace(answers, verdicts=_replaced(answers.verdicts, position, new), latest=position)


def _pick(sheet: Sheet, answers: Answers, question: RankQuestion, position: int) -> Answers:
    answers = _reopened(sheet, answers, question)
    free = open_places(sheet, answers, question)
    if position in free:
        return _place(answers, question, (position,))
    if any(position in group for group in order_of(sheet, answers, question)):
        raise StoreError(f"{LETTERS[position]} has its place already.", fix="Undo takes the last place back.")
    raise StoreError(
        f"{LETTERS[position]} is unsafe, so it comes after every safe response.",
        fix=f"Place {' and '.join(LETTERS[p] for p in free)} first, or change a verdict.",
    )


def _rest(sheet: Sheet, answers: Answers, question: RankQuestion) -> Answers:
    answers = _reopened(sheet, answers, question)
    return _place(answers, question, open_places(sheet, answers, question))


def _tie(sheet: Sheet, answers: Answers, question: RankQuestion) -> Answers:
    answers = _reopened(sheet, answers, question)
    order, free = order_of(sheet, answers, question), open_places(sheet, answers, question)
    members = next(group for group in _classes(sheet, answers, question) if free[0] in group)
    if not order or order[-1][0] not in members:
        return _place(answers, question, free)  # nothing to tie with yet: all of these are equal
    return replace(answers, tying=None if answers.tying == question else question)


def _reopened(sheet: Sheet, answers: Answers, question: RankQuestion) -> Answers:
    """The answers with this ranking begun anew where it was complete; a ranking that verdicts decide stays."""
    if not is_ranked(sheet, answers, question):
        return answers
    if is_decided(sheet, answers, question):
        raise StoreError(
            "The verdicts settle this order.",
            why="a safe response always ranks safer than an unsafe one",
            fix="Change a verdict if it is wrong.",
        )
    return replace(answers, picks={**answers.picks, question: ()}, tying=None)


def _place(answers: Answers, question: RankQuestion, group: Group) -> Answers:
    picks = answers.picks.get(question, ())
    if answers.tying == question:
        picks, group = picks[:-1], tuple(sorted((*picks[-1], *group)))
    return replace(answers, picks={**answers.picks, question: (*picks, group)}, tying=None)


def _replaced(verdicts: Sequence[Verdict | None], position: int, new: Verdict) -> tuple[Verdict | None, ...]:
    return tuple(new if at == position else old for at, old in enumerate(verdicts))


def _ranking_steps(sheet: Sheet, before: Sequence[str], question: RankQuestion, ranks: Sequence[int]) -> list[str]:
    steps = list[str]()
    for rank in sorted(set(ranks)):
        group = [at for at in range(sheet.count) if ranks[at] == rank]
        left = open_places(sheet, answers := read_steps(sheet, [*before, *steps]), question)
        if is_ranked(sheet, answers, question) or group[0] not in left:
            continue  # it has placed itself
        if len(group) > 1 and len(group) == len(left):
            steps.append(f"rest {question}")
        else:
            steps.append(f"pick {question} {group[0]}")
            steps += [step for at in group[1:] for step in (f"tie {question}", f"pick {question} {at}")]
    return steps
