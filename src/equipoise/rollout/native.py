"""Our own decode loop: any causal language model of `transformers`, a cache, one token per step.

Unlike `generate` it takes an explicit generator, returns the log-probabilities of what it drew, drops rows that
have ended, and writes the cache in place. Beam search, stop strings and token streaming are not here.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from equipoise.algos.logprobs import process_logits
from equipoise.algos.masking import position_ids
from equipoise.rollout.config import Sampling
from equipoise.rollout.sampler import check_context, evaluating
from equipoise.tokens.batches import PromptBatch, Rollout

DROP_BELOW = 0.75
"""Ended rows are dropped when the share still writing is at most this: each drop copies the cache once."""


@dataclass(frozen=True)
class NativeSampler:
    """A policy with the token that ends a turn and the one that fills up."""

    model: PreTrainedModel
    end_id: int
    pad_id: int

    def sample(self, prompts: PromptBatch, sampling: Sampling, generator: torch.Generator) -> Rollout:
        """See `Sampler.sample`; a row's draws depend on the other rows of its batch.

        Raises:
            ModelError: A prompt and its response may not fit into the model's context.
        """
        check_context(self.model, prompts, sampling)
        with evaluating(self.model):
            return self._decode(prompts, sampling, generator)

    def _decode(self, prompts: PromptBatch, sampling: Sampling, generator: torch.Generator) -> Rollout:
        batch, start = prompts.input_ids.shape
        limit, device = sampling.max_new_tokens, prompts.input_ids.device
        ids = torch.full((batch, start + limit), self.pad_id, device=device)
        ids[:, :start] = prompts.input_ids
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[:, :start] = prompts.attention_mask
        log_probs = torch.zeros(batch, limit, device=device)
        finished = torch.zeros(batch, dtype=torch.bool, device=device)
        cache = in_place_cache(self.model.config, start + limit)
        rows = torch.arange(batch, device=device)  # (n,) the rows still in the model's batch …
        writing = torch.ones_like(finished)  # (n,) … and which of them have not ended
        visible = torch.ones_like(mask)  # (B, L) padding of the prompt is False; ended rows go on seeing
        visible[:, :start] = prompts.attention_mask
        inputs, positions = prompts.input_ids, position_ids(prompts.attention_mask)
        takes = inspect.signature(self.model.forward).parameters
        options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        for now in range(start, start + limit):
            if "position_ids" in takes:  # Bloom and its like have none
                options["position_ids"] = positions
            output = self.model(
                input_ids=inputs,
                attention_mask=visible[rows, :now],
                past_key_values=cache,
                use_cache=True,
                **options,
            )
            distribution = log_distribution(output.logits[:, -1:], ids[rows, :now], mask[rows, :now], sampling)
            drawn = draw(distribution, generator)  # (n, 1)
            ids[rows, now] = drawn[:, 0].where(writing, self.pad_id)
            log_probs[rows, now - start] = distribution.gather(1, drawn)[:, 0].masked_fill(~writing, 0.0)
            mask[rows, now] = writing
            finished[rows] |= drawn[:, 0] == self.end_id
            inputs, positions, writing = drawn, positions[:, -1:] + 1, ~finished[rows]
            left = int(writing.sum())
            if left == 0:
                break
            if left <= DROP_BELOW * len(rows):
                keep = writing.nonzero()[:, 0]
                cache.batch_select_indices(keep)
                rows, writing, inputs, positions = rows[keep], writing[keep], inputs[keep], positions[keep]
        end = now + 1
        return Rollout(ids[:, :end], mask[:, :end], mask[:, start:end], log_probs[:, : end - start], finished)


def log_distribution(logits: Tensor, context: Tensor, context_mask: Tensor, sampling: Sampling) -> Tensor:
    """The log-probabilities that the next token is drawn with; temperature 0 puts all mass on the largest logit.

    Args:
        logits: (B, 1, V).
        context: (B, S) int64, all tokens so far.
        context_mask: (B, S) bool.
        sampling: Temperature, nucleus, repetition penalty.

    Returns:
        (B, V) float32, in nats.
    """
    greedy = sampling.temperature == 0.0
    processed = process_logits(
        logits,
        context,
        context_mask,
        temperature=1.0 if greedy else sampling.temperature,
        repetition_penalty=sampling.repetition_penalty,
        top_p=sampling.top_p,
    )[:, 0]
    if greedy:
        nowhere = torch.full_like(processed, -torch.inf)
        return nowhere.scatter(1, processed.argmax(dim=-1, keepdim=True), 0.0)
    return processed.log_softmax(dim=-1)


def draw(distribution: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a token per row, the first v with Σ_{w ≤ v} p_w > u: on a CPU several times faster than multinomial.

    Args:
        distribution: (B, V) log-probabilities.
        generator: All randomness, one u per row.

    Returns:
        (B, 1) int64; never a token of probability 0.
    """
    device = distribution.device
    precise = torch.float32 if device.type == "mps" else torch.float64
    cumulative = distribution.exp().cumsum(dim=-1, dtype=precise)
    u = torch.rand(len(distribution), 1, dtype=precise, device=device, generator=generator)
    found = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
    return found.clamp(max=distribution.shape[1] - 1)


def in_place_cache(config: Any, length: int) -> Cache:
    """A cache whose full-attention layers have room for `length` tokens; other kinds stay the library's own."""
    cache = DynamicCache(config=config)
    cache.layers = [_InPlaceLayer(length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _InPlaceLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # untyped in the library
    """Keys and values as views into one buffer; the library's layer copies all of them at every token."""

    def __init__(self, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in the library
        self.length, self.used = length, 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = tuple(
                x.new_empty(*x.shape[:2], self.length, x.shape[3]) for x in (key_states, value_states)
            )
        end = self.used + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.used : end] = states
        self.used = end
        return self._view()

    def batch_select_indices(self, indices: Tensor) -> None:
        self.buffers = tuple(buffer[indices] for buffer in self.buffers)
        self._view()

    def _view(self) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[:, :, : self.used] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values
