"""Log-probabilities of the tokens that were taken, under the distribution that was sampled from.

A ratio π_θ/π_old is unbiased only if both sides go through the temperature, the repetition penalty and the
nucleus of the sampler, so sampling and learning share the functions below. They compute what the logits
processors of Hugging Face compute, for one decoding step or for all R positions at once. Greedy decoding and
drawing a token are the sampler's.
Letters: B sequences, R response tokens, L prompt and response tokens, S context tokens, V vocabulary.
"""

import torch
from torch import Tensor

HEAD = 64
"""Tokens among which a nucleus is looked for first: on a CPU they are found faster than all are sorted."""


def token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Read off the log-probability of each token: z_{a_t} − ln Σ_v exp z_v, in float32.

    Args:
        logits: (B, R, V); the row at t predicts the token at t.
        tokens: (B, R) int64.

    Returns:
        (B, R) float32, in nats.
    """
    return logits.float().log_softmax(dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def process_logits(
    logits: Tensor,
    context: Tensor,
    context_mask: Tensor,
    *,
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
    top_p: float = 1.0,
) -> Tensor:
    """Turn a model's logits into those that are sampled from: penalty, then temperature, then nucleus.

    z'_v = (z_v·p if z_v < 0 else z_v/p)/T for every v already seen, z_v/T for the others; −∞ outside the nucleus

    The last of the R rows has seen all of the context, each row before it one token less. One decoding step is
    R = 1 with all tokens so far as context; all positions of a response at once are R rows with the whole
    sequence but its last token as context.

    Args:
        logits: (B, R, V).
        context: (B, S) int64, S ≥ R − 1.
        context_mask: (B, S) bool; padding is not seen (Hugging Face counts it as seen: pass all True).
        temperature: T > 0.
        repetition_penalty: p > 0; 1 leaves the logits as they are.
        top_p: Probability mass of the nucleus in (0, 1]; 1 keeps every token.

    Returns:
        (B, R, V) float32.
    """
    logits = _penalize_and_scale(logits, context, context_mask, temperature, repetition_penalty)
    return logits if top_p >= 1.0 else logits.masked_fill(~nucleus(logits, top_p), -torch.inf)


def response_log_probs(
    logits: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
    top_p: float = 1.0,
) -> Tensor:
    """Log-probabilities of a whole response under the processed logits that it was sampled from.

    The token that was taken stays in the nucleus even if the policy has since moved it out: at sampling it was
    inside, and −∞ would end learning from it.

    Args:
        logits: (B, R, V), read at the positions before the response tokens: the first at the last prompt token.
        input_ids: (B, L) int64; the last R are the response.
        attention_mask: (B, L) bool.
        temperature: T > 0.
        repetition_penalty: p > 0.
        top_p: Probability mass of the nucleus in (0, 1].

    Returns:
        (B, R) float32, in nats.
    """
    tokens = input_ids[:, -logits.shape[1] :]
    logits = _penalize_and_scale(
        logits, input_ids[:, :-1], attention_mask[:, :-1], temperature, repetition_penalty
    )
    if top_p < 1.0:
        kept = nucleus(logits, top_p).scatter(-1, tokens.unsqueeze(-1), True)
        logits = logits.masked_fill(~kept, -torch.inf)
    return token_log_probs(logits, tokens)


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Mark the smallest set of most probable tokens whose probabilities sum to at least top_p.

    Args:
        logits: (B, R, V).
        top_p: Probability mass in (0, 1].

    Returns:
        (B, R, V) bool, True inside; never empty.
    """
    probabilities = logits.softmax(dim=-1)
    likely, order = probabilities.topk(min(HEAD, logits.shape[-1]))
    inside = _begun(likely, top_p, order, torch.zeros_like(logits, dtype=torch.bool))
    flat = likely.sum(dim=-1) < top_p
    if bool(flat.any()):  # few rows are: sorting all costs more than the model of a small vocabulary
        likely, order = probabilities[flat].sort(dim=-1, descending=True)
        inside[flat] = _begun(likely, top_p, order, inside[flat])
    return inside


def _begun(likely: Tensor, top_p: float, order: Tensor, marks: Tensor) -> Tensor:
    """The marks with those tokens of `order`, most likely first, set to whether all before them are too few."""
    return marks.scatter(-1, order, likely.cumsum(dim=-1) - likely < top_p)


def _penalize_and_scale(
    logits: Tensor, context: Tensor, context_mask: Tensor, temperature: float, repetition_penalty: float
) -> Tensor:
    logits = logits.float()
    if repetition_penalty != 1.0:
        penalized = torch.where(logits < 0, logits * repetition_penalty, logits / repetition_penalty)
        logits = torch.where(_seen(context, context_mask, logits.shape), penalized, logits)
    return logits if temperature == 1.0 else logits / temperature


def _seen(context: Tensor, context_mask: Tensor, shape: torch.Size) -> Tensor:
    """(B, R, V) bool: whether token v stands in the part of the context that row t has seen."""
    batch, rows, vocabulary = shape
    length = context.shape[1]
    position = torch.arange(length, device=context.device).expand_as(context)
    first = torch.full((batch, vocabulary), length, device=context.device)  # (B, V) where v first appears
    first = first.scatter_reduce(1, context, position.masked_fill(~context_mask, length), "amin")
    visible = torch.arange(length - rows + 1, length + 1, device=context.device)  # (R,) tokens seen by row t
    return first.unsqueeze(1) < visible.view(1, rows, 1)
