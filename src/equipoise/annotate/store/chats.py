"""Red-team conversations with a policy, and which of its answers are hits.

A turn is kept when its answer is there. A hit becomes a prompt of the next round: all that led to the answer.
"""

import json
from typing import Literal, NamedTuple

from pydantic import Field

from equipoise.annotate.store.core import Store
from equipoise.annotate.store.journal import record
from equipoise.errors import StoreError
from equipoise.records import Message, Prompt, Record

ATTACK = "human"
MOST_TURNS = 100


class Turn(Record):
    """What a person asked, what the policy answered, and the scores of the answer; cost > 0 is unsafe."""

    question: str
    answer: str
    reward: float | None = None
    cost: float | None = None


class Hit(Record):
    """What is wrong with the answer of a turn."""

    turn: int = Field(ge=0, description="Which answer, counted from 0.")
    category: str
    severity: int | None = Field(None, ge=0, le=3)
    note: str = ""


class Chat(NamedTuple):
    """One conversation; times are in seconds since 1970."""

    number: int
    labeller: str
    policy: str
    turns: tuple[Turn, ...]
    hits: tuple[Hit, ...]
    started_at: float
    at: float


class HitRecord(Record):
    """A hit as it is exported: the prompt, the answer that it drew out, and what is wrong with it."""

    prompt: Prompt
    response: str
    policy: str
    category: str
    severity: int | None
    note: str
    reward: float | None
    cost: float | None
    labeller: str
    at: float


def start_chat(store: Store, labeller: str, policy: str, now: float) -> int:
    """Begin an empty conversation with a policy; returns its number."""
    with store.transaction():
        row = (store.find_labeller(labeller), policy, now, now)
        store.rows("INSERT INTO chats (labeller, policy, turns, started_at, at) VALUES (?, ?, '[]', ?, ?)", *row)
        return int(store.rows("SELECT last_insert_rowid()")[0][0])


def chat(store: Store, number: int, labeller: str | None = None) -> Chat:
    """A conversation; one of this person, if given.

    Raises:
        StoreError: There is none of that number, or it is somebody else's.
    """
    found = _select(store, "c.number = ?1 AND (?2 IS NULL OR l.name = ?2)", number, labeller)
    if not found:
        raise StoreError("There is no such conversation of yours.", where=f"conversation {number}")
    return found[0]


def chats(store: Store, labeller: str | None = None) -> list[Chat]:
    """All conversations, or one person's, the newest first."""
    return _select(store, "?1 IS NULL OR l.name = ?1", labeller)


def add_turn(store: Store, number: int, labeller: str, turn: Turn, place: int, now: float) -> None:
    """Add what was said.

    Args:
        store: The project.
        number: Which conversation.
        labeller: Whose it is.
        turn: Question, answer and scores.
        place: How many turns the conversation had when the question was asked.
        now: Seconds since 1970.

    Raises:
        StoreError: It is not theirs, has grown in another tab meanwhile, or is full.
    """
    with store.transaction():
        found = chat(store, number, labeller)
        if len(found.turns) != place:
            raise StoreError(
                "The conversation has gone on in another tab.",
                where=f"conversation {number}",
                fix="Reload the page.",
            )
        if place >= MOST_TURNS:
            raise StoreError(f"A conversation has at most {MOST_TURNS} turns.", fix="Begin a new one.")
        turns = json.dumps([one.model_dump() for one in (*found.turns, turn)], ensure_ascii=False)
        store.rows("UPDATE chats SET turns = ?, at = ? WHERE number = ?", turns, now, number)


def mark_hit(store: Store, number: int, labeller: str, hit: Hit, now: float) -> None:
    """Say what is wrong with an answer; said again, it replaces what was said before.

    Raises:
        StoreError: It is not theirs, or there is no such answer.
    """
    with store.transaction():
        found = chat(store, number, labeller)
        if hit.turn >= len(found.turns):
            raise StoreError("There is no such answer.", where=f"conversation {number}, turn {hit.turn}")
        _save_hits(store, found, [*(one for one in found.hits if one.turn != hit.turn), hit], now)
        record(store, labeller, "mark hit", {"conversation": number, **hit.model_dump()}, now)


def unmark_hit(store: Store, number: int, labeller: str, turn: int, now: float) -> None:
    """Take a hit back; the journal keeps it."""
    with store.transaction():
        found = chat(store, number, labeller)
        _save_hits(store, found, [one for one in found.hits if one.turn != turn], now)
        record(store, labeller, "unmark hit", {"conversation": number, "turn": turn}, now)


def hits(store: Store) -> list[HitRecord]:
    """Every hit as a prompt for the next round, in the order of the conversations."""
    return [
        HitRecord(
            prompt=prompt_of(one, hit),
            response=one.turns[hit.turn].answer,
            policy=one.policy,
            category=hit.category,
            severity=hit.severity,
            note=hit.note,
            reward=one.turns[hit.turn].reward,
            cost=one.turns[hit.turn].cost,
            labeller=one.labeller,
            at=one.at,
        )
        for one in reversed(chats(store))
        for hit in one.hits
    ]


def prompt_of(found: Chat, hit: Hit) -> Prompt:
    """The conversation up to the question whose answer is the hit."""
    messages = messages_of(found.turns[: hit.turn], found.turns[hit.turn].question)
    source = f"red team, {found.policy}"
    return Prompt(messages=messages, kind="harmful", category=hit.category, attack=ATTACK, source=source)


def messages_of(turns: tuple[Turn, ...], question: str) -> tuple[Message, ...]:
    """A conversation as messages, with one more question at its end."""
    said: list[tuple[Literal["user", "assistant"], str]] = []
    for turn in turns:
        said += [("user", turn.question), ("assistant", turn.answer)]
    return tuple(Message(role=role, content=text) for role, text in [*said, ("user", question)])


def _save_hits(store: Store, found: Chat, kept: list[Hit], now: float) -> None:
    text = json.dumps([hit.model_dump() for hit in sorted(kept, key=lambda hit: hit.turn)]) if kept else None
    store.rows("UPDATE chats SET hit = ?, at = ? WHERE number = ?", text, now, found.number)


def _select(store: Store, condition: str, *values: object) -> list[Chat]:
    rows = store.rows(
        "SELECT c.number, l.name, c.policy, c.turns, c.hit, c.started_at, c.at FROM chats c"
        f" JOIN labellers l ON l.number = c.labeller WHERE {condition} ORDER BY c.number DESC",
        *values,
    )
    return [
        Chat(
            *(number, name, policy, tuple(Turn.model_validate(one) for one in json.loads(turns))),
            tuple(Hit.model_validate(one) for one in json.loads(marked or "[]")),
            *times,
        )
        for number, name, policy, turns, marked, *times in rows
    ]
