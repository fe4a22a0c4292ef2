"""Any file that can be imported → its contents: ours and the public sets, Label Studio, Argilla and Potato."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from equipoise.annotate.files import argilla, label_studio, potato
from equipoise.annotate.files.contents import Contents, Entry, check_answer, make_item
from equipoise.annotate.files.known import read_known
from equipoise.annotate.files.mapping import FileMap, Said, take_shown, understand
from equipoise.data.fields import Fields
from equipoise.data.jsonl import Row, RowProblem, read_rows
from equipoise.errors import DataError, EquipoiseError

_HEAD = 20


class Tool(NamedTuple):
    """Another tool's export: how to know one of its rows, and what a row holds."""

    name: str
    matches: Callable[[Fields], bool]
    take: Callable[[Contents, Fields], tuple[Fields, list[Said]]]


TOOLS = (
    Tool("label_studio", label_studio.matches, label_studio.take),
    Tool("argilla", argilla.matches, argilla.take),
)


def read_contents(path: Path, mapping: FileMap, labels_as: str | None) -> Contents:
    """Read a file as far as it can be read.

    Args:
        path: A file, a finished directory, or Potato's folder.
        mapping: How another tool's fields and questions are called.
        labels_as: Whose the labels are that come without a name; None leaves them out.

    Raises:
        DataError: It is missing, broken as a whole, in no known format, or holds nothing that can be labelled.
        ArtefactError: It is a run directory that is not finished.
    """
    if not path.exists():
        raise DataError("There is no such file or directory.", where=str(path), fix="Check the path.")
    if potato.matches(path):
        found = Contents(str(path), "potato")
        for row, said in potato.read_rows_of(path, found, mapping):
            _add(found, row, partial(_as_is, row, said), mapping)
    elif path.is_file() and (tool := _find_tool(path)):
        found = Contents(str(path), tool.name)
        for row in read_rows(path):
            _add(found, row, partial(tool.take, found, row.value), mapping)
    else:
        found = read_known(path, labels_as)
    _refuse_nothing(found)
    return found


def _find_tool(path: Path) -> Tool | None:
    rows: Iterator[Row] = islice(read_rows(path), _HEAD)
    for row in rows:
        if isinstance(row.value, Mapping):
            try:
                return next((tool for tool in TOOLS if tool.matches(row.value)), None)
            except DataError as error:
                raise DataError(error.what, where=f"{path}:{row.line}", fix=error.fix) from None
    return None


def _as_is(row: Row, said: list[Said]) -> tuple[Fields, list[Said]]:
    return row.value, said


def _add(found: Contents, row: Row, take: Callable[[], tuple[Fields, list[Said]]], mapping: FileMap) -> None:
    found.rows += 1

    def entry() -> Entry:
        if row.problem or not isinstance(row.value, Mapping):
            raise DataError(row.problem or f"the row is of type {type(row.value).__name__}, not an object")
        fields, said = take()
        return _entry(found, row.line, fields, said, mapping)

    found.attempt(row.line, entry)


def _entry(found: Contents, line: int, fields: Fields, said: Sequence[Said], mapping: FileMap) -> Entry:
    """An item with the answers that fit; one that does not is a problem of its own, and the others stay."""
    source = Path(found.path).name
    shown = take_shown(fields, mapping, source)
    make_item(shown.prompt, shown.responses, source)
    answers = []
    for one in said:
        try:
            answer, unmapped = understand(one, shown, mapping)
            found.left_out.update(f"answers to `{name}`, which the mapping does not name" for name in unmapped)
            if not answer.verdicts and not answer.rankings:
                continue
            check_answer(make_item(shown.prompt, shown.responses, source, [answer]), answer)
        except EquipoiseError as error:
            reason = f"labeller {one.labeller!r}: {' '.join([error.what, error.why]).strip()}"
            found.problems.append(RowProblem(found.path, line, reason))
        else:
            answers.append(answer)
    return Entry(line, make_item(shown.prompt, shown.responses, source, answers), tuple(answers))


def _refuse_nothing(found: Contents) -> None:
    """Refuse a file in which nothing can be labelled, or none of whose answers was understood.

    Raises:
        DataError: Either; names the first problems, and the tool's questions.
    """
    unmapped = [
        reason for reason in found.left_out if "mapping does not name" in reason and found.left_out[reason]
    ]
    answered = any(entry.answers for entry in found.entries)
    if unmapped and not answered:
        raise DataError(
            "None of the answers in this file was understood.",
            where=found.path,
            why="; ".join(f"{found.left_out[reason]} {reason}" for reason in unmapped[:5]),
            fix="Say in a file for --mapping what each question asks; see docs/annotation.md.",
        )
    if not found.entries and not found.responses:
        raise DataError(
            "The file holds nothing that can be labelled.",
            where=found.path,
            why="; ".join(chain(map(str, found.problems[:5]))) or f"it is read as {found.format}",
            fix="Import responses, pairs, comparisons or labels; `respond` makes responses from prompts.",
        )
