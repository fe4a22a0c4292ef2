"""Our own JSON Lines: the records of `equipoise.records`, one per line, strictly.

The kind of record follows from the fields; one whose fields fit best is meant, so that a misspelt field is named
rather than the whole row rejected.
"""

from functools import lru_cache
from typing import Any

from equipoise.data.fields import Fields, Origin, Parsed
from equipoise.data.jsonl import Row, to_record
from equipoise.records import (
    Comparison,
    Demonstration,
    PreferencePair,
    Prompt,
    Record,
    RefusalLabel,
    Response,
    SafetyLabel,
    ScoredResponse,
)

NEEDS = ("prompt.messages",)
KINDS: tuple[type[Record], ...] = (
    Prompt,
    Response,
    ScoredResponse,
    SafetyLabel,
    PreferencePair,
    Comparison,
    RefusalLabel,
)


def matches(row: Fields) -> bool:
    """Whether the prompt is a conversation, or the whole row is one and nothing foreign."""
    prompt = row.get("prompt")
    if isinstance(prompt, dict) and "messages" in prompt:
        return True
    return isinstance(row.get("messages"), list) and all(name in Prompt.model_fields for name in row)


def parse(row: Any, origin: Origin) -> Parsed:
    """One record. What the source says about its prompts does not reach them here: their records say it.

    Raises:
        DataError: Names each unknown, missing or wrong field.
    """
    del origin
    return Parsed((to_record(Row(0, row), _kind_of(row)),))


def _kind_of(row: Fields) -> type[Record]:
    kind = _nearest_kind(frozenset(row))
    return Demonstration if kind is Prompt and _ends_with_answer(row) else kind


@lru_cache(maxsize=64)  # the rows of a file have the same fields
def _nearest_kind(names: frozenset[str]) -> type[Record]:
    """The record whose fields overlap most with these; the first of equals."""
    return max(KINDS, key=lambda kind: len(names & kind.model_fields.keys()))


def _ends_with_answer(row: Fields) -> bool:
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"
