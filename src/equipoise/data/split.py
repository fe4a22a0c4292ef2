"""Splits by prompt: all records of one prompt fall on the same side, whatever else the set holds."""

import hashlib
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from equipoise.data.conversations import prompt_of
from equipoise.errors import DataError
from equipoise.records import Record

RecordT = TypeVar("RecordT", bound=Record)


class Split(NamedTuple, Generic[RecordT]):
    """The two sides of a split."""

    train: list[RecordT]
    held_out: list[RecordT]


def split_by_prompt(records: Iterable[RecordT], held_out: float, seed: int) -> Split[RecordT]:
    """Split records by a hash of their prompt.

    A prompt's side depends on the prompt and the seed alone, so that growing the set moves nothing.

    Args:
        records: Any records that carry a prompt.
        held_out: Share of prompts to hold out, in [0, 1].
        seed: Another seed, another split.

    Raises:
        DataError: The share is out of range, or a record carries no prompt.
    """
    if not 0 <= held_out <= 1:
        raise DataError(f"The share to hold out is {held_out}, not in [0, 1].")
    train: list[RecordT] = []
    held: list[RecordT] = []
    for record in records:
        (held if prompt_position(prompt_of(record).id, seed) < held_out else train).append(record)
    return Split(train, held)


def prompt_position(prompt_id: str, seed: int) -> float:
    """Where a prompt lies in [0, 1), uniformly over prompts."""
    digest = hashlib.sha256(f"{seed}:{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def fold_of(prompt_id: str, folds: int, seed: int) -> int:
    """Which of `folds` cross-validation folds a prompt belongs to."""
    return int(prompt_position(prompt_id, seed) * folds)
