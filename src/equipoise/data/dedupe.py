"""Repeats: records said twice, and prompts that read the same."""

from collections.abc import Callable, Hashable, Iterable
from functools import cache
from typing import TypeVar
from unicodedata import category, normalize

from equipoise.records import Prompt

T = TypeVar("T")


def unique(items: Iterable[T], key: Callable[[T], Hashable]) -> list[T]:
    """The first item for each key, in order."""
    firsts: dict[Hashable, T] = {}
    for item in items:
        firsts.setdefault(key(item), item)
    return list(firsts.values())


def reading_key(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    """What two prompts share that read the same: case, spacing and punctuation aside."""
    return tuple((turn.role, words_of(turn.content)) for turn in prompt.messages)


def words_of(text: str) -> str:
    """The letters and digits of a text as lower-case words; signs on a letter (vowels, accents) belong to it."""
    return " ".join(normalize("NFC", text.casefold()).translate(_letters()).split())


class _Letters(dict[int, str]):
    """A table for `str.translate`, filled as characters are met: training data has millions of them."""

    def __missing__(self, code: int) -> str:
        c = chr(code)
        self[code] = c if c.isalnum() or category(c)[0] == "M" else " "
        return self[code]


@cache
def _letters() -> _Letters:
    return _Letters()
