"""What every sampler promises: prompts in, tokens with the log-probabilities they were drawn with out.

`native` decodes by itself and is what stages use unless told otherwise, `hf` goes through `generate` and is the
yardstick, `vllm` and `vllm_server` are engines. `opening` opens one from settings. Text, scoring and batching are
not here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from equipoise.errors import ModelError
from equipoise.models.backbone import context_length
from equipoise.rollout.config import Sampling
from equipoise.tokens.batches import PromptBatch, Rollout


class Sampler(Protocol):
    """Draws responses to prompts."""

    def sample(
        self, prompts: PromptBatch, sampling: Sampling, generator: torch.Generator, samples: int = 1
    ) -> Rollout:
        """Sample until every row has written its end-of-turn token, or the limit.

        Args:
            prompts: B prompts, left-padded, on the device of the policy.
            sampling: Limit, temperature, nucleus, repetition penalty.
            generator: All randomness, on the device of the policy.
            samples: G responses to each prompt.

        Returns:
            The rollout of B·G rows, those of a prompt together; R is the longest response, not the limit.
        """
        ...


@runtime_checkable
class Engine(Sampler, Protocol):
    """A sampler with weights of its own: it draws from those that it was last given."""

    folder: Path | None  # where weights are handed over; None leaves it to the run

    def load(self, folder: Path, *, first: bool = True) -> None:
        """Draw from other weights of the same architecture from now on; every process calls it.

        Args:
            folder: What `backbone.save_weights` wrote. One with an adapter must stay until the next one is given.
            first: Whether this is the main process: what serves all of them is told once.

        Raises:
            EndpointError: The engine does not take them.
        """
        ...


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout; the mode that the model was in comes back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def check_context(model: PreTrainedModel, prompts: PromptBatch, sampling: Sampling) -> None:
    """Refuse to decode beyond the positions that the model has.

    Raises:
        ModelError: Prompt and response together may not fit.
    """
    check_room(context_length(model), prompts, sampling, str(model.config.name_or_path))


def check_room(context: int | None, prompts: PromptBatch, sampling: Sampling, where: str) -> None:
    """`check_context` for a model that is elsewhere, with so many positions."""
    longest = int(prompts.attention_mask.sum(dim=-1).max()) + sampling.max_new_tokens
    if context is not None and longest > context:
        raise ModelError(
            f"A prompt and its response may need {longest} tokens, the model has {context} positions.",
            where=where,
            fix="Lower max_new_tokens or max_prompt_length.",
        )


def to_rollout(prompts: PromptBatch, drawn: Tensor, log_probs: Tensor, end_id: int, pad_id: int) -> Rollout:
    """Cut each response off behind the first token that ends a turn.

    Args:
        prompts: B prompts.
        drawn: (B, T) int64; anything behind the end.
        log_probs: (B, T) float32, of the tokens drawn.
        end_id: The token that ends a turn.
        pad_id: What stands behind it.
    """
    is_end = drawn == end_id
    written = is_end.long().cumsum(dim=1) - is_end.long() == 0  # no end before this token
    written = written[:, : int(written.sum(dim=1).max())]
    width = written.shape[1]
    return Rollout(
        torch.cat([prompts.input_ids, drawn[:, :width].where(written, pad_id)], dim=1),
        torch.cat([prompts.attention_mask, written], dim=1),
        written,
        log_probs[:, :width].masked_fill(~written, 0.0),
        is_end.any(dim=1),
    )
