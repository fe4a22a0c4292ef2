"""`annotate import`: files become items of a project, and the labels in them become its outsiders' labels.

Everything is checked before anything is written, and written together or not at all. Importing a file twice
changes nothing. What cannot be used is named with file and line; what is understood but left out is counted; the
rest goes in. Only a file that is of no use at all is refused.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pydantic import JsonValue

from equipoise.annotate.files.contents import Answer, Contents, Entry, reorder
from equipoise.annotate.files.mapping import FileMap, read_mapping
from equipoise.annotate.files.read import read_contents
from equipoise.annotate.labels import Draft, Item, Question
from equipoise.annotate.simulate import group_responses
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.history import add_imported, add_outsiders, answers
from equipoise.annotate.store.journal import record
from equipoise.annotate.store.project import open_project, settings
from equipoise.data.jsonl import RowProblem
from equipoise.records import Prompt, Record, RequestKind, Response

SHOWN_PROBLEMS = 20
Place = tuple[str, frozenset[str], tuple[Question, ...]]
"""What items share that ask the same of the same responses: prompt, responses in any order, questions."""


class FileSummary(Record):
    """What became of one file.

    `items` counts those that are new, `known_items` those that were there; `labels` are new answers by one
    labeller to one item, `known_labels` those that were there with the same value. `left_out` says what was
    understood and not taken, by reason.
    """

    path: str
    format: str
    rows: int
    items: int
    known_items: int
    labels: int
    known_labels: int
    labellers: tuple[str, ...]
    empty_responses: int
    left_out: dict[str, int]
    problems: tuple[str, ...]


@dataclass
class _Plan:
    """What is to be written for one file, and what was found to be there."""

    contents: Contents
    items: list[Item] = field(default_factory=list)
    labels: list[tuple[Item, Answer, int]] = field(default_factory=list)
    known_items: int = 0
    known_labels: int = 0


class _Shelf:
    """The project's items and answers, with those that this import adds."""

    def __init__(self, store: Store) -> None:
        self.items: dict[Place, list[Item]] = {}
        for item in store.items():
            self.items.setdefault(_place(item), []).append(item)
        self.answers = answers(store)
        self.used: set[tuple[str, str]] = set()

    def put(self, plan: _Plan, entry: Entry) -> None:
        """Find the item that an entry is, or add it; then each of its answers.

        An answer by somebody who answered the same item in another row, or in a file of another source, is a
        judgement of its own, as when two models gave the same response: it goes to the item's next repeat.
        """
        shelf = self.items.setdefault(_place(entry.item), [])
        item = next((one for one in shelf if self._takes(one, entry)), None)
        if item is None:
            item = _repeated(entry.item, len(shelf))
            shelf.append(item)
            plan.items.append(item)
        else:
            plan.known_items += 1
        for answer in (reorder(one, entry.item.responses, item.responses) for one in entry.answers):
            self._answer(plan, entry.line, item, answer)

    def _takes(self, item: Item, entry: Entry) -> bool:
        keys = [(item.id, answer.labeller) for answer in entry.answers]
        if any(key in self.used for key in keys):
            return False
        return item.source == entry.item.source or not any(key in self.answers for key in keys)

    def _answer(self, plan: _Plan, line: int, item: Item, answer: Answer) -> None:
        key, new = (
            (item.id, answer.labeller),
            Draft(verdicts=dict(answer.verdicts), rankings=dict(answer.rankings)),
        )
        self.used.add(key)
        old = self.answers.setdefault(key, new)
        if old is new:
            plan.labels.append((item, answer, line))
        elif old.is_same(new):
            plan.known_labels += 1
        else:
            reason = f"labeller {answer.labeller!r} has answered this item otherwise; the first answer stays"
            plan.contents.problems.append(RowProblem(plan.contents.path, line, reason))


def import_files(
    project: Path,
    files: Sequence[Path],
    *,
    mapping: Path | None = None,
    labels_as: str | None = None,
    prefix: str = "",
    kind: RequestKind | None = None,
    now: float | None = None,
    by: str = "",
) -> list[FileSummary]:
    """Import files into a project.

    Args:
        project: The project's directory.
        files: Any of the formats of docs/labelling-reference.md. Responses to one prompt are put together from
            all files.
        mapping: A TOML file that says what another tool's fields and questions are called.
        labels_as: Whose labels those are that come without a name; None leaves them out and counts them.
        prefix: Put before the names in the files.
        kind: What the prompts ask for that do not say it themselves; responses to harmful ones are blurred.
        now: Seconds since 1970; the clock's unless given.
        by: Who imports, for the journal; empty: the command line.

    Returns:
        What became of each file.

    Raises:
        StoreError: There is no project, or a name in a file is that of somebody who works in it.
        DataError: A file is of no use: missing, broken as a whole, in no known format, without anything to label.
        ConfigError: The mapping is wrong.
        ArtefactError: A run directory is unfinished.
    """
    names = read_mapping(mapping) if mapping else FileMap()
    contents = [_with_prefix(read_contents(path, names, labels_as), prefix) for path in files]
    if kind is not None:
        for one in contents:
            _say_kind(one, kind)
    now = time.time() if now is None else now
    with open_project(project) as store, store.transaction():
        _group(contents, settings(store).config.responses_per_item)
        shelf = _Shelf(store)
        plans = [_Plan(one) for one in contents]
        for plan in plans:
            for entry in plan.contents.entries:
                shelf.put(plan, entry)
            _write(store, plan, now)
        summaries = [_summarise(plan) for plan in plans]
        for path, summary in zip(files, summaries, strict=True):
            detail = {**summary.model_dump(mode="json"), "sha256": _digest(path)}
            record(store, by, "import", cast("dict[str, JsonValue]", detail), now)
    return summaries


def render(summaries: Sequence[FileSummary]) -> str:
    """The summaries as text for the console."""
    lines = []
    for one in summaries:
        lines.append(f"{one.path}: {one.format}, {one.rows} rows")
        lines.append(f"  {one.items} items added, {one.known_items} were there")
        if one.labellers:
            who = ", ".join(one.labellers[:10]) + (" …" if len(one.labellers) > 10 else "")
            lines.append(f"  {one.labels} answers added, {one.known_labels} were there, of {who}")
        lines.append(f"  {one.empty_responses} empty responses")
        lines += [f"  left out: {count} {reason}" for reason, count in one.left_out.items()]
        if one.problems:
            lines.append(f"  {len(one.problems)} could not be used:")
            lines += [f"    {problem}" for problem in one.problems[:SHOWN_PROBLEMS]]
        if len(one.problems) > SHOWN_PROBLEMS:
            lines.append(f"    … and {len(one.problems) - SHOWN_PROBLEMS} more, in the audit log")
    return "\n".join(lines)


def _group(contents: Sequence[Contents], most: int) -> None:
    """Make items of the responses of all files; they count for the file that answered the prompt first."""
    first: dict[str, Contents] = {}
    responses: list[Response] = []
    for one in contents:
        for response in one.responses:
            first.setdefault(response.prompt.id, one)
        responses += one.responses
    for item in group_responses(responses, most, single_share=0, seed=0):
        first[item.prompt.id].entries.append(Entry(0, item))


def _write(store: Store, plan: _Plan, now: float) -> None:
    add_outsiders(store, sorted({answer.labeller for _, answer, _ in plan.labels}))
    store.add_items(plan.items)
    for item, answer, line in plan.labels:
        draft = Draft(verdicts=dict(answer.verdicts), rankings=dict(answer.rankings))
        origin = f"{Path(plan.contents.path).name}:{line}"
        add_imported(store, item, draft.labels(item.id, answer.labeller), origin, answer.at, now)


def _summarise(plan: _Plan) -> FileSummary:
    contents = plan.contents
    texts = [text for entry in contents.entries for text in entry.item.responses]
    return FileSummary(
        path=contents.path,
        format=contents.format,
        rows=contents.rows,
        items=len(plan.items),
        known_items=plan.known_items,
        labels=len(plan.labels),
        known_labels=plan.known_labels,
        labellers=tuple(sorted({a.labeller for entry in contents.entries for a in entry.answers})),
        empty_responses=sum(not text.strip() for text in texts),
        left_out={reason: count for reason, count in contents.left_out.items() if count},
        problems=tuple(map(str, contents.problems)),
    )


def _with_prefix(contents: Contents, prefix: str) -> Contents:
    if prefix:
        contents.entries = [
            entry._replace(answers=tuple(a._replace(labeller=prefix + a.labeller) for a in entry.answers))
            for entry in contents.entries
        ]
    return contents


def _say_kind(contents: Contents, kind: RequestKind) -> None:
    """Set what the prompts ask for where it is unknown; ids do not depend on it."""

    def said(prompt: Prompt) -> Prompt:
        return prompt if prompt.kind else prompt.model_copy(update={"kind": kind})

    contents.responses = [one.model_copy(update={"prompt": said(one.prompt)}) for one in contents.responses]
    contents.entries = [
        one._replace(item=one.item.model_copy(update={"prompt": said(one.item.prompt)}))
        for one in contents.entries
    ]


def _repeated(item: Item, repeat: int) -> Item:
    """The item as its n-th repeat; made anew, for a copy would keep the id."""
    return Item(
        prompt=item.prompt,
        responses=item.responses,
        questions=item.questions,
        source=item.source,
        repeat=repeat,
    )


def _place(item: Item) -> Place:
    return item.prompt.id, frozenset(item.responses), item.questions


def _digest(path: Path) -> str:
    if path.is_dir():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
