"""The rows that a model is writing, with their keys and values; rows leave, and others enter, while it writes.

`OpenRows`: the latest token of every row stands in the same column, so a step writes one column in place for all
rows, and what stands before a row's first token is hidden from it. Keys carry their positions with them, so the
column that they stand in does not matter, and regrouping is one copy. `can_open` says what this needs of a model;
any other goes through `ClosedRows`, the library's own cache, which rows enter together. Left out: what is written.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from equipoise.algos.masking import position_ids
from equipoise.errors import ModelError
from equipoise.models.sharing import takes_any_mask
from equipoise.rollout.attention import NAME
from equipoise.tokens.batches import PromptBatch, rows

ROOM = 16
"""Columns that are added when all are full: then the cache is copied, and every step reads the empty ones too."""
PREFILL = 16
"""Prompts per forward pass: on a CPU more are no faster, and neighbours in length have little padding."""

Reader = Callable[[Tensor, Tensor, Tensor, Cache], Tensor]


class Entering(NamedTuple):
    """New rows: what they begin with, and which rows begin with the same."""

    prompts: PromptBatch  # (B, P)
    copies: Tensor  # (m,) int64 into B, ascending


class Rows(Protocol):
    """n rows, none at first."""

    def regroup(self, keep: Tensor, entering: Entering | None = None) -> None:
        """Keep some rows, in this order, and add others below, whose prompts are read but for their last token.

        Args:
            keep: (k,) int64 row numbers.
            entering: New rows; `ClosedRows` takes them only where k = 0.
        """
        ...

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Read one more token per row.

        Args:
            tokens: (n,) int64.
            positions: (n,) int64 of these tokens, padding not counted.

        Returns:
            (n, 1, V) logits of the next token.
        """
        ...


def can_open(model: PreTrainedModel, length: int) -> bool:
    """Whether rows may stand anywhere in the cache, hence enter while others write; see `takes_any_mask`."""
    return takes_any_mask(model, length, attention=("sdpa", NAME))


class OpenRows:
    """Rows in buffers of our own; see `Rows`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.read = _reader(model)
        self.empty = partial(DynamicCache, config=model.config)
        self.cache = DynamicCache()
        self.buffers: list[Tensor] = []  # (n, H, columns, D): visible or not (H = D = 1), keys, values, keys …
        self.used = 0  # columns that hold tokens

    def regroup(self, keep: Tensor, entering: Entering | None = None) -> None:
        """See `Rows`."""
        parts = self._entered(entering) if entering else []
        if len(keep):
            first = int(self.buffers[0][keep].any(dim=0).flatten().int().argmax())
            parts.insert(0, [buffer[keep, :, first : self.used] for buffer in self.buffers])
        used = max(part[0].shape[2] for part in parts)
        self.hold([_stacked(tensors, used + ROOM) for tensors in zip(*parts, strict=True)], used)

    def hold(self, buffers: list[Tensor], used: int) -> None:
        """Go on with these buffers, whose first `used` columns hold tokens."""
        self.buffers, self.used = buffers, used
        pairs = zip(buffers[1::2], buffers[2::2], strict=True)
        self.cache.layers = [_InPlaceLayer(keys, values, used) for keys, values in pairs]

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """See `Rows`."""
        if self.used == self.buffers[0].shape[2]:
            self.regroup(torch.arange(len(tokens), device=tokens.device))
        visible = self.buffers[0]
        visible[:, :, self.used] = True
        self.used += 1
        return self.read(tokens[:, None], visible.transpose(2, 3), positions[:, None], self.cache)

    def _entered(self, entering: Entering) -> list[list[Tensor]]:
        """What goes into the buffers, a list per group of prompts."""
        parts = []
        for start in range(0, len(entering.prompts.input_ids), PREFILL):
            end = start + PREFILL
            cache = self.empty()
            mask = _read_prompts(self.read, rows(entering.prompts, slice(start, end)), cache)
            copies = entering.copies[(entering.copies >= start) & (entering.copies < end)] - start
            layers = cast("list[DynamicLayer]", cache.layers)
            states = [cast("Tensor", x)[copies] for layer in layers for x in (layer.keys, layer.values)]
            parts.append([mask[copies, None, :, None], *states])
        return parts


class ClosedRows:
    """Rows in the library's own cache; see `Rows`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.read = _reader(model)
        self.empty = partial(DynamicCache, config=model.config)
        self.cache = DynamicCache()
        self.mask = torch.zeros(0, 0, dtype=torch.bool)  # (n, columns)

    def regroup(self, keep: Tensor, entering: Entering | None = None) -> None:
        """See `Rows`."""
        if entering:
            self.cache = self.empty()
            self.mask = _read_prompts(self.read, entering.prompts, self.cache)
            keep = entering.copies
        self.cache.reorder_cache(cast("torch.LongTensor", keep))
        self.mask = self.mask[keep]

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """See `Rows`."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        return self.read(tokens[:, None], self.mask, positions[:, None], self.cache)


class _InPlaceLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # untyped in the library
    """Writes one column per step and shows all of them; the library's layer copies all of them at every step."""

    def __init__(self, keys: Tensor, values: Tensor, used: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in the library
        self.buffers, self.used = (keys, values), used
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys, values = self.buffers
        keys[:, :, self.used] = key_states[:, :, 0]
        values[:, :, self.used] = value_states[:, :, 0]
        self.used += 1
        return keys, values

    def get_seq_length(self) -> int:
        return self.used


def _reader(model: PreTrainedModel) -> Reader:
    """A forward pass over (n, S) tokens, their mask and positions, that adds to a cache: (n, 1, V) last logits.

    Raises:
        ModelError: The model takes no `past_key_values`.
    """
    takes = inspect.signature(model.forward).parameters
    if "past_key_values" not in takes:
        raise ModelError(
            f"No response can be sampled from a {model.config.model_type} model.",
            where=str(model.config.name_or_path),
            why="its forward takes no past_key_values: it keeps what it has read in a way of its own",
            fix="Take a model with attention over keys and values.",
        )
    options = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def read(tokens: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        given = options | ({"position_ids": positions} if "position_ids" in takes else {})  # Bloom has none
        output = model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **given)
        return cast("Tensor", output.logits[:, -1:])

    return read


def _read_prompts(read: Reader, prompts: PromptBatch, cache: Cache) -> Tensor:
    """Read all tokens of prompts but the last, without columns that are padding in all: (B, columns) bool mask."""
    width = int(prompts.attention_mask.sum(dim=1).max())
    ids, mask = (x[:, -width:-1] for x in (prompts.input_ids, prompts.attention_mask))
    if width == 1:  # a cache cannot have no column: it gets one of padding
        ids, mask = prompts.input_ids[:, -1:], torch.zeros_like(prompts.attention_mask[:, -1:])
    read(ids, mask, position_ids(mask), cache)
    return mask


def _stacked(parts: Sequence[Tensor], columns: int) -> Tensor:
    """Put (n_i, H, w_i, D) below each other, their last columns in line: (Σ n_i, H, columns, D), 0 elsewhere."""
    end = max(part.shape[2] for part in parts)
    whole = parts[0].new_zeros(sum(map(len, parts)), parts[0].shape[1], columns, parts[0].shape[3])
    for part, place in zip(parts, torch.split(whole, [len(part) for part in parts]), strict=True):
        place[:, :, end - part.shape[2] : end] = part
    return whole
