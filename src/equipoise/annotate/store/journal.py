"""The audit log: who did what when. Rows are added, never changed and never deleted.

One exception: when a person's name is erased, the name is replaced by the pseudonym (`people.erase_person`).
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

from pydantic import JsonValue

from equipoise.annotate.store.core import Store


class Entry(NamedTuple):
    """One line of the journal; `who` is empty for the command line, `at` is in seconds since 1970."""

    number: int
    at: float
    who: str
    what: str
    detail: dict[str, JsonValue]


def record(store: Store, who: str, what: str, detail: Mapping[str, JsonValue], now: float) -> None:
    """Add a line, as part of the transaction that is open, if one is.

    Args:
        store: The project.
        who: A labeller's name, or empty for the command line.
        what: A short verb phrase, such as `skip` or `save guideline`.
        detail: What it was done to. No passwords, no tokens.
        now: Seconds since 1970.
    """
    with store.transaction():
        store.rows(
            "INSERT INTO journal (at, who, what, detail) VALUES (?, ?, ?, ?)",
            *(now, who, what, json.dumps(detail, ensure_ascii=False)),
        )


def entries(
    store: Store, *, limit: int = 100, before: int | None = None, who: str | None = None, what: str | None = None
) -> list[Entry]:
    """Lines of the journal, the newest first.

    Args:
        store: The project.
        limit: At most so many.
        before: Only lines older than the one of this number, for the next page.
        who: Only this person's.
        what: Only lines of this verb phrase.
    """
    rows = store.rows(
        "SELECT number, at, who, what, detail FROM journal WHERE (?1 IS NULL OR number < ?1)"
        " AND (?2 IS NULL OR who = ?2) AND (?3 IS NULL OR what = ?3) ORDER BY number DESC LIMIT ?4",
        *(before, who, what, limit),
    )
    return [Entry(number, at, by, verb, json.loads(detail)) for number, at, by, verb, detail in rows]
