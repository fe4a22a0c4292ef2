"""Answers to one prompt side by side in one sequence, so that a pass reads the prompt once.

The prompt stands first, the answers behind it; each answer sees the prompt and itself, at the positions that it
has alone. So every number is that of a pass over separate sequences, up to rounding, gradients included (as in
Prefix Grouper, Liu et al. 2025, which restructures attention instead). It saves the prompt's other readings and
padding; it costs attention that is computed and then masked. So `share_prompts` counts first. Where a network has
dropout, answers that share a prompt share what is dropped of it.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from equipoise.tokens.batches import families


class Shared(NamedTuple):
    """U prompts with their answers, S tokens each, padded on the right."""

    input_ids: Tensor  # (U, S) int64
    position_ids: Tensor  # (U, S) int64
    visible: Tensor  # (U, 1, S, S) bool: which tokens a token sees
    place: Tensor  # (B, L) int64 into U·S: where each token of the B sequences stands; anywhere for padding


def share_prompts(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor
) -> Shared | None:
    """The sequences with each prompt once; None where that is no gain, or the model cannot read them so.

    Args:
        model: A causal model, unwrapped.
        input_ids: (B, L) int64, padded on the right; those with the same prompt stand side by side.
        attention_mask: (B, L) bool.
        prompt_lengths: (B,) int64: tokens before the answer, at least one.
    """
    family = families(input_ids, prompt_lengths)
    if bool((family[1:] != family[:-1]).all()) or not takes_any_mask(model, input_ids.shape[1]):
        return None
    own = attention_mask.sum(dim=1) - prompt_lengths
    before = own.cumsum(dim=0) - own  # of all answers above
    first = torch.searchsorted(family, family)  # row of the family's first
    start = prompt_lengths + before - before[first]
    prompts = int(family[-1]) + 1
    length = int((start + own).max())
    rows, columns = input_ids.shape
    if not pays(model, (rows, columns), (prompts, length)):
        return None
    column = torch.arange(columns, device=input_ids.device)
    is_prompt = column < prompt_lengths[:, None]
    there = torch.where(is_prompt, column, (start - prompt_lengths)[:, None] + column)
    place = torch.where(attention_mask, family[:, None] * length + there, 0)
    number = torch.arange(1, rows + 1, device=input_ids.device)[:, None]
    at = place[attention_mask]

    def laid_out(values: Tensor, padding: int) -> Tensor:
        flat = torch.full((prompts * length,), padding, device=values.device)
        flat[at] = values.expand(rows, columns)[attention_mask]
        return flat.view(prompts, length)

    answer = laid_out(torch.where(is_prompt, 0, number), -1)  # 0 is the prompt, −1 padding
    seen = (answer[:, :, None] == answer[:, None, :]) | (answer[:, None, :] == 0)
    order = torch.arange(length, device=input_ids.device)
    visible = seen & (order <= order[:, None])
    return Shared(laid_out(input_ids, 0), laid_out(column[None], 0), visible[:, None], place)


GAIN = 0.9
"""Sequences are laid out anew where that leaves at most this share of the work."""


def pays(model: Any, apart: tuple[int, int], together: tuple[int, int]) -> bool:
    """Whether to lay sequences out anew.

    Args:
        model: A causal model, unwrapped.
        apart: How many, and tokens of each, padding included.
        together: Prompts, and tokens of each with all its answers, padding included.
    """
    width = int(model.config.get_text_config().hidden_size)
    return work(*together, width, masked=True) <= GAIN * work(*apart, width, masked=False)


def work(rows: int, length: int, width: int, *, masked: bool) -> float:
    """Multiplications of a forward pass per layer and width, Σ over tokens of 12·H + 2·(tokens that they see).

    A layer has some 12·H² weights. Without a mask kernels skip what lies in the future; with one, nothing.

    Args:
        rows: Sequences.
        length: Tokens of each, padding included.
        width: H, of a hidden state.
        masked: Whether attention has a mask.
    """
    return rows * length * (12 * width + 2 * (length if masked else length / 2))


def takes_any_mask(model: Any, length: int, attention: Sequence[str] = ("sdpa",)) -> bool:
    """Whether tokens may stand anywhere in a sequence.

    The model must take its positions from `position_ids` alone, and the mask of its attention as it is given; each
    of its layers must see all `length` tokens of the longest sequence.

    Args:
        model: A causal model, unwrapped.
        length: Tokens of the longest sequence.
        attention: Names of implementations that take such masks.
    """
    config = model.config
    return (
        "position_ids" in inspect.signature(model.forward).parameters
        and config._attn_implementation in attention
        and not getattr(config, "alibi", False)
        and all(_window(layer) >= length for layer in DynamicCache(config=config).layers)
    )


def _window(layer: Any) -> float:
    """How many tokens a layer of a cache sees; 0 for layers that are no attention over keys and values."""
    if type(layer) is DynamicSlidingWindowLayer:
        return float(layer.sliding_window)
    return float("inf") if type(layer) is DynamicLayer else 0.0
