"""What a file to be imported holds, whatever its format: items, and the labels that people gave them elsewhere."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from equipoise.annotate.labels import (
    DECOUPLED,
    RANK_QUESTIONS,
    Item,
    Question,
    RankQuestion,
    check_harmlessness,
    check_item,
    check_ranks,
    check_verdict,
)
from equipoise.data.jsonl import RowProblem
from equipoise.errors import EquipoiseError
from equipoise.records import Prompt, Response, Verdict


class Answer(NamedTuple):
    """What one labeller said about an item; `at` in seconds since 1970, where the file says it."""

    labeller: str
    verdicts: Mapping[int, Verdict]
    rankings: Mapping[RankQuestion, tuple[int, ...]]
    at: float | None = None


class Entry(NamedTuple):
    """One item with its answers, and the line of the file that it begins on."""

    line: int
    item: Item
    answers: tuple[Answer, ...] = ()


@dataclass
class Contents:
    """What was read from one file.

    `responses` are grouped into items when all files are read. `left_out` counts, by reason, what was understood
    and not taken; `problems` are rows, or one labeller's answers in a row, that were not understood.
    """

    path: str
    format: str
    rows: int = 0
    entries: list[Entry] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """Of the file: the set that its items belong to."""
        return Path(self.path).name

    def attempt(self, line: int, make: Callable[[], Entry | None]) -> None:
        """Add what `make` returns, or the reason why it raised."""
        try:
            entry = make()
        except EquipoiseError as error:
            self.problems.append(RowProblem(self.path, line, " ".join([error.what, error.why]).strip()))
        else:
            self.entries += [] if entry is None else [entry]


def make_item(prompt: Prompt, responses: Iterable[str], source: str, answers: Iterable[Answer] = ()) -> Item:
    """An item that asks what its answers answer, or, without answers, everything that can be asked.

    Raises:
        StoreError: Nobody could answer it: no response, too many, or the same one twice.
    """
    texts, given = tuple(responses), list(answers)
    questions: tuple[Question, ...] = DECOUPLED if len(texts) > 1 else ("safety",)
    if given:
        questions = questions_of(given)
    item = Item(prompt=prompt, responses=texts, questions=questions, source=source)
    check_item(item)
    return item


def questions_of(answers: Iterable[Answer]) -> tuple[Question, ...]:
    """The questions that at least one of the answers answers."""
    given = list(answers)
    verdicts = [verdict for one in given for verdict in one.verdicts.values()]
    asked: list[Question] = []
    if any(verdict.refusal is None for verdict in verdicts):
        asked.append("safety")
    if any(verdict.refusal is not None for verdict in verdicts):
        asked.append("refusal")
    return (*asked, *(question for question in RANK_QUESTIONS if any(question in one.rankings for one in given)))


def check_answer(item: Item, answer: Answer) -> None:
    """Refuse an answer that a labeller could not have given on the screen.

    Raises:
        StoreError: A verdict or ranking of the wrong shape, or one that contradicts another.
    """
    where = f"labeller {answer.labeller!r}"
    count = len(item.responses)
    for position, verdict in answer.verdicts.items():
        check_verdict(verdict, position, count, where=where)
    for ranks in answer.rankings.values():
        check_ranks(ranks, count, where=where)
    if "harmlessness" in answer.rankings:
        is_safe = {position: verdict.is_safe for position, verdict in answer.verdicts.items()}
        check_harmlessness(is_safe, answer.rankings["harmlessness"], where=where)


def reorder(answer: Answer, old: Sequence[str], new: Sequence[str]) -> Answer:
    """The same answer about the same responses in another order."""
    if tuple(old) == tuple(new):
        return answer
    places = [old.index(text) for text in new]
    return answer._replace(
        verdicts={at: answer.verdicts[place] for at, place in enumerate(places) if place in answer.verdicts},
        rankings={q: tuple(ranks[place] for place in places) for q, ranks in answer.rankings.items()},
    )
