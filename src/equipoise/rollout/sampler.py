"""What every sampler promises: prompts in, tokens with the log-probabilities they were drawn with out.

`native` decodes by itself and is what stages use, `hf` goes through `generate` and is the yardstick. Text, scoring
and batching are not here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from equipoise.errors import ModelError
from equipoise.models.backbone import context_length
from equipoise.rollout.config import Sampling
from equipoise.tokens.batches import PromptBatch, Rollout


class Sampler(Protocol):
    """Draws one response per prompt."""

    def sample(self, prompts: PromptBatch, sampling: Sampling, generator: torch.Generator) -> Rollout:
        """Sample until every row has written its end-of-turn token, or the limit.

        Args:
            prompts: B prompts, left-padded, on the device of the policy.
            sampling: Limit, temperature, nucleus, repetition penalty.
            generator: All randomness, on the device of the policy.

        Returns:
            The rollout; R is the longest response of the batch, not the limit.
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
    context = context_length(model)
    longest = int(prompts.attention_mask.sum(dim=-1).max()) + sampling.max_new_tokens
    if context is not None and longest > context:
        raise ModelError(
            f"A prompt and its response may need {longest} tokens, the model has {context} positions.",
            where=str(model.config.name_or_path),
            fix="Lower max_new_tokens or max_prompt_length.",
        )
