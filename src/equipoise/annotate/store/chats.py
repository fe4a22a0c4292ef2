"""Red-team conversations: what people typed, what the policy answered, and which answer is a hit.

A hit becomes a prompt for the next round. Who answers and who scores is in the web app.
"""

import json
from collections.abc import Iterable

from pydantic import Field, JsonValue

from equipoise.annotate.store.core import Store
from equipoise.annotate.store.journal import record
from equipoise.annotate.store.project import settings
from equipoise.errors import StoreError
from equipoise.records import Message, Prompt, Record

SELECT = (
    "SELECT c.number, l.name, c.policy, c.turns, c.hit, c.started_at FROM chats c"
    " JOIN labellers l ON l.number = c.labeller"
)


class Turn(Message):
    """One turn of a conversation, an answer with its scores where models give them; cost > 0 is unsafe."""

    reward: float | None = None
    cost: float | None = None


class Hit(Record):
    """An answer that a person found harmful."""

    turn: int = Field(ge=1, description="Which turn, counted from 0; an assistant's.")
    category: str | None = Field(None, description="Of the project's taxonomy.")
    severity: int | None = Field(None, ge=0, le=3)
    comment: str = ""


class Chat(Record):
    """One conversation; `started_at` is in seconds since 1970."""

    number: int
    labeller: str
    policy: str
    turns: tuple[Turn, ...]
    hit: Hit | None
    started_at: float

    def prompt(self) -> Prompt:
        """What led to the hit, as a prompt for the next round.

        Raises:
            StoreError: There is no hit.
        """
        if self.hit is None:
            raise StoreError("This conversation has no hit.", where=f"chat {self.number}")
        messages = tuple(Message(role=one.role, content=one.content) for one in self.turns[: self.hit.turn])
        source = f"red team against {self.policy}"
        return Prompt(
            messages=messages, kind="harmful", category=self.hit.category, attack="person", source=source
        )


def start_chat(store: Store, labeller: str, policy: str, now: float) -> int:
    """Begin a conversation with a policy.

    Returns:
        Its number.
    """
    with store.transaction():
        row = (store.find_labeller(labeller), policy, "[]", now, now)
        store.rows("INSERT INTO chats (labeller, policy, turns, started_at, at) VALUES (?, ?, ?, ?, ?)", *row)
        return int(store.rows("SELECT last_insert_rowid()")[0][0])


def add_turns(store: Store, labeller: str, number: int, turns: tuple[Turn, ...], now: float) -> Chat:
    """Add what was said.

    Raises:
        StoreError: It is not this person's conversation.
    """
    with store.transaction():
        before = chat(store, labeller, number).turns
        said = json.dumps([turn.model_dump() for turn in (*before, *turns)], ensure_ascii=False)
        store.rows("UPDATE chats SET turns = ?, at = ? WHERE number = ?", said, now, number)
        return chat(store, labeller, number)


def mark_hit(store: Store, labeller: str, number: int, hit: Hit | None, now: float) -> None:
    """Say which answer is harmful, and how; None takes it back.

    Raises:
        StoreError: It is not this person's conversation, the turn is no answer, or the category is unknown.
    """
    with store.transaction():
        found = chat(store, labeller, number)
        where = f"chat {number}"
        if hit is not None and not (hit.turn < len(found.turns) and found.turns[hit.turn].role == "assistant"):
            raise StoreError("A hit is an answer of the policy's.", where=where, why=f"turn {hit.turn} is none")
        if hit is not None and hit.category not in (None, *settings(store).taxonomy.names):
            raise StoreError("This project has no such category.", where=where, why=repr(hit.category))
        kept = hit.model_dump_json() if hit else None
        store.rows("UPDATE chats SET hit = ?, at = ? WHERE number = ?", kept, now, number)
        detail: dict[str, JsonValue] = {"chat": number, "hit": json.loads(kept) if kept else None}
        record(store, labeller, "mark hit", detail, now)


def chat(store: Store, labeller: str | None, number: int) -> Chat:
    """One of a person's own conversations; anybody's for None, a lead.

    Raises:
        StoreError: It is not theirs, or there is none.
    """
    row = store.one(f"{SELECT} WHERE c.number = ?1 AND (?2 IS NULL OR l.name = ?2)", number, labeller)
    if row is None:
        raise StoreError("This conversation is not yours.", where=f"chat {number}")
    return _chat(*row)


def chats(store: Store, labeller: str | None = None, *, only_hits: bool = False) -> list[Chat]:
    """Conversations, the newest first: everybody's or one person's."""
    rows = store.rows(
        f"{SELECT} WHERE (?1 IS NULL OR l.name = ?1) AND (NOT ?2 OR c.hit IS NOT NULL) ORDER BY c.number DESC",
        *(labeller, only_hits),
    )
    return [_chat(*row) for row in rows]


def prompts_of(hits: Iterable[Chat]) -> list[Prompt]:
    """What led to each hit, as prompts for the next round; the same prompt once.

    Raises:
        StoreError: A conversation has no hit.
    """
    prompts: dict[str, Prompt] = {}
    for one in hits:
        prompts.setdefault(one.prompt().id, one.prompt())
    return [*prompts.values()]


def _chat(number: int, labeller: str, policy: str, turns: str, hit: str | None, started_at: float) -> Chat:
    return Chat(
        number=number,
        labeller=labeller,
        policy=policy,
        turns=json.loads(turns),
        hit=Hit.model_validate_json(hit) if hit else None,
        started_at=started_at,
    )
