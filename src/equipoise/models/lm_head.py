"""Numbers from the next-token logits of some positions, without the logits of all of them in memory at once.

With a vocabulary of 128 000 the logits of a training pass are larger than everything else in it. Left out: the
numbers themselves (`algos.logprobs`).
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from equipoise.errors import ModelError
from equipoise.models.backbone import Placed, causal_pass, logits_at
from equipoise.tokens.batches import prompt_lengths

LOGITS = 2**24
"""The most logits in memory at once: 64 MiB in float32; what is computed from them takes some times as much."""
Reduce = Callable[[Tensor, Tensor], Tensor]


def from_logits(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, picked: Tensor, reduce: Reduce
) -> Tensor:
    """One number per position from the logits there, chunk by chunk: at most `LOGITS` of them exist at a time.

    The backward pass computes the logits of each chunk again. One chunk is computed as it is. Where chunks would
    not give the model's own logits, because it has no output embeddings or changes logits in a way not known here
    (which one position of every pass tells), all picked positions go through the model at once, in a second pass.

    Args:
        model: A causal language model, wrapped or not.
        input_ids: (B, L) int64.
        attention_mask: (B, L) bool.
        picked: (B, L) bool, N of them True; the logits of token t + 1 stand at t.
        reduce: From (n, V) logits and (n,) int64, the numbers of these positions among the picked, to (n,).

    Returns:
        (N,), in the order of `picked.nonzero()`.

    Raises:
        ModelError: A model in parts, in training, needs the second pass: other processes may not.
    """
    inner = cast("Any", getattr(model, "module", model))
    config, head = inner.config.get_text_config(), inner.get_output_embeddings()
    numbers = torch.arange(len(picked.nonzero()), device=picked.device)
    size = max(1, LOGITS // config.vocab_size)
    if head is None or len(numbers) <= size:
        return reduce(logits_at(model, input_ids, attention_mask, picked), numbers)

    def logits_of(hidden: Tensor) -> Tensor:
        return _after_head(head(hidden.unsqueeze(0))[0], config)

    def reduced(hidden: Tensor, some: Tensor) -> Tensor:
        return reduce(logits_of(hidden), some)

    hidden, first = _hidden_at(model, head, input_ids, attention_mask, picked)
    with torch.no_grad():
        ours = logits_of(hidden[:1])
    if ours.shape != first.shape or not torch.allclose(ours, first.to(ours.dtype), atol=1e-6, equal_nan=True):
        _check_may_run_again(model, str(inner.config.name_or_path), size)
        return reduce(logits_at(inner, input_ids, attention_mask, picked), numbers)
    chunks = zip(torch.split(hidden, size), torch.split(numbers, size), strict=True)
    return torch.cat([cast("Tensor", checkpoint(reduced, *chunk, use_reentrant=False)) for chunk in chunks])


def _check_may_run_again(model: nn.Module, name: str, size: int) -> None:
    if isinstance(model, FSDPModule) and torch.is_grad_enabled():
        raise ModelError(
            "In parts, this model cannot be trained on so many tokens at once.",
            where=name,
            why="it changes its logits behind the head in a way not known here, so that a second pass is needed, "
            "which processes with fewer tokens do not take part in",
            fix=f"Limit a pass to {size} tokens to learn from with micro_batch or micro_tokens, or leave "
            "hardware.shard off.",
        )


def _hidden_at(
    model: nn.Module, head: nn.Module, input_ids: Tensor, attention_mask: Tensor, picked: Tensor
) -> tuple[Tensor, Tensor]:
    """What the head is to see at the picked positions, (N, H), and the model's logits at the first, (1, V)."""
    seen: list[Tensor] = []
    inputs, place = causal_pass(model, input_ids, attention_mask, prompt_lengths(picked))

    def keep_one(_: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        seen.append(Placed(given[0], place).at(picked))
        return seen[0][:1].unsqueeze(0)

    hook = head.register_forward_pre_hook(keep_one)
    try:
        first: Tensor = model(**inputs).logits[0]
    finally:
        hook.remove()
    return seen[0], first.detach()


def _after_head(logits: Tensor, config: Any) -> Tensor:
    """What models do to the output of their head: Cohere multiplies, Granite divides, Gemma caps it softly."""
    if (factor := getattr(config, "logit_scale", None)) is not None:
        logits = logits * factor
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
