"""Chunks of logits give the numbers and the gradients of all logits at once, and no more of them ever exist."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from equipoise.algos.logprobs import token_log_probs
from equipoise.errors import ModelError
from equipoise.models import lm_head
from equipoise.models.backbone import causal_logits
from equipoise.models.lm_head import from_logits

SIZES = {
    "vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.5,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MODELS = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 2.0},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0},
    "mistral": {},
}
BATCH, LENGTH = 4, 12
Compute = Callable[[nn.Module], Tensor]


def tiny(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gpt2":
        config = AutoConfig.for_model("gpt2", vocab_size=320, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    else:
        config = AutoConfig.for_model(family, **SIZES, **MODELS[family])
    return AutoModelForCausalLM.from_config(config).double().eval()


IDS = torch.randint(3, 320, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
SEEN = torch.ones_like(IDS, dtype=torch.bool)
PICKED = torch.rand(BATCH, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.6
TOKENS = IDS.roll(-1, dims=1)[PICKED]


def chunked(model: nn.Module) -> Tensor:
    def taken(logits: Tensor, some: Tensor) -> Tensor:
        return token_log_probs(logits.unsqueeze(1), TOKENS[some].unsqueeze(1)).squeeze(1)

    return from_logits(model, IDS, SEEN, PICKED, taken)


def whole(model: nn.Module) -> Tensor:
    return token_log_probs(causal_logits(model, IDS, SEEN)[PICKED].unsqueeze(0), TOKENS.unsqueeze(0))[0]


def with_gradients(model: PreTrainedModel, compute: Compute) -> tuple[Tensor, list[Tensor | None]]:
    model.zero_grad()
    found = compute(model)
    found.sin().sum().backward()
    return found.detach(), [None if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("family", [*MODELS, "gpt2"])
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_chunks_equal_all_logits_at_once_with_their_gradients(monkeypatch, family, rows):
    monkeypatch.setattr(lm_head, "LOGITS", rows * 320)
    model = tiny(family)
    passes = count_passes(model)
    torch.testing.assert_close(with_gradients(model, chunked), with_gradients(model, whole), rtol=1e-6, atol=1e-6)
    assert passes() == 2  # so every family is known, and none needed a pass more


def count_passes(model: PreTrainedModel) -> Callable[[], int]:
    calls: list[Any] = []
    model.get_input_embeddings().register_forward_hook(lambda *given: calls.append(given))
    return lambda: len(calls)


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_run_whole(monkeypatch):
    monkeypatch.setattr(lm_head, "LOGITS", 5 * 320)
    model = tiny("llama")
    forward = model.forward

    @wraps(forward)
    def strange(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = out.logits.roll(1, dims=-1)
        return out

    model.forward = strange
    passes = count_passes(model)
    torch.testing.assert_close(with_gradients(model, chunked), with_gradients(model, whole), rtol=1e-6, atol=1e-6)
    assert passes() == 3


def test_a_model_without_output_embeddings_is_run_whole(monkeypatch):
    monkeypatch.setattr(lm_head, "LOGITS", 5 * 320)
    model = tiny("llama")
    expected = with_gradients(model, whole)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    torch.testing.assert_close(with_gradients(model, chunked), expected, rtol=1e-6, atol=1e-6)


@pytest.fixture
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_data_parallelism_sees_the_gradients_of_all_chunks(monkeypatch, family):
    monkeypatch.setattr(lm_head, "LOGITS", 5 * 320)
    model = tiny(family)
    found = with_gradients(model, lambda m: chunked(DistributedDataParallel(m)))
    torch.testing.assert_close(found, with_gradients(model, whole), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_in_parts_sees_the_gradients_of_all_chunks(monkeypatch, family):
    monkeypatch.setattr(lm_head, "LOGITS", 5 * 320)
    expected, model = with_gradients(tiny(family), whole), in_parts(tiny(family))
    found, gradients = with_gradients(model, chunked)
    torch.testing.assert_close((found, [g.full_tensor() for g in gradients]), expected, rtol=1e-6, atol=1e-6)


def in_parts(model: PreTrainedModel) -> PreTrainedModel:
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@pytest.mark.usefixtures("one_process")
def test_a_model_in_parts_that_needs_a_second_pass_is_refused_in_training_alone(monkeypatch):
    monkeypatch.setattr(lm_head, "LOGITS", 5 * 320)
    model = tiny("llama")
    model.config.logit_scale = 2.0  # which a Llama does not look at
    expected = whole(model).detach()
    with torch.no_grad():
        torch.testing.assert_close(chunked(in_parts(model)), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ModelError, match="Limit a pass to 5 tokens"):
        chunked(model)


class Largest(TorchDispatchMode):
    """The most elements that any result of an operation had."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def test_no_tensor_ever_holds_the_logits_of_all_positions(monkeypatch):
    model, positions = tiny("llama"), int(PICKED.sum())
    monkeypatch.setattr(lm_head, "LOGITS", 4 * 320)
    assert positions > 20  # so that V·H of a weight's gradient is less than all logits
    with Largest() as largest:
        with_gradients(model, chunked)
    assert largest.elements == 16 * 320  # the head's weights
    with Largest() as largest:
        with_gradients(model, whole)
    assert largest.elements == BATCH * LENGTH * 320
