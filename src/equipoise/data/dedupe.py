"""Repeats: records said twice, and prompts that must not be on both sides of a split."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from equipoise.data.conversations import prompt_of
from equipoise.records import Prompt, Record

T = TypeVar("T")
RecordT = TypeVar("RecordT", bound=Record)


def unique(items: Iterable[T], key: Callable[[T], Hashable]) -> list[T]:
    """The first item for each key, in order."""
    firsts: dict[Hashable, T] = {}
    for item in items:
        firsts.setdefault(key(item), item)
    return list(firsts.values())


def reading_key(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    """What two prompts share that read the same: case, spacing and punctuation aside."""
    return tuple((turn.role, _words(turn.content)) for turn in prompt.messages)


def without_prompts_of(records: Sequence[RecordT], others: Iterable[Record]) -> list[RecordT]:
    """The records whose prompt does not read like one of the others': keeps evaluation prompts out of training."""
    taken = {reading_key(prompt_of(other)) for other in others}
    return [record for record in records if reading_key(prompt_of(record)) not in taken]


def _words(text: str) -> str:
    """The letters and digits of a text as lower-case words."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())
