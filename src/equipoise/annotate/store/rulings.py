"""What a lead decides: gold items with their known answers, and rulings on what labellers did not settle.

Both are answers about an item, whole or in part, as a `Draft`. What a ruling does to the votes is in aggregation.
"""

import json
from collections.abc import Sequence

from equipoise.annotate.labels import Draft, Item, check_harmlessness, check_ranks, check_verdict
from equipoise.annotate.store.core import ITEM, Store, item_of
from equipoise.annotate.store.journal import record
from equipoise.errors import StoreError
from equipoise.records import Verdict

RANKING_POSITION = -1
"""What stands in `adjudications.position` for a ranking, which is about no single response."""


def find_item(store: Store, item: str) -> Item:
    """The item of that id.

    Raises:
        StoreError: There is no such item.
    """
    row = store.one(f"SELECT {ITEM} FROM items i WHERE i.id = ?", item)
    if row is None:
        raise StoreError("There is no such item.", where=f"item {item}, {store.path}")
    return item_of(*row)


def check_answers(item: Item, answers: Draft) -> None:
    """Refuse answers that are empty, to questions the item does not ask, or impossible.

    Raises:
        StoreError: Says which.
    """
    where, count = f"item {item.id}", len(item.responses)
    if not answers.verdicts and not answers.rankings:
        raise StoreError("There is no answer.", where=where, fix="Answer at least one question.")
    asked = {"safety"} if answers.verdicts else set()
    if unasked := (asked | set(answers.rankings)) - set(item.questions):
        raise StoreError(f"The item does not ask about {', '.join(sorted(unasked))}.", where=where)
    for position, verdict in answers.verdicts.items():
        check_verdict(verdict, position, count, where=where)
    for question, ranks in answers.rankings.items():
        check_ranks(ranks, count, where=f"{where}, {question}")
    if "harmlessness" in answers.rankings:
        verdicts = {position: verdict.is_safe for position, verdict in answers.verdicts.items()}
        check_harmlessness(verdicts, answers.rankings["harmlessness"], where=where)


def set_gold(store: Store, item: str, answers: Draft, who: str, now: float) -> None:
    """Make an item a gold item, or change what is known about it.

    Raises:
        StoreError: There is no such item, or the answers are impossible.
    """
    check_answers(find_item(store, item), answers)
    with store.transaction():
        number, _, _ = store.find_item(item)
        author = store.find_labeller(who) if who else None
        store.rows(
            "INSERT INTO gold VALUES (?, ?, ?, ?) ON CONFLICT (item) DO UPDATE"
            " SET answers = excluded.answers, author = excluded.author, at = excluded.at",
            *(number, answers.model_dump_json(), author, now),
        )
        record(store, who, "set gold", {"item": item, "answers": json.loads(answers.model_dump_json())}, now)


def unset_gold(store: Store, item: str, who: str, now: float) -> None:
    """Make a gold item an ordinary one again; what was known stays in the journal."""
    with store.transaction():
        number, _, _ = store.find_item(item)
        store.rows("DELETE FROM gold WHERE item = ?", number)
        record(store, who, "unset gold", {"item": item}, now)


def gold_answers(store: Store) -> dict[str, Draft]:
    """Item → what is known about it, in the order of the items."""
    rows = store.rows("SELECT i.id, g.answers FROM gold g JOIN items i ON i.number = g.item ORDER BY i.number")
    return {item: Draft.model_validate_json(answers) for item, answers in rows}


def adjudicate(store: Store, item: str, answers: Draft, who: str, now: float) -> None:
    """Settle questions of an item; an earlier ruling on the same question is replaced and stays in the journal.

    Raises:
        StoreError: There is no such item, or the answers are impossible, by themselves or with earlier rulings.
    """
    with store.transaction():
        before = adjudications(store).get(item, Draft())
        check_answers(found := find_item(store, item), answers)
        check_answers(
            found,
            Draft(verdicts=before.verdicts | answers.verdicts, rankings=before.rankings | answers.rankings),
        )
        number, labeller = store.find_item(item)[0], store.find_labeller(who)
        values = [("safety", at, verdict.model_dump_json()) for at, verdict in answers.verdicts.items()]
        values += [(question, RANKING_POSITION, json.dumps(ranks)) for question, ranks in answers.rankings.items()]
        for question, position, value in values:
            store.rows(
                "INSERT INTO adjudications VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
                " SET value = excluded.value, labeller = excluded.labeller, at = excluded.at",
                *(number, question, position, value, labeller, now),
            )
        record(store, who, "adjudicate", {"item": item, "answers": json.loads(answers.model_dump_json())}, now)


def adjudications(store: Store, items: Sequence[str] | None = None) -> dict[str, Draft]:
    """Item → what was ruled about it, in the order of the items; of these items only, if given."""
    rows = store.rows(
        "SELECT i.id, a.question, a.position, a.value FROM adjudications a JOIN items i ON i.number = a.item"
        " WHERE ?1 IS NULL OR i.id IN (SELECT value FROM json_each(?1)) ORDER BY i.number, a.question, a.position",
        None if items is None else json.dumps(list(items)),
    )
    found: dict[str, Draft] = {}
    for item, question, position, value in rows:
        ruling = found.get(item, Draft())
        if position == RANKING_POSITION:
            rankings = {**ruling.rankings, question: tuple(json.loads(value))}
            found[item] = ruling.model_copy(update={"rankings": rankings})
        else:
            verdicts = {**ruling.verdicts, position: Verdict.model_validate_json(value)}
            found[item] = ruling.model_copy(update={"verdicts": verdicts})
    return found
