"""What samplers with weights of their own share: what they are asked, and a rollout from what they answer.

Left out: how an engine is asked (`vllm`, `vllm_server`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from equipoise.errors import EndpointError
from equipoise.rollout.config import Sampling
from equipoise.rollout.sampler import to_rollout
from equipoise.tokens.batches import PromptBatch, Rollout, repeated

ADAPTER_FILE = "adapter_config.json"
"""What tells a folder with an adapter from one with all weights."""


class Question(NamedTuple):
    """One prompt as an engine reads it."""

    tokens: list[int]  # without padding
    seed: int  # of all its responses; each prompt has another, or equal prompts would get equal answers


class Answer(NamedTuple):
    """One response as an engine gives it."""

    tokens: Sequence[int]  # the end token included, if it came to that
    log_probs: Sequence[float | None]  # of the distribution that each token was drawn from, in nats


def questions(prompts: PromptBatch, generator: torch.Generator) -> list[Question]:
    """The prompts of a batch, each with a seed from the generator."""
    device = generator.device
    seeds = torch.randint(2**62, (len(prompts.input_ids),), generator=generator, device=device).tolist()
    rows = zip(prompts.input_ids, prompts.attention_mask, seeds, strict=True)
    return [Question(ids[mask].tolist(), seed) for ids, mask, seed in rows]


def sampling_options(sampling: Sampling, end_id: int, question: Question, samples: int) -> dict[str, object]:
    """What vLLM is to do with one prompt, in the names that its server and its library share.

    What a model's generation_config.json could say otherwise is said, and only `end_id` ends a response.
    """
    return {
        "n": samples,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": question.seed,
        "stop_token_ids": [end_id],
        "ignore_eos": True,
        "logprobs": 0,  # of the token that was drawn, and no other
    }


def to_engine_rollout(
    prompts: PromptBatch, answers: Sequence[Answer], sampling: Sampling, end_id: int, pad_id: int, where: str
) -> Rollout:
    """The rollout of B·G answers, those of a prompt together.

    Args:
        prompts: B prompts.
        answers: In their order.
        sampling: What was asked for.
        end_id: The token that ends a turn.
        pad_id: What stands behind it.
        where: Which engine, for errors.

    Raises:
        EndpointError: A response stops before its end or goes on behind it, or a log-probability is no number.
    """
    for answer in answers:
        _check(answer, sampling.max_new_tokens, end_id, where)
    given = repeated(prompts, len(answers) // len(prompts.input_ids))
    width = max(len(answer.tokens) for answer in answers)
    drawn = torch.full((len(answers), width), pad_id)
    log_probs = torch.zeros(drawn.shape)
    for row, answer in enumerate(answers):
        drawn[row, : len(answer.tokens)] = torch.tensor(answer.tokens)
        if sampling.temperature > 0:  # else all mass is on the token that was taken
            log_probs[row, : len(answer.tokens)] = torch.tensor(answer.log_probs)
    device = prompts.input_ids.device
    return to_rollout(given, drawn.to(device), log_probs.to(device), end_id, pad_id)


def _check(answer: Answer, limit: int, end_id: int, where: str) -> None:
    tokens, ended = list(answer.tokens), end_id in answer.tokens
    if not 0 < len(tokens) <= limit or (tokens.index(end_id) + 1 if ended else limit) != len(tokens):
        raise EndpointError(
            f"The engine stopped after {len(tokens)} tokens.",
            where=where,
            why=f"a response has {limit} tokens, or ends with its end token {end_id}",
            fix="Check that it serves the policy's own tokens, and that nothing else stops responses.",
        )
    if len(answer.log_probs) != len(tokens) or any(p is None or math.isnan(p) for p in answer.log_probs):
        raise EndpointError(
            "The engine gave no log-probability for a token that it drew.",
            where=where,
            why="its logits were not finite, or it does not give log-probabilities",
            fix="Look at its log; the policy's weights may be broken, or not have arrived.",
        )
