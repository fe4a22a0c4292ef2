"""The tensors that stages compute on, one frozen type per step of their life.

Letters: B sequences, N scored responses, M pairs, P prompt tokens, R response tokens, L = P + R. Masks are bool,
True counts, and are made where the tokens are made: no value of a tensor ever means "absent". Text does not
live here (`records`), nor does the making of batches from text (`collate`).

Sign: cost > 0 is unsafe; a sign is +1 for unsafe, −1 for safe.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

BatchT = TypeVar("BatchT", bound=Any)


@dataclass(frozen=True)
class SftBatch:
    """Demonstrations, padded on the right. A target is a token to be predicted from those before it."""

    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) bool
    target_mask: Tensor  # (B, L) bool: the assistant's tokens with the end of its turn

    def to(self, device: torch.device | str) -> "SftBatch":
        """The same batch on `device`."""
        return on_device(self, device)


@dataclass(frozen=True)
class ScoreBatch:
    """Conversations to be scored, padded on the right; the last real token is the end of the turn."""

    input_ids: Tensor  # (N, L) int64
    attention_mask: Tensor  # (N, L) bool
    prompt_lengths: Tensor  # (N,) int64: tokens before the response

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a scorer is called with."""
        return self.input_ids, self.attention_mask, self.prompt_lengths

    def to(self, device: torch.device | str) -> "ScoreBatch":
        """The same batch on `device`."""
        return on_device(self, device)


@dataclass(frozen=True)
class RewardBatch:
    """Pairs for the reward model; a response that occurs in several pairs is in `responses` once."""

    responses: ScoreBatch  # N conversations
    winners: Tensor  # (M,) int64 into N: the more helpful
    losers: Tensor  # (M,) int64 into N

    def to(self, device: torch.device | str) -> "RewardBatch":
        """The same batch on `device`."""
        return on_device(self, device)


@dataclass(frozen=True)
class CostBatch:
    """Pairs and safety labels for the cost model."""

    responses: ScoreBatch  # N conversations
    winners: Tensor  # (M,) int64 into N: the more harmful
    losers: Tensor  # (M,) int64 into N: the safer
    signs: Tensor  # (N,) float32: +1 unsafe, −1 safe; a response that people labelled both ways has two rows
    singles: Tensor  # (S,) int64 into N: safety labels without a pair
    category_signs: Tensor  # (N, K) float32: +1 harmful in this way, −1 not; K = 0 without categories
    category_known: Tensor  # (N,) bool: the label says which categories hold

    def to(self, device: torch.device | str) -> "CostBatch":
        """The same batch on `device`."""
        return on_device(self, device)


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that await an answer, padded on the left."""

    input_ids: Tensor  # (B, P) int64
    attention_mask: Tensor  # (B, P) bool

    def to(self, device: torch.device | str) -> "PromptBatch":
        """The same batch on `device`."""
        return on_device(self, device)


@dataclass(frozen=True)
class Rollout:
    """Prompts with sampled responses: prompts padded on the left, responses on the right."""

    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) bool
    response_mask: Tensor  # (B, R) bool: the last R positions; True up to and with the end token
    log_probs: Tensor  # (B, R) float32, nats, of the distribution that was sampled from
    finished: Tensor  # (B,) bool: False where the token limit cut the response

    def to(self, device: torch.device | str) -> "Rollout":
        """The same batch on `device`."""
        return on_device(self, device)


@dataclass(frozen=True)
class ScoredRollout:
    """A rollout with everything known about it before the first update."""

    rollout: Rollout
    ref_log_probs: Tensor  # (B, R) float32, nats
    rewards: Tensor  # (B,) float32
    costs: Tensor  # (B,) float32, > 0 unsafe
    watched: Tensor  # (B,) float32: what of the costs a constraint watches, and the cost stream learns from
    lams: Tensor  # (B,) float32 ≥ 0: λ that weighs it against the reward

    def to(self, device: torch.device | str) -> "ScoredRollout":
        """The same batch on `device`."""
        return on_device(self, device)


@dataclass(frozen=True)
class Advantages:
    """What the update needs besides the rollout, of rewards or of costs."""

    advantages: Tensor  # (B, R) float32
    values: Tensor  # (B, R) float32, V_old read at the position before each response token
    returns: Tensor  # (B, R) float32

    def to(self, device: torch.device | str) -> "Advantages":
        """The same batch on `device`."""
        return on_device(self, device)


def on_device(batch: BatchT, device: torch.device | str) -> BatchT:
    """The batch with every tensor on `device`."""
    return _mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def rows(batch: BatchT, index: Tensor | slice) -> BatchT:
    """Some rows of a batch whose every tensor has B rows, such as a rollout and what is known about it.

    Args:
        batch: The batch; not one of pairs, whose tensors are indices.
        index: A slice, or (n,) int64 row numbers, or (B,) bool.
    """
    return _mapped(batch, lambda tensor: tensor[index])


def repeated(batch: BatchT, times: int) -> BatchT:
    """Each row of such a batch `times` times, one after the other."""
    return _mapped(batch, lambda tensor: tensor.repeat_interleave(times, dim=0))


class Shape(NamedTuple):
    """What an item brings to a forward pass."""

    rows: int
    length: int  # tokens of the longest sequence
    family: int | None = None  # those with the same number begin with the same prompt


def parts_by_length(shapes: Sequence[Shape], size: int | None, tokens: int | None = None) -> list[list[int]]:
    """Item numbers in parts, neighbours in length together; one part of all when both limits are unset.

    Families stay together, for a pass reads their prompt once (`models.sharing`); they go by their longest member.

    Args:
        shapes: Of the items.
        size: The most items of a part.
        tokens: Or: the most tokens of a part, padding included; an item that has more is a part of its own.
    """
    longest: dict[int | None, int] = {}
    for one in shapes:
        longest[one.family] = max(one.length, longest.get(one.family, 0))

    def place(number: int) -> tuple[int, int]:
        _, length, family = shapes[number]
        return (length, 0) if family is None else (longest[family], family)

    order = sorted(range(len(shapes)), key=place)
    if tokens is not None:
        return _within_tokens(shapes, order, tokens)
    if size is not None:
        return [order[i : i + size] for i in range(0, len(order), size)]
    return [list(range(len(shapes)))] if shapes else []


def _within_tokens(shapes: Sequence[Shape], order: Sequence[int], tokens: int) -> list[list[int]]:
    parts: list[list[int]] = []
    together = longest = 0
    for number in order:
        one = shapes[number]
        together, longest = together + one.rows, max(longest, one.length)
        if not parts or together * longest > tokens:
            parts.append([])
            together, longest = one.rows, one.length
        parts[-1].append(number)
    return parts


def by_length(rollout: Rollout, size: int | None, tokens: int | None = None) -> list[Tensor]:
    """Row numbers of a rollout as `parts_by_length` cuts them, prompts not padded: see `aligned`."""
    input_ids, attention_mask, before = aligned(rollout)
    lengths, family = attention_mask.sum(dim=1).tolist(), families(input_ids, prompt_lengths(before)).tolist()
    shapes = [Shape(1, *one) for one in zip(lengths, family, strict=True)]
    return [torch.tensor(part, device=input_ids.device) for part in parts_by_length(shapes, size, tokens)]


def prompt_lengths(before: Tensor) -> Tensor:
    """How many tokens stand before each response.

    Args:
        before: (B, S) bool, True one position before each token of a response.

    Returns:
        (B,) int64.
    """
    return before.int().argmax(dim=1) + 1


def families(input_ids: Tensor, prompt_lengths: Tensor) -> Tensor:
    """Number the prompts: neighbours with the same one get the same number.

    Args:
        input_ids: (B, L) int64, each sequence from the left edge on.
        prompt_lengths: (B,) int64.

    Returns:
        (B,) int64, from 0, ascending.
    """
    behind = torch.arange(input_ids.shape[1], device=input_ids.device) >= prompt_lengths[1:, None]
    alike = ((input_ids[1:] == input_ids[:-1]) | behind).all(dim=1) & (prompt_lengths[1:] == prompt_lengths[:-1])
    return torch.cat([alike.new_zeros(1), ~alike]).cumsum(dim=0)


def trim(rollout: Rollout) -> Rollout:
    """The same sequences without the columns behind the longest response."""
    width = rollout.response_mask.shape[1]
    kept = int(rollout.response_mask.sum(dim=-1).max())  # R of the longest response
    end = rollout.input_ids.shape[1] - width + kept
    return Rollout(
        input_ids=rollout.input_ids[:, :end],
        attention_mask=rollout.attention_mask[:, :end],
        response_mask=rollout.response_mask[:, :kept],
        log_probs=rollout.log_probs[:, :kept],
        finished=rollout.finished,
    )


class Aligned(NamedTuple):
    """Sequences with all padding behind them, and where the logits and values of response tokens stand."""

    input_ids: Tensor  # (B, S) int64, S tokens of the longest sequence
    attention_mask: Tensor  # (B, S) bool
    before: Tensor  # (B, S) bool: True one position before each response token, row by row as in response_mask


def aligned(rollout: Rollout) -> Aligned:
    """Move each sequence to the left edge: no prompt is padded any more, and a causal model needs no mask."""
    lengths = rollout.attention_mask.sum(dim=1, keepdim=True)
    column = torch.arange(int(lengths.max()), device=lengths.device)
    first = rollout.attention_mask.int().argmax(dim=1, keepdim=True)
    source = (first + column).clamp(max=rollout.input_ids.shape[1] - 1)
    prompts = lengths - rollout.response_mask.sum(dim=1, keepdim=True)
    before = (column >= prompts - 1) & (column < lengths - 1)
    return Aligned(rollout.input_ids.gather(1, source), column < lengths, before)


def part_of(scored: ScoredRollout, index: Tensor) -> ScoredRollout:
    """Some sequences of a scored rollout, trimmed."""
    some: ScoredRollout = rows(scored, index)
    rollout = trim(some.rollout)
    return replace(some, rollout=rollout, ref_log_probs=some.ref_log_probs[:, : rollout.response_mask.shape[1]])


def _mapped(batch: BatchT, change: Callable[[Tensor], Tensor]) -> BatchT:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    changed = {
        name: change(value) if isinstance(value, Tensor) else _mapped(value, change)
        for name, value in values.items()
    }
    return replace(batch, **changed)
