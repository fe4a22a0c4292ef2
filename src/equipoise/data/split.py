"""Splits by prompt: all records of one prompt fall on the same side, whatever else the set holds.

`split_by_request` makes what a project trains on and what it is evaluated on; `split_by_prompt` holds out
something inside a stage.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from equipoise.data.conversations import prompt_of
from equipoise.data.overlap import Excluded, request_key
from equipoise.errors import DataError
from equipoise.records import Prompt, Record

RecordT = TypeVar("RecordT", bound=Record)
T = TypeVar("T")


class Split(NamedTuple, Generic[T]):
    """The two sides of a split."""

    train: list[T]
    held_out: list[T]


class Sides(NamedTuple):
    """Prompts for training and for evaluation, and those that may be neither."""

    train: list[Prompt]
    evaluation: list[Prompt]
    left_out: list[Prompt]


def split_by_request(prompts: Sequence[Prompt], eval_share: float, seed: int) -> Sides:
    """Split prompts by a hash of what they ask for.

    A prompt's side depends on its request (`overlap.request_key`), the share and the seed alone: an attack goes
    where its request goes, another order changes nothing, more prompts move none to the other side, and a larger
    share only moves prompts to the evaluation. A training prompt that still overlaps with the evaluation (one
    request inside another, an attack that does not name its request) is left out.

    Args:
        prompts: Any prompts.
        eval_share: Share of requests for evaluation, in [0, 1].
        seed: Another seed, another split: keep to one in a project.

    Raises:
        DataError: The share is out of range.
    """
    _check_share(eval_share)
    train: list[Prompt] = []
    evaluation: list[Prompt] = []
    for prompt in prompts:
        is_low = prompt_position(f"request:{request_key(prompt)}", seed) < eval_share
        (evaluation if is_low else train).append(prompt)
    left_out = Excluded(tuple(evaluation)).overlapping(train)
    known = {prompt.id for prompt in left_out}
    return Sides([prompt for prompt in train if prompt.id not in known], evaluation, left_out)


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
    return split_by_id(records, lambda record: prompt_of(record).id, held_out, seed)


def split_by_id(items: Iterable[T], prompt_id: Callable[[T], str], held_out: float, seed: int) -> Split[T]:
    """`split_by_prompt` of anything that knows the id of its prompt.

    Raises:
        DataError: The share is out of range.
    """
    _check_share(held_out)
    split: Split[T] = Split([], [])
    for item in items:
        (split.held_out if prompt_position(prompt_id(item), seed) < held_out else split.train).append(item)
    return split


def prompt_position(prompt_id: str, seed: int) -> float:
    """Where a prompt lies in [0, 1), uniformly over prompts."""
    digest = hashlib.sha256(f"{seed}:{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def fold_of(prompt_id: str, folds: int, seed: int) -> int:
    """Which of `folds` cross-validation folds a prompt belongs to."""
    return int(prompt_position(prompt_id, seed) * folds)


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise DataError(f"The share to hold out is {share}, not in [0, 1].")
