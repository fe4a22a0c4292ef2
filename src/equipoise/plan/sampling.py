"""What the sampler keeps at its widest: all rows still writing when the last token is drawn."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from equipoise.algos.masking import position_ids
from equipoise.plan.memory import Tally, blank
from equipoise.rollout.attention import can_attend, one_token_attention
from equipoise.rollout.config import Sampling
from equipoise.rollout.native import draw, log_distribution
from equipoise.rollout.rows import PREFILL, ROOM, ClosedRows, OpenRows, can_open


def sample(model: PreTrainedModel, rows: int, prompt: int, sampling: Sampling, tally: Tally) -> int:
    """Go through the widest moments of `NativeSampler`: reading prompts, the cache's last growth, the last step.

    Args:
        model: The policy, without gradients and dropout.
        rows: Responses that are written at a time.
        prompt: Tokens of the longest prompt.
        sampling: Its limit is the length of every response.
        tally: Where tensors are counted.

    Returns:
        Bytes of the keys and values of all rows, at full length.
    """
    end = prompt + sampling.max_new_tokens - 1  # the last token drawn is never read
    opened = can_open(model, prompt + sampling.max_new_tokens)
    desk = OpenRows(model) if opened else ClosedRows(model)
    cache = desk.empty()
    width = max(1, prompt - 1)
    ids, mask = blank(min(rows, PREFILL) if opened else rows, width)
    before = tally.ledger.live
    desk.read(ids, mask, position_ids(mask), cache)
    column = _size(cache) / ids.numel()
    parts = _widened(cache, max(0, rows - len(ids)), width)  # of the groups read before
    del parts
    columns = width + ROOM * -(-(end - width) // ROOM) if opened else end
    old = _widened(cache, rows, columns - ROOM) if opened and columns > width + ROOM else []
    states = _widened(cache, rows, columns if opened else end - 1)
    del old
    if isinstance(desk, OpenRows):
        visible = torch.ones(rows, 1, columns, 1, dtype=torch.bool)
        del cache
        desk.hold([visible, *states], columns - 1)
    else:
        layers: list[Any] = cache.layers
        for layer, keys, values in zip(layers, states[::2], states[1::2], strict=True):
            layer.keys, layer.values = keys, values
        desk.cache, desk.mask = cache, torch.ones(rows, end - 1, dtype=torch.bool)
    del states
    last = torch.zeros(rows, dtype=torch.int64)
    with one_token_attention(model) if can_attend(model) and not tally.gpu else nullcontext():
        logits = desk.step(last, last)
    distribution = log_distribution(logits, *blank(rows, end), sampling)
    draw(distribution, torch.zeros(rows, dtype=torch.float64))
    del desk, logits, distribution
    assert tally.ledger.live >= before
    return round(column * rows * end)


def _size(cache: DynamicCache) -> int:
    return sum(x.nbytes for x in _states(cache))


def _states(cache: DynamicCache) -> list[Tensor]:
    """Keys and values, (B, H, columns, D), of each layer."""
    layers: list[Any] = cache.layers
    return [x for layer in layers for x in (layer.keys, layer.values)]


def _widened(cache: DynamicCache, rows: int, columns: int) -> list[Tensor]:
    """Keys and values like those in the cache: (rows, H, columns, D) for each layer, keys first."""
    return [x.new_empty(rows, x.shape[1], columns, x.shape[3]) for x in _states(cache)]
