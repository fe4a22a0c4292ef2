"""A source → everything that can be read from it, with what cannot be read beside it.

Nothing is refused here for a bad row; `load` does that. Only a source that is missing, empty, broken as a whole or
in no known format is an error.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from equipoise import artefact
from equipoise.data.contradictions import contradicts
from equipoise.data.conversations import responses_of
from equipoise.data.fields import Origin, Parsed, explain_validation
from equipoise.data.formats import PROMPTS, Format, find_format
from equipoise.data.jsonl import Row, RowProblem, read_rows
from equipoise.data.source import DataSource, read_hub_rows
from equipoise.errors import DataError
from equipoise.records import PreferencePair, Record

RECORD_FILES = (
    "pairs.jsonl",
    "safety.jsonl",
    "comparisons.jsonl",
    "prompts.jsonl",
    "demonstrations.jsonl",
    "responses.jsonl",
)
"""The record files of finished directories, in the order in which they are looked for."""


@dataclass(frozen=True)
class Loaded:
    """What a source holds.

    `lines[i]` is where `records[i]` comes from; `fields` are those of the first row. `counts` has rows, records,
    bad rows, empty responses and what the format remarks. `contradictions` counts pairs whose safer response is
    the one labelled unsafe; they are still among the records.
    """

    source: DataSource
    path: str
    format: str
    fields: tuple[str, ...]
    records: tuple[Record, ...]
    lines: tuple[int, ...]
    counts: dict[str, int]
    problems: tuple[RowProblem, ...]
    contradictions: int


def read(source: DataSource, files: tuple[str, ...] = RECORD_FILES) -> Loaded:
    """Read a source as far as it can be read.

    Args:
        source: What to read.
        files: The names to look for where the source is a finished directory; the first that exists is read.

    Raises:
        DataError: The source is missing, empty, broken as a whole, or in no known format.
        ArtefactError: It is a run directory that is not finished.
    """
    where, rows = _open(source, files)
    taken = list(islice(rows, source.limit))
    if not taken:
        raise DataError("The file is empty: it has no rows.", where=where, fix="Check that it was written whole.")
    origin = source.origin
    form = find_format(source.format, taken, where)
    records: list[Record] = []
    lines: list[int] = []
    problems: list[RowProblem] = []
    notes: Counter[str] = Counter()
    for row in taken:
        try:
            parsed = _parse(form, row, origin)
        except DataError as error:
            problems.append(RowProblem(where, row.line, error.what))
            continue
        records += parsed.records
        lines += [row.line] * len(parsed.records)
        notes.update(parsed.notes)
    empty = sum(not text.strip() for record in records for text in responses_of(record))
    counts = {"rows": len(taken), "records": len(records), "bad rows": len(problems), "empty responses": empty}
    first = next((row.value for row in taken if isinstance(row.value, dict)), {})
    return Loaded(
        source=source,
        path=where,
        format=form.name,
        fields=tuple(first),
        records=tuple(records),
        lines=tuple(lines),
        counts={**counts, **notes},
        problems=tuple(problems),
        contradictions=sum(contradicts(record) for record in records if isinstance(record, PreferencePair)),
    )


def _parse(form: Format, row: Row, origin: Origin) -> Parsed:
    """The row's records; every way in which it can be wrong ends as a DataError with the reason."""
    if row.problem:
        raise DataError(row.problem)
    if not isinstance(row.value, dict) and not (form is PROMPTS and isinstance(row.value, str)):
        raise DataError(f"the row is of type {type(row.value).__name__}, not an object")
    try:
        return form.parse(row.value, origin)
    except ValidationError as error:
        raise DataError(explain_validation(Record, error)) from None


def _open(source: DataSource, files: tuple[str, ...]) -> tuple[str, Iterator[Row]]:
    """The file that is read, for messages, and its rows."""
    if source.is_hub:
        return source.path, read_hub_rows(source)
    path = _record_file(Path(source.path), files)
    return str(path), read_rows(path)


def _record_file(path: Path, files: tuple[str, ...]) -> Path:
    """The file itself, or the first known record file of a directory."""
    if not path.is_dir():
        return path
    if (path / artefact.STAGE).exists():
        artefact.read_manifest(path)
    found = next((path / name for name in files if (path / name).is_file()), None)
    if found is None:
        raise DataError(
            f"The directory holds none of {', '.join(files)}.", where=str(path), fix="Name a file inside it."
        )
    return found
