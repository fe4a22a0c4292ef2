"""Label Studio's JSON export (1.0 to 1.21, `Export → JSON`): tasks with their annotations.

Read are the results of Pairwise, Ranker (a list without buckets), and Choices; an answer of another kind is
refused. An annotator is known by e-mail, where the export has it, else by number. Cancelled annotations, drafts
and predictions of models are no labels: counted.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from equipoise.annotate.files.contents import Contents
from equipoise.annotate.files.mapping import Said
from equipoise.data.fields import Fields
from equipoise.errors import DataError


def matches(row: Fields) -> bool:
    """Whether a row is a task of such an export.

    Raises:
        DataError: It is of one of Label Studio's other exports, which mix or miss what is needed.
    """
    if {"annotation_id", "annotator"} <= row.keys():
        raise DataError(
            "This is Label Studio's JSON-MIN or CSV export, which mixes fields and answers.",
            fix="Export the project as JSON.",
        )
    if isinstance(row.get("data"), Mapping) and "completions" in row:
        raise DataError("This is an export of Label Studio before 1.0.", fix="Export it from 1.0 or newer.")
    return isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations"), list)


def take(found: Contents, row: Fields) -> tuple[Fields, list[Said]]:
    """The task's fields, and each annotator's latest answers.

    Raises:
        DataError: An annotation has no annotator.
    """
    found.left_out["predictions of models"] += len(row.get("predictions") or ())
    found.left_out["drafts"] += len(row.get("drafts") or ())
    cancelled = [one for one in row["annotations"] if one.get("was_cancelled")]
    found.left_out["cancelled annotations"] += len(cancelled)
    latest: dict[str, Said] = {}
    for annotation in sorted(row["annotations"], key=lambda one: str(one.get("created_at") or "")):
        if annotation in cancelled:
            continue
        said = Said(_annotator(annotation), _answers(annotation), _time(annotation))
        found.left_out["annotations that their annotator made anew"] += said.labeller in latest
        latest[said.labeller] = said
    return row["data"], list(latest.values())


def _annotator(annotation: Fields) -> str:
    who = annotation.get("completed_by")
    name = who.get("email") or who.get("id") if isinstance(who, Mapping) else who
    if name is None or name == "":
        raise DataError("an annotation has no `completed_by`: whose it is cannot be told")
    return str(name)


def _answers(annotation: Fields) -> dict[str, Any]:
    return {str(one["from_name"]): _value(one) for one in annotation.get("result") or ()}


def _value(result: Fields) -> Any:
    """What was chosen or ranked; of another result its type, which is refused where the mapping asks for it."""
    kind, value = result.get("type"), result.get("value") or {}
    if kind == "pairwise":
        return value.get("selected")
    if kind == "choices":
        return value.get("choices")
    ranked = value.get("ranker") if kind == "ranker" else None
    if isinstance(ranked, Mapping) and len(ranked) == 1:
        return next(iter(ranked.values()))
    return ranked if isinstance(ranked, list) else {"type": kind}


def _time(annotation: Fields) -> float | None:
    at = annotation.get("created_at")
    return datetime.fromisoformat(at).timestamp() if isinstance(at, str) else None
