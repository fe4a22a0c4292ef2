"""Forward passes that the loops share: log-probabilities and values at the positions that count.

Positions: the logits and values that belong to response token t are read one position before it, so the first
ones stand at the last prompt token. Letters: B sequences, P prompt, R response tokens, L = P + R, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from equipoise.algos.logprobs import response_log_probs, token_log_probs
from equipoise.models.lm_head import from_logits
from equipoise.rollout.config import Sampling
from equipoise.tokens.batches import Rollout, SftBatch, aligned, parts_by_length, prompt_lengths
from equipoise.tokens.collate import Example, collate_sft


def target_log_probs(model: nn.Module, batch: SftBatch) -> Tensor:
    """Log-probability of every target token given those before it.

    Args:
        model: A causal LM.
        batch: Demonstrations, padded on the right.

    Returns:
        (B, L − 1) float32; column t belongs to token t + 1, 0 where that is no target.
    """
    targets = batch.target_mask[:, 1:]
    tokens = batch.input_ids[:, 1:][targets]

    def log_probs(logits: Tensor, some: Tensor) -> Tensor:
        return token_log_probs(logits.unsqueeze(1), tokens[some].unsqueeze(1)).squeeze(1)

    picked = nn.functional.pad(targets, (0, 1))
    taken = from_logits(model, batch.input_ids, batch.attention_mask, picked, log_probs)
    return torch.zeros_like(targets, dtype=taken.dtype).masked_scatter(targets, taken)


@torch.no_grad()
def sequence_log_probs(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    answers: Sequence[Example],
    device: torch.device,
    size: int,
    tokens: int | None = None,
) -> list[float]:
    """Σ_t ln π(a_t) of each response in nats, end token included where it has one.

    Args:
        model: A causal LM.
        tokenizer: Its tokenizer.
        answers: The responses, each after its prompt.
        device: Where the model is.
        size: The most responses of a forward pass.
        tokens: Or: the most tokens of one, padding included.
    """
    values = [0.0] * len(answers)
    for part in parts_by_length([answer.shape for answer in answers], size, tokens):
        batch = collate_sft(tokenizer, [answers[n] for n in part]).to(device)
        for n, value in zip(part, target_log_probs(model, batch).sum(dim=1).tolist(), strict=True):
            values[n] = value
    return values


def actor_log_probs(model: nn.Module, rollout: Rollout, sampling: Sampling) -> Tensor:
    """Log-probability of the response tokens under the processed logits that they were sampled from.

    Args:
        model: A causal LM: actor or ref.
        rollout: Prompts left-padded, responses right-padded.
        sampling: The settings of the rollout.

    Returns:
        (B, R) float32, 0 after the end of a response.
    """
    mask = rollout.response_mask
    input_ids, attention_mask, before = aligned(rollout)
    rows, columns = before.nonzero(as_tuple=True)
    tokens = input_ids[rows, columns + 1].unsqueeze(1)

    def log_probs(logits: Tensor, some: Tensor) -> Tensor:
        """Each position as a response of one token, whose prompt is all that stands before it."""
        ids, seen = tokens[some], torch.ones_like(tokens[some], dtype=torch.bool)
        if sampling.repetition_penalty != 1.0:
            context = input_ids[rows[some]]
            earlier = torch.arange(context.shape[1], device=context.device) <= columns[some].unsqueeze(1)
            ids = torch.cat([context, ids], dim=1)
            seen = torch.cat([earlier, seen], dim=1)
        return response_log_probs(
            logits.unsqueeze(1),
            ids,
            seen,
            temperature=sampling.temperature,
            repetition_penalty=sampling.repetition_penalty,
            top_p=sampling.top_p,
        ).squeeze(1)

    taken = from_logits(model, input_ids, attention_mask, before, log_probs)
    return torch.zeros_like(mask, dtype=taken.dtype).masked_scatter(mask, taken)


def critic_values(critic: nn.Module, rollout: Rollout) -> Tensor:
    """V_t of each response token.

    Args:
        critic: A `Critic` with H heads.
        rollout: Prompts left-padded, responses right-padded.

    Returns:
        (H, B, R) float32, 0 after the end of a response.
    """
    mask = rollout.response_mask
    input_ids, attention_mask, before = aligned(rollout)
    scores: Tensor = critic(input_ids, attention_mask, prompt_lengths(before))
    return torch.stack(
        [torch.zeros_like(mask, dtype=one.dtype).masked_scatter(mask, one[before]) for one in scores.unbind(-1)]
    )
