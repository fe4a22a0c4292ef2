"""Potato's output: a folder per annotator, beside the data file that its project showed (`items` of the mapping).

Read are `annotated_instances.jsonl` (1.x) and `user_state.json` (2.0 to 2.12) of the schemes radio, multiselect,
pairwise (binary) and ranking. The folder's name, or the state's `user_id`, is the annotator. Potato's files hold
ids only: the texts come from the data file. Highlighted spans are counted, not taken.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from equipoise.annotate.files.contents import Contents
from equipoise.annotate.files.mapping import FileMap, Said
from equipoise.data.fields import Fields
from equipoise.data.jsonl import Row, RowProblem, read_rows
from equipoise.errors import DataError

LINES, STATE = "annotated_instances.jsonl", "user_state.json"
_OFF = (None, "", False, "false")


class Instance(NamedTuple):
    """One annotator's answers to one item, by the item's id."""

    id: str
    said: Said


def matches(path: Path) -> bool:
    """Whether a path is one of Potato's files, an annotator's folder, or the folder of all annotators."""
    return path.name in (LINES, STATE) or bool(path.is_dir() and _files(path))


def read_rows_of(path: Path, found: Contents, mapping: FileMap) -> Iterator[tuple[Row, list[Said]]]:
    """The items of the data file that somebody answered, each with everybody's answers.

    Raises:
        DataError: The mapping names no data file, or a file is broken as a whole.
    """
    if mapping.items is None:
        raise DataError(
            "Potato's files hold no texts.",
            where=str(path),
            fix='Name the data file that its project showed: `items = "data.jsonl"` in the file of --mapping.',
        )
    given: dict[str, dict[str, Said]] = {}
    for file in _files(path) if path.is_dir() else [path]:
        for instance in _instances(file, found):
            # the newer of two files of one annotator comes later and holds everything the older one does
            given.setdefault(instance.id, {})[instance.said.labeller] = instance.said
    for row in read_rows(mapping.items):
        key = row.value.get(mapping.id) if isinstance(row.value, Mapping) else None
        said = given.pop(str(key), None)
        if said is not None or key is None:
            yield row, [*(said or {}).values()]
    found.left_out[f"answers to items that {mapping.items.name} does not hold"] += sum(map(len, given.values()))


def _files(folder: Path) -> list[Path]:
    return [file for name in (LINES, STATE) for file in sorted([*folder.glob(name), *folder.glob(f"*/{name}")])]


def _instances(file: Path, found: Contents) -> Iterator[Instance]:
    user = file.parent.name
    if file.name == STATE:
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
            pairs = state["instance_id_to_label_to_value"]
            user = str(state["user_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError("This is no user_state.json of Potato 2.", where=str(file), why=repr(error)) from error
        found.left_out["highlighted spans"] += sum(
            map(len, state.get("instance_id_to_span_to_value", {}).values())
        )
        yield from (Instance(str(key), Said(user, _by_scheme(labels))) for key, labels in pairs.items())
        return
    for row in read_rows(file):
        value = row.value
        if (
            row.problem
            or not isinstance(value, Mapping)
            or not isinstance(value.get("label_annotations"), Mapping)
        ):
            reason = row.problem or "it has no `label_annotations`, which Potato 1.x writes"
            found.problems.append(RowProblem(str(file), row.line, reason))
            continue
        found.left_out["highlighted spans"] += len(value.get("span_annotations") or ())
        answers = {str(name): _answer(labels) for name, labels in value["label_annotations"].items()}
        yield Instance(str(value.get("id")), Said(user, answers))


def _by_scheme(labels: Iterable[tuple[Fields, Any]]) -> dict[str, Any]:
    """Scheme → answer, from Potato 2's list of ({schema, name}, value)."""
    schemes: dict[str, dict[str, Any]] = {}
    for label, value in labels:
        schemes.setdefault(str(label["schema"]), {})[str(label["name"])] = value
    return {scheme: _answer(chosen) for scheme, chosen in schemes.items()}


def _answer(labels: Mapping[str, Any]) -> Any:
    """What was chosen: a side, an order of names, or the names that are on."""
    if "selection" in labels:
        return labels["selection"]
    if "rank_order" in labels:
        return str(labels["rank_order"]).split(",")
    return [name for name, value in labels.items() if value not in _OFF]
