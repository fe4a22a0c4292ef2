"""What a lead looks at: how far each set is, which items there are, what happened to one.

Reads only. Totals and paces are in `progress`, agreement is in `annotate.agreement`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from equipoise.annotate.labels import Draft, Item, compare_ranks
from equipoise.annotate.store.core import LabellerKind, Store
from equipoise.annotate.store.history import answers
from equipoise.annotate.store.leases import GOLD
from equipoise.annotate.store.queue import NoteKind
from equipoise.annotate.store.rulings import adjudications
from equipoise.records import Prompt

State = Literal["untouched", "begun", "complete", "gold"]
STATES: tuple[State, ...] = ("untouched", "begun", "complete", "gold")
IS_GOLD = f"EXISTS ({GOLD})"
STATE_SQL: dict[State, str] = {
    "untouched": f"i.done = 0 AND NOT {IS_GOLD}",
    "begun": f"i.done > 0 AND i.done < :overlap AND NOT {IS_GOLD}",
    "complete": f"i.done >= :overlap AND NOT {IS_GOLD}",
    "gold": IS_GOLD,
}


class SetProgress(NamedTuple):
    """How far the items of one source are; gold items are in none of the counts."""

    source: str
    items: int
    complete: int
    begun: int
    answers: int
    """What people have answered, at most `overlap` for each item."""


class ItemRow(NamedTuple):
    """An item in a list."""

    id: str
    text: str
    source: str
    responses: int
    done: int
    flags: int
    is_gold: bool
    is_adjudicated: bool


class ItemFilter(NamedTuple):
    """Which items are listed; None or empty: all."""

    state: State | None = None
    source: str | None = None
    labeller: str | None = None
    text: str = ""
    is_flagged: bool = False
    ids: Sequence[str] | None = None


class Note(NamedTuple):
    """A flag, a comment or the reason of a skip."""

    item: str
    labeller: str
    kind: NoteKind
    text: str
    at: float


class Revision(NamedTuple):
    """Answers that somebody changed later."""

    labeller: str
    answers: Draft
    replaced_at: float


@dataclass(frozen=True)
class Answered:
    """What one labeller did with an item."""

    labeller: str
    kind: LabellerKind
    state: str
    shown: tuple[int, ...]
    seconds: float | None
    finished_at: float | None
    guideline: int | None
    answers: Draft = field(default_factory=Draft)


class ItemDetail(NamedTuple):
    """Everything about one item."""

    item: Item
    done: int
    answered: list[Answered]
    notes: list[Note]
    revisions: list[Revision]
    gold: Draft | None
    ruling: Draft | None


def version(store: Store) -> int:
    """A number that changes when another connection has written."""
    return int(store.rows("PRAGMA data_version")[0][0])


def verbs(store: Store) -> list[str]:
    """What has been done at all, by the journal, in alphabetical order."""
    return [verb for (verb,) in store.rows("SELECT DISTINCT what FROM journal ORDER BY what")]


def sets(store: Store, overlap: int) -> list[SetProgress]:
    """Every source's progress, in the order in which they were added."""
    rows = store.rows(
        "SELECT i.source, count(*), sum(i.done >= ?1), sum(i.done > 0 AND i.done < ?1), sum(min(i.done, ?1))"
        f" FROM items i WHERE NOT {IS_GOLD} GROUP BY i.source ORDER BY min(i.number)",
        overlap,
    )
    return [SetProgress(*row) for row in rows]


def answered_since(store: Store, since: float) -> dict[str, int]:
    """Labeller → items finished after that moment; nobody who finished none."""
    return dict(
        store.rows(
            "SELECT l.name, count(*) FROM assignments a JOIN labellers l ON l.number = a.labeller"
            " WHERE a.state IN ('done', 'reopened') AND a.finished_at > ? GROUP BY l.number",
            since,
        )
    )


def answers_by_day(store: Store, now: float, days: int) -> list[int]:
    """How many items people finished in each of the last `days` times 24 hours, the oldest first."""
    rows = store.rows(
        "SELECT CAST((?1 - a.finished_at) / 86400 AS INTEGER) AS day, count(*) FROM assignments a"
        " JOIN labellers l ON l.number = a.labeller WHERE l.kind = 'person' AND a.state IN ('done', 'reopened')"
        " AND a.finished_at <= ?1 AND a.finished_at > ?1 - 86400 * ?2 GROUP BY day",
        *(now, days),
    )
    counts = dict(rows)
    return [int(counts.get(day, 0)) for day in reversed(range(days))]


def find_items(
    store: Store, wanted: ItemFilter, overlap: int, limit: int, offset: int
) -> tuple[list[ItemRow], int]:
    """A page of the items that are wanted, in the order they were added, and how many there are in all."""
    where, values = _condition(wanted, overlap)
    rows = store.rows(
        "SELECT i.id, i.prompt, i.source, json_array_length(i.responses), i.done,"
        " (SELECT count(*) FROM notes n WHERE n.item = i.number AND n.kind = 'flag'),"
        f" {IS_GOLD}, EXISTS (SELECT 1 FROM adjudications d WHERE d.item = i.number)"
        f" FROM items i WHERE {where} ORDER BY i.number LIMIT :limit OFFSET :offset",
        **values,
        limit=limit,
        offset=offset,
    )
    found = [
        ItemRow(
            item, Prompt.model_validate_json(prompt).text, source, responses, done, flags, bool(gold), bool(ruled)
        )
        for item, prompt, source, responses, done, flags, gold, ruled in rows
    ]
    return found, int(store.rows(f"SELECT count(*) FROM items i WHERE {where}", **values)[0][0])


def item_detail(store: Store, item: str) -> ItemDetail:
    """Everything about one item.

    Raises:
        StoreError: There is no such item.
    """
    number = store.find_item(item)[0]
    gold = store.one("SELECT answers FROM gold WHERE item = ?", number)
    return ItemDetail(
        store.item(item),
        int(store.rows("SELECT done FROM items WHERE number = ?", number)[0][0]),
        _answered(store, item, number),
        notes(store, item),
        [
            Revision(name, Draft.model_validate_json(answers), at)
            for name, answers, at in store.rows(
                "SELECT l.name, r.answers, r.replaced_at FROM revisions r"
                " JOIN labellers l ON l.number = r.labeller WHERE r.item = ? ORDER BY r.number",
                number,
            )
        ],
        Draft.model_validate_json(gold[0]) if gold else None,
        adjudications(store, [item]).get(item),
    )


def notes(store: Store, item: str | None = None, limit: int = 1000) -> list[Note]:
    """Flags, comments and reasons of skips, the newest first; of one item, if given."""
    rows = store.rows(
        "SELECT i.id, l.name, n.kind, n.text, n.at FROM notes n JOIN items i ON i.number = n.item"
        " JOIN labellers l ON l.number = n.labeller WHERE ?1 IS NULL OR i.id = ?1 ORDER BY n.number DESC LIMIT ?2",
        *(item, limit),
    )
    return [Note(*row) for row in rows]


def count_right(gold: Draft, given: Draft) -> tuple[int, int]:
    """How many of the known answers somebody gave, and how many there were to give.

    A known verdict counts once (safe or unsafe; categories do not count), a known ranking once for each pair of
    responses, right if it has the same order or tie.
    """
    checks = [
        given.verdicts[position].is_safe == verdict.is_safe
        for position, verdict in gold.verdicts.items()
        if verdict.is_safe is not None and position in given.verdicts
    ]
    for question, ranks in gold.rankings.items():
        mine = given.rankings.get(question)
        pairs = [(a, b) for a in range(len(ranks)) for b in range(a)] if mine else []
        checks += [compare_ranks(ranks, a, b) == compare_ranks(mine or (), a, b) for a, b in pairs]
    return sum(checks), len(checks)


def _condition(wanted: ItemFilter, overlap: int) -> tuple[str, dict[str, object]]:
    parts, values = ["1"], dict[str, object](overlap=overlap)
    if wanted.state:
        parts.append(STATE_SQL[wanted.state])
    if wanted.source is not None:
        parts.append("i.source = :source")
        values["source"] = wanted.source
    if wanted.labeller:
        parts.append(
            "EXISTS (SELECT 1 FROM assignments a JOIN labellers l ON l.number = a.labeller"
            " WHERE a.item = i.number AND l.name = :labeller)"
        )
        values["labeller"] = wanted.labeller
    if wanted.text:
        parts.append("(i.id = :text OR instr(lower(json_extract(i.prompt, '$.messages')), lower(:text)))")
        values["text"] = wanted.text
    if wanted.is_flagged:
        parts.append("EXISTS (SELECT 1 FROM notes n WHERE n.item = i.number AND n.kind = 'flag')")
    if wanted.ids is not None:
        parts.append("i.id IN (SELECT value FROM json_each(:ids))")
        values["ids"] = json.dumps(list(wanted.ids))
    return " AND ".join(parts), values


def _answered(store: Store, item: str, number: int) -> list[Answered]:
    found = answers(store, [item])
    rows = store.rows(
        "SELECT l.name, l.kind, a.state, a.shown, a.finished_at - a.opened_at, a.finished_at, a.guideline"
        " FROM assignments a JOIN labellers l ON l.number = a.labeller WHERE a.item = ? ORDER BY a.turn, l.number",
        number,
    )
    return [
        Answered(
            name, kind, state, tuple(json.loads(shown)), seconds, at, guideline, found.get((item, name), Draft())
        )
        for name, kind, state, shown, seconds, at, guideline in rows
    ]
