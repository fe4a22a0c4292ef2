"""Who answers which item next, and what becomes of it: drafts, submitting, skipping, undo.

Nobody is handed an item twice, and no label is ever lost: what is changed or withdrawn is kept as a revision, what
is refused in the journal. Judges and simulated labellers take no place of a person's: each is handed every item
once. Which item comes next is in `leases`. Times are seconds since 1970; what was finished last is counted, not
timed, for the clock may go backwards.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import JsonValue

from equipoise.annotate.labels import Draft, Item, Label, VerdictLabel, missing_answers
from equipoise.annotate.store.core import ITEM, Store, item_of
from equipoise.annotate.store.journal import record
from equipoise.annotate.store.leases import Hand, enter, is_full, lease_item, next_item, own_item, renew_lease
from equipoise.errors import StoreError
from equipoise.records import Verdict

NoteKind = Literal["flag", "comment", "skip"]


@dataclass(frozen=True, slots=True)
class Work:
    """An item as one labeller has it in hand.

    `shown[j]` is the position of the response shown as the j-th; `draft` holds answers by position, whatever the
    order shown. `leased_until` is None for an item kept without end. `is_reopened`: it was finished before, and
    its labels hold until others are submitted. `number` counts the labeller's items, this one included.
    """

    item: Item
    shown: tuple[int, ...]
    draft: Draft
    leased_until: float | None
    is_reopened: bool
    number: int


def take_item(store: Store, labeller: str, now: float) -> Work | None:
    """The labeller's open item, or the next one from the queue; None where there is none for them now.

    Items that others have begun come first, so that items are complete early. One item in 1 / gold_share, at a
    place that nobody can foresee, is a gold item.

    Raises:
        StoreError: Unknown or inactive labeller, no project, or the database cannot be written.
    """
    with store.transaction():
        hand = enter(store, labeller, now)
        item = own_item(store, hand)
        if item is None:
            item = next_item(store, hand)
            if item is None:
                return None
            lease_item(store, hand, item)
        return _work(store, hand, item)


def open_item(store: Store, labeller: str, item: str, now: float) -> Work:
    """An item that the labeller has in hand.

    Raises:
        StoreError: It is not theirs, or they have finished or skipped it, or others have answered it by now.
    """
    with store.transaction():
        hand = enter(store, labeller, now)
        number = _in_hand(store, hand, item)
        if is_full(store, hand, number):
            raise _too_late(item)
        return _work(store, hand, number)


def save_draft(store: Store, labeller: str, item: str, draft: Draft, now: float) -> None:
    """Keep unfinished answers and renew the lease.

    Raises:
        StoreError: As `open_item`; in its last case the draft is kept all the same.
    """
    with store.transaction():
        hand = enter(store, labeller, now)
        number = _in_hand(store, hand, item)
        store.rows(
            "UPDATE assignments SET draft = ? WHERE item = ? AND labeller = ?",
            *(draft.model_dump_json(), number, hand.number),
        )
        is_late = is_full(store, hand, number)
        if not is_late:
            renew_lease(store, hand, number)
    if is_late:
        raise _too_late(item)


def submit(store: Store, labeller: str, item: str, labels: Sequence[Label], now: float) -> None:
    """Keep all labels of an item and finish it; the same once more changes nothing.

    Raises:
        StoreError: The labels are impossible, incomplete or another item's or labeller's; or the item is not in
            the labeller's hand: not theirs, skipped, finished with other answers in another tab, or answered by
            others since its lease ran out. What is refused for the item's state is kept in the journal.
    """
    with store.transaction():
        hand = enter(store, labeller, now)
        number, state = _find(store, hand, item)
        _check_labels(store, hand, (item, labeller), labels)
        answers = Draft.of(labels)
        is_same = state in ("done", "reopened") and _answers(store, hand, number).is_same(answers)
        refusal = None if is_same else _refusal(store, hand, number, (item, state))
        if refusal is not None:
            record(store, labeller, "refused submit", {"item": item, "answers": _json(answers)}, now)
        elif state != "done":
            if state == "reopened" and not is_same:
                _withdraw(store, hand, number)
            store.add_labels(labels, now)
            record(store, labeller, "submit", {"item": item}, now)
    if refusal is not None:
        raise refusal


def undo(store: Store, labeller: str, now: float) -> Work | None:
    """Open the item again that the labeller finished or skipped last, with its answers as the draft.

    Its labels hold until others are submitted. A skipped item whose places others have taken is passed over.

    Returns:
        None where there is nothing to undo.
    """
    with store.transaction():
        hand = enter(store, labeller, now)
        for number, item, state in store.rows(
            "SELECT i.number, i.id, a.state FROM assignments a JOIN items i ON i.number = a.item"
            " WHERE a.labeller = ? AND a.state IN ('done', 'skipped') ORDER BY a.turn DESC",
            hand.number,
        ):
            if state == "skipped" and is_full(store, hand, number):
                continue
            draft = _answers(store, hand, number).model_dump_json() if state == "done" else None
            store.rows(
                "UPDATE assignments SET state = ?, draft = coalesce(?, draft), leased_until = ?"
                " WHERE item = ? AND labeller = ?",
                *("reopened" if state == "done" else "open", draft, hand.lease, number, hand.number),
            )
            record(store, labeller, "undo", {"item": item}, now)
            return _work(store, hand, number)
        return None


def skip(store: Store, labeller: str, item: str, reason: str, now: float) -> None:
    """Give an item back, and say why; the labels of an item that was reopened are withdrawn.

    Raises:
        StoreError: The labeller does not have it in hand, or gives no reason.
    """
    with store.transaction():
        hand = enter(store, labeller, now)
        number, state = _find(store, hand, item)
        if state == "skipped":
            return
        _in_hand(store, hand, item)
        add_note(store, labeller, item, "skip", reason, now)
        if state == "reopened":
            _withdraw(store, hand, number)
        store.rows(
            "UPDATE assignments SET state = 'skipped', leased_until = NULL, finished_at = ?1,"
            " turn = (SELECT coalesce(max(turn), 0) + 1 FROM assignments WHERE labeller = ?2)"
            " WHERE item = ?3 AND labeller = ?2",
            *(now, hand.number, number),
        )


def add_note(store: Store, labeller: str, item: str, kind: NoteKind, text: str, now: float) -> None:
    """Keep a flag, a comment or the reason of a skip.

    Raises:
        StoreError: The item was never theirs, or a comment or a skip has no text.
    """
    if kind != "flag" and not text.strip():
        raise StoreError(f"A {kind} needs a text.", where=f"item {item}")
    with store.transaction():
        hand = enter(store, labeller, now)
        row = (_find(store, hand, item)[0], hand.number, kind, text, now)
        store.rows("INSERT INTO notes (item, labeller, kind, text, at) VALUES (?, ?, ?, ?, ?)", *row)
        record(store, labeller, kind, {"item": item, "text": text}, now)


def _work(store: Store, hand: Hand, item: int) -> Work:
    renew_lease(store, hand, item)
    *item_row, shown, draft, leased_until, state, number = store.rows(
        f"SELECT {ITEM}, a.shown, a.draft, a.leased_until, a.state,"
        " coalesce(a.turn, (SELECT coalesce(max(turn), 0) + 1 FROM assignments WHERE labeller = a.labeller))"
        " FROM assignments a JOIN items i ON i.number = a.item WHERE a.item = ? AND a.labeller = ?",
        *(item, hand.number),
    )[0]
    return Work(
        item_of(*item_row),
        tuple(json.loads(shown)),
        Draft.model_validate_json(draft) if draft else Draft(),
        leased_until,
        state == "reopened",
        number,
    )


def _find(store: Store, hand: Hand, item: str) -> tuple[int, str]:
    row = store.one(
        "SELECT a.item, a.state FROM assignments a JOIN items i ON i.number = a.item"
        " WHERE i.id = ? AND a.labeller = ?",
        *(item, hand.number),
    )
    if row is None:  # the same words whether it exists or not
        raise StoreError("This item is not yours.", where=f"item {item}", fix="Go on with the next one.")
    return row[0], row[1]


def _in_hand(store: Store, hand: Hand, item: str) -> int:
    number, state = _find(store, hand, item)
    if state in ("done", "skipped"):
        raise _closed(item, state)
    return number


def _refusal(store: Store, hand: Hand, number: int, item: tuple[str, str]) -> StoreError | None:
    if item[1] in ("done", "skipped"):
        return _closed(*item)
    return _too_late(item[0]) if is_full(store, hand, number) else None


def _closed(item: str, state: str) -> StoreError:
    did = "finished" if state == "done" else "skipped"
    return StoreError(
        f"You have {did} this item already.",
        where=f"item {item}",
        why="In another tab?",
        fix="Undo opens it again.",
    )


def _too_late(item: str) -> StoreError:
    return StoreError(
        "Others have answered this item meanwhile.",
        where=f"item {item}",
        why="It was in your hand for longer than its lease, so it went back to the queue",
        fix="Go on with the next one; what you answered is kept in the journal.",
    )


def _check_labels(store: Store, hand: Hand, given: tuple[str, str], labels: Sequence[Label]) -> None:
    """Refuse what the screen cannot have sent: labels of something else, incomplete or outside the taxonomy."""
    where = f"item {given[0]}, labeller {given[1]!r}"
    if any((label.item, label.labeller) != given for label in labels):
        raise StoreError("Labels of another item or labeller are among these.", where=where)
    if missing := missing_answers(store.item(given[0]), Draft.of(labels)):
        raise StoreError("Not everything is answered.", where=where, why=f"missing: {', '.join(missing)}")
    known = set(hand.project.taxonomy.names)
    for label in labels:
        if not isinstance(label, VerdictLabel):
            continue
        if unknown := [name for name in label.verdict.categories if name not in known]:
            raise StoreError("This project has no such category.", where=where, why=f"{unknown}")
        if label.verdict.severity is not None and not hand.project.config.severity:
            raise StoreError("This project does not ask for severities.", where=where)


def _answers(store: Store, hand: Hand, item: int) -> Draft:
    key = (item, hand.number)
    verdicts = store.rows("SELECT position, verdict FROM verdicts WHERE item = ? AND labeller = ?", *key)
    rankings = store.rows("SELECT question, ranks FROM rankings WHERE item = ? AND labeller = ?", *key)
    return Draft(
        verdicts={position: Verdict.model_validate_json(verdict) for position, verdict in verdicts},
        rankings={question: json.loads(ranks) for question, ranks in rankings},
    )


def _withdraw(store: Store, hand: Hand, item: int) -> None:
    """Move the labels of a finished item to its revisions."""
    store.rows(
        "INSERT INTO revisions (item, labeller, answers, guideline, finished_at, replaced_at)"
        " SELECT item, labeller, ?, guideline, finished_at, ? FROM assignments WHERE item = ? AND labeller = ?",
        *(_answers(store, hand, item).model_dump_json(), hand.now, item, hand.number),
    )
    for table in ("verdicts", "rankings"):
        store.rows(f"DELETE FROM {table} WHERE item = ? AND labeller = ?", item, hand.number)


def _json(draft: Draft) -> JsonValue:
    return cast("JsonValue", draft.model_dump(mode="json"))
