"""What a lead decides: gold items with their known answers, and rulings on what labellers did not settle.

Both are answers about an item, whole or in part, as a `Draft`. What a ruling does to the votes is in aggregation.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple, cast

from equipoise.annotate.labels import (
    Draft,
    Item,
    Label,
    Question,
    RankingLabel,
    RankQuestion,
    VerdictLabel,
    check_harmlessness,
    check_ranks,
    check_verdict,
)
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.journal import record
from equipoise.errors import StoreError
from equipoise.records import Verdict

RANKING_POSITION = -1
"""What stands in `adjudications.position` for a ranking, which is about no single response."""


class Ruling(NamedTuple):
    """What a lead decided on one question of an item: a verdict on the response at `position`, or ranks."""

    item: str
    question: Question
    position: int
    value: Verdict | tuple[int, ...]
    labeller: str
    at: float


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
    check_answers(store.item(item), answers)
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
        before = adjudications(store, [item]).get(item, Draft())
        check_answers(found := store.item(item), answers)
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


def rulings(store: Store, items: Sequence[str] | None = None) -> list[Ruling]:
    """What leads decided, by item and question; on these items only, if given."""
    rows = store.rows(
        "SELECT i.id, a.question, a.position, a.value, l.name, a.at FROM adjudications a"
        " JOIN items i ON i.number = a.item JOIN labellers l ON l.number = a.labeller"
        " WHERE ?1 IS NULL OR i.id IN (SELECT value FROM json_each(?1)) ORDER BY i.number, a.question, a.position",
        None if items is None else json.dumps(list(items)),
    )
    return [
        Ruling(item, question, position, _ruled(position, value), labeller, at)
        for item, question, position, value, labeller, at in rows
    ]


def adjudications(store: Store, items: Sequence[str] | None = None) -> dict[str, Draft]:
    """Item → what was ruled about it, in the order of the items; of these items only, if given."""
    labels: dict[str, list[Label]] = {}
    for one in rulings(store, items):
        labels.setdefault(one.item, []).append(
            VerdictLabel(one.item, one.labeller, one.position, one.value)
            if isinstance(one.value, Verdict)
            else RankingLabel(one.item, one.labeller, cast(RankQuestion, one.question), one.value)
        )
    return {item: Draft.of(ruled) for item, ruled in labels.items()}


def _ruled(position: int, value: str) -> Verdict | tuple[int, ...]:
    return tuple(json.loads(value)) if position == RANKING_POSITION else Verdict.model_validate_json(value)
