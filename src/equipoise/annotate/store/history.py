"""Where labels come from: what was imported, and for an export when, on what order shown and by which guideline.

What this adds to labels is no part of their identity. Times are seconds since 1970.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from equipoise.annotate.labels import Assignment, Draft, Item, Label
from equipoise.annotate.store.core import LabellerKind, Store
from equipoise.errors import StoreError

SELECT_ANSWERS = """
    SELECT i.id, l.name, l.kind, a.shown, a.guideline, a.opened_at, a.finished_at, a.origin,
        (SELECT count(*) FROM revisions r WHERE r.item = a.item AND r.labeller = a.labeller)
    FROM assignments a JOIN items i ON i.number = a.item JOIN labellers l ON l.number = a.labeller
    WHERE EXISTS (SELECT 1 FROM verdicts v WHERE v.item = a.item AND v.labeller = a.labeller)
        OR EXISTS (SELECT 1 FROM rankings r WHERE r.item = a.item AND r.labeller = a.labeller)
    ORDER BY a.item, a.labeller
"""
SELECT_REVISIONS = """
    SELECT i.id, l.name, l.kind, a.shown, r.guideline, NULL, r.finished_at, a.origin,
        row_number() OVER (PARTITION BY r.item, r.labeller ORDER BY r.number) - 1, r.answers, r.replaced_at
    FROM revisions r JOIN assignments a ON a.item = r.item AND a.labeller = r.labeller
    JOIN items i ON i.number = r.item JOIN labellers l ON l.number = r.labeller
    ORDER BY r.item, r.labeller, r.number
"""


class Given(NamedTuple):
    """How a labeller's answers to an item came about.

    `shown`, `guideline` and `opened_at` are None where nobody knows: for answers that were imported from the file
    and line in `origin`. `revision` counts from 0; `replaced_at` is None for answers that hold.
    """

    item: str
    labeller: str
    kind: LabellerKind
    shown: tuple[int, ...] | None
    guideline: int | None
    opened_at: float | None
    finished_at: float | None
    origin: str | None
    revision: int
    replaced_at: float | None = None


def add_outsiders(store: Store, names: Sequence[str]) -> None:
    """Add people whose labels come from a file: they cannot sign in.

    Raises:
        StoreError: An empty name, or that of somebody who works here: their own labels would be mixed with these.
    """
    with store.transaction():
        known = store.labellers()
        insiders = {
            name for (name,) in store.rows("SELECT name FROM labellers WHERE is_active OR password IS NOT NULL")
        }
        if taken := sorted(insiders & set(names)):
            raise StoreError(
                f"{', '.join(map(repr, taken))} in the file is also somebody's name in this project.",
                where=str(store.path),
                why="their labels could not be told apart",
                fix="Give the file's names a prefix: --prefix team-b/",
            )
        store.add_labellers(names, "person")
        for name in set(names) - known.keys():
            store.rows("UPDATE labellers SET is_active = 0 WHERE name = ?", name)


def add_imported(
    store: Store, item: Item, labels: Sequence[Label], origin: str, at: float | None, now: float
) -> None:
    """Add one labeller's labels of one item, all that it asks; `at` is when they were given, if anybody knows.

    Raises:
        StoreError: See `Store.add_labels`.
    """
    labeller = labels[0].labeller
    with store.transaction():
        store.assign([Assignment(item.id, labeller, tuple(range(len(item.responses))))])
        store.add_labels(labels, now if at is None else at)
        store.rows(
            "UPDATE assignments SET origin = ?, finished_at = ?, guideline = NULL WHERE origin IS NULL"
            " AND item = ? AND labeller = ?",
            *(origin, at, store.find_item(item.id)[0], store.find_labeller(labeller)),
        )


def answers(store: Store, items: Sequence[str] | None = None) -> dict[tuple[str, str], Draft]:
    """(Item, labeller) → the answers that hold, of everybody; to these items only, if given."""
    labels: dict[tuple[str, str], list[Label]] = {}
    every: Iterator[Label] = chain(store.verdicts(items), store.rankings(items))
    for label in every:
        labels.setdefault((label.item, label.labeller), []).append(label)
    return {key: Draft.of(given) for key, given in labels.items()}


def given(store: Store) -> Iterator[Given]:
    """How the answers that hold came about, by item, then labeller."""
    for row in store.rows(SELECT_ANSWERS):
        yield _given(*row)


def revisions(store: Store) -> Iterator[tuple[Given, Draft]]:
    """Answers that were changed or withdrawn, with how they came about, the oldest of each labeller first."""
    for *about, revision, old, replaced_at in store.rows(SELECT_REVISIONS):
        yield _given(*about, revision)._replace(replaced_at=replaced_at), Draft.model_validate_json(old)


def _given(item: str, labeller: str, kind: LabellerKind, shown: str, *rest: Any) -> Given:
    guideline, opened_at, finished_at, origin, revision = rest
    order = None if origin else tuple(json.loads(shown))
    return Given(item, labeller, kind, order, guideline, opened_at, finished_at, origin, revision)
