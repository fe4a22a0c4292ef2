"""Argilla's export (2.x): `dataset.records.to_json()`, or `to_list()`, nested or flat, as JSON or JSON Lines.

An annotator is known by the user's id, which is all that the export has. Suggestions come from models: counted,
not taken. The nested form does not say which responses are drafts; of the flat one only submitted ones are taken.
"""

from collections.abc import Mapping
from typing import Any

from equipoise.annotate.files.contents import Contents
from equipoise.annotate.files.mapping import Said
from equipoise.data.fields import Fields
from equipoise.errors import DataError

_USERS, _STATUS, _FLAT, _SUGGESTION = ".responses.users", ".responses.status", ".responses", ".suggestion"


def matches(row: Fields) -> bool:
    """Whether a row is a record of such an export, nested or flat.

    Raises:
        DataError: It is of Argilla 1.x.
    """
    if "fields" in row and isinstance(row.get("responses"), list):
        raise DataError(
            "This is an export of Argilla 1.x.",
            fix="Load it into Argilla 2 and export it from there with to_json.",
        )
    is_nested = isinstance(row.get("fields"), Mapping) and isinstance(row.get("responses"), Mapping)
    return is_nested or {"_server_id", "status"} <= row.keys()


def take(found: Contents, row: Fields) -> tuple[Fields, list[Said]]:
    """The record's fields, and each user's answers.

    Raises:
        DataError: A response is not of the form that Argilla writes.
    """
    answers: dict[str, dict[str, Any]] = {}
    for question, user, value in _nested(found, row) if "fields" in row else _flat(found, row):
        if user in ("", "None"):
            raise DataError(f"a response to `{question}` has no user: whose it is cannot be told")
        answers.setdefault(user, {})[question] = value
    fields = row["fields"] if "fields" in row else {key: row[key] for key in row if not _is_answer(key)}
    return fields, [Said(user, given) for user, given in answers.items()]


def _nested(found: Contents, row: Fields) -> list[tuple[str, str, Any]]:
    found.left_out["suggestions of models"] += len(row.get("suggestions") or ())
    given = []
    for question, responses in row["responses"].items():
        for one in responses:
            if not isinstance(one, Mapping) or "value" not in one:
                raise DataError(f"`responses.{question}` is not a list of values with their users")
            given.append((str(question), str(one.get("user_id") or ""), one["value"]))
    return given


def _flat(found: Contents, row: Fields) -> list[tuple[str, str, Any]]:
    found.left_out["suggestions of models"] += sum(
        key.endswith(_SUGGESTION) and row[key] is not None for key in row
    )
    given = []
    for key in [key for key in row if key.endswith(_FLAT) and row[key] is not None]:
        question, values, users = key.removesuffix(_FLAT), row[key], row.get(f"{key}.users")
        statuses = row.get(f"{key}.status")
        if not all(isinstance(one, list) and len(one) == len(values) for one in (users, statuses)):
            raise DataError(f"`{key}` comes without a user and a status for each of its values")
        for value, user, status in zip(values, users or (), statuses or (), strict=True):
            found.left_out["responses that were not submitted"] += status != "submitted"
            if status == "submitted":
                given.append((question, str(user), value))
    return given


def _is_answer(key: str) -> bool:
    return _SUGGESTION in key or _FLAT in key
