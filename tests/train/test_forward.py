"""Log-probabilities in chunks are those of all logits at once, whatever the sampler did to the logits."""

import pytest
import torch
from torch import Tensor, nn
from train_models import disturb

from equipoise.algos.logprobs import response_log_probs, token_log_probs
from equipoise.models import lm_head
from equipoise.models.backbone import causal_logits, load_causal_lm
from equipoise.rollout.config import Sampling
from equipoise.tokens.batches import Rollout, SftBatch
from equipoise.train.config import LoraSettings
from equipoise.train.forward import actor_log_probs, target_log_probs
from equipoise.train.setup import train_adapter

PROMPT, RESPONSE = 5, 7


def rollout() -> Rollout:
    """Four sequences, prompts of 2 to 5 tokens on the right of their columns, responses of 1 to 7 on the left."""
    ids = torch.randint(0, 10, (4, PROMPT + RESPONSE), generator=torch.Generator().manual_seed(0))
    column = torch.arange(PROMPT + RESPONSE)
    first, end = torch.tensor([[0], [3], [1], [2]]), torch.tensor([[7], [6], [12], [9]])
    seen = (column >= first) & (column < end)
    return Rollout(ids, seen, seen[:, PROMPT:], torch.zeros(4, RESPONSE), torch.ones(4, dtype=torch.bool))


def gradients(model: nn.Module, log_probs: Tensor) -> list[Tensor]:
    model.zero_grad()
    log_probs.sin().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("positions", [1, 4, 1000])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 1.3, "repetition_penalty": 1.5}, {"temperature": 0.7, "top_p": 0.8}]
)
def test_chunks_of_an_actor_equal_its_logits_at_once(world, monkeypatch, positions, adapted, sampling):
    model = load_causal_lm(world / "policy", dtype=torch.float64)
    if adapted:
        targets = ("q_proj", "lm_head")
        train_adapter(model, "actor", LoraSettings(r=2, alpha=4, target_modules=targets), 0)
        disturb(model, 0)
    drawn = rollout()
    monkeypatch.setattr(lm_head, "LOGITS", positions * model.config.vocab_size)
    found = actor_log_probs(model, drawn, Sampling(**sampling))
    logits = causal_logits(model, drawn.input_ids, drawn.attention_mask)[:, -RESPONSE - 1 : -1]
    expected = response_log_probs(logits, drawn.input_ids, drawn.attention_mask, **sampling)
    expected = expected * drawn.response_mask
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients(model, found), gradients(model, expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("positions", [1, 4, 1000])
def test_chunks_of_demonstrations_equal_their_logits_at_once(world, monkeypatch, positions):
    model = load_causal_lm(world / "policy", dtype=torch.float64)
    shown = rollout()
    targets = torch.zeros_like(shown.attention_mask)
    targets[:, PROMPT:] = shown.response_mask
    monkeypatch.setattr(lm_head, "LOGITS", positions * model.config.vocab_size)
    found = target_log_probs(model, SftBatch(shown.input_ids, shown.attention_mask, targets))
    logits = causal_logits(model, shown.input_ids, shown.attention_mask)[:, :-1]
    expected = token_log_probs(logits, shown.input_ids[:, 1:]) * targets[:, 1:]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients(model, found), gradients(model, expected), rtol=1e-6, atol=1e-6)


def test_a_reference_computes_chunks_without_gradients(world, monkeypatch):
    model = load_causal_lm(world / "policy").requires_grad_(False)
    drawn = rollout()
    with torch.no_grad():
        whole = actor_log_probs(model, drawn, Sampling())
        monkeypatch.setattr(lm_head, "LOGITS", 3 * model.config.vocab_size)
        torch.testing.assert_close(actor_log_probs(model, drawn, Sampling()), whole)
