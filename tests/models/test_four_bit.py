"""Weights of 4 bits under an adapter: the same numbers as a model of the rounded weights, saved as a full one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from equipoise.errors import ModelError
from equipoise.models.adapters import add_adapter, for_many_passes, merged, on_same_weights
from equipoise.models.backbone import causal_logits, load_backbone, load_causal_lm, save_policy
from equipoise.models.four_bit import is_quantized, quantized_layers
from equipoise.models.score_head import HeadSettings, load_scorer, save_scorer, scorer_from
from equipoise.tokens.template import load_tokenizer

CAUSAL = ["llama", "qwen2", "gemma", "phi3", "gpt2"]
IDS = torch.randint(10, 300, (2, 9), generator=torch.Generator().manual_seed(1))
SEEN = torch.ones(2, 9, dtype=torch.bool)


@pytest.fixture(scope="session")
def wide(new_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of models that are as wide as a block."""
    known: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in known:
            known[family] = new_model(family, tmp_path_factory.mktemp(family), 64)
        return known[family]

    return get


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")


def adapted(model: PreTrainedModel) -> PreTrainedModel:
    """With an adapter that does something."""
    add_adapter(model, "actor", LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trained(model).values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator).to(weight.dtype))
    return model


def trained(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def rounded_twin(model: PreTrainedModel, folder: Path, library: Any) -> PreTrainedModel:
    """A full model whose weights are those that the 4 bits stand for, as bitsandbytes reads them."""
    twin = load_causal_lm(folder, dtype=model.dtype)
    for name, layer in quantized_layers(model):
        plain = twin.get_submodule(name)
        values = library.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        assert (values - twin_weight(plain)).abs().max() > 0
        with torch.no_grad():
            twin_weight(plain).copy_(values)
    return twin


def twin_weight(layer: Any) -> Tensor:
    """(out, in), which GPT-2 has transposed."""
    return layer.weight.T if type(layer).__name__ == "Conv1D" else layer.weight


@pytest.mark.parametrize("family", CAUSAL)
def test_linear_layers_but_the_head_have_4_bits_in_policy_and_backbone_alike(library, wide, family):
    whole, policy, backbone = (
        load(wide(family), **options)
        for load, options in (
            (load_causal_lm, {}),
            (load_causal_lm, {"quantize": "nf4"}),
            (load_backbone, {"quantize": "nf4"}),
        )
    )
    names = {name for name, _ in quantized_layers(policy)}
    assert {name.partition(".")[2] for name in names} == {name for name, _ in quantized_layers(backbone)}
    for name, layer in whole.named_modules():
        linear = isinstance(layer, torch.nn.Linear) or type(layer).__name__ == "Conv1D"
        assert (name in names) == (linear and layer is not whole.get_output_embeddings())
        if name in names:
            assert 2 * policy.get_submodule(name).weight.numel() == layer.weight.numel()  # two in a byte
    assert policy.dtype == torch.float32


@pytest.mark.parametrize(("family", "dtype"), [*((f, torch.float32) for f in CAUSAL), ("llama", torch.bfloat16)])
def test_logits_and_gradients_are_those_of_the_rounded_weights(library, wide, family, dtype):
    folder = wide(family)
    model = load_causal_lm(folder, dtype=dtype, quantize="nf4")
    twin = adapted(rounded_twin(model, folder, library))
    model = adapted(model)
    assert {weight.dtype for weight in trained(model).values()} == {dtype}
    found = []
    for one in (model, twin):
        with torch.no_grad():
            causal_logits(one, IDS, SEEN)  # a pass without gradients must not spoil those with them
        logits = causal_logits(one, IDS, SEEN)
        logits.float().square().mean().backward()
        found.append((logits, {name: weight.grad for name, weight in trained(one).items()}))
    close = {"rtol": 0, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(found[0][0], found[1][0], **close)
    for name, gradient in found[0][1].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, found[1][1][name], **close)
    untouched = causal_logits(load_causal_lm(folder, dtype=dtype), IDS, SEEN)
    assert (found[0][0] - untouched).abs().max() > 1e-2


def test_networks_share_the_4_bits_and_what_belongs_to_them(library, wide):
    base = load_causal_lm(wide("llama"), quantize="nf4")
    one, two = adapted(on_same_weights(base)), on_same_weights(base.base_model)
    theirs = dict(quantized_layers(base))
    assert theirs
    for name, layer in quantized_layers(two):
        mine = theirs[f"model.{name}"]
        assert layer is not mine
        assert layer.weight.data_ptr() == mine.weight.data_ptr()
        assert layer.quant_state is mine.quant_state
        assert one.get_submodule(f"model.{name}").get_base_layer().quant_state is mine.quant_state


def test_rollouts_read_the_4_bits(library, wide):
    model = adapted(load_causal_lm(wide("llama"), quantize="nf4"))
    assert for_many_passes(model) is model


def test_layers_narrower_than_a_block_are_refused_on_a_cpu(library, new_model, tmp_path):
    folder = new_model("llama", tmp_path, 32)
    with pytest.raises(ModelError, match=r"read 32 features cannot have 4 bits on a CPU(.|\n)*_proj"):
        load_causal_lm(folder, quantize="nf4")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_is_the_full_base_with_the_adapter(library, wide, tmp_path, family, dtype):
    base, folder = wide(family), tmp_path / "out"
    model = adapted(load_causal_lm(base, dtype=dtype, quantize="nf4"))
    save_policy(model, load_tokenizer(base), folder)
    whole = adapted(load_causal_lm(base, dtype=dtype))
    loaded = AutoModelForCausalLM.from_pretrained(str(folder))
    assert loaded.dtype == dtype
    expected = merged(whole).state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.state_dict().items())
    assert not hasattr(loaded.config, "quantization_config")
    assert is_quantized(model)
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == len(trained(model))


def test_a_scorer_is_saved_in_full_too(library, wide, tmp_path):
    for family, pooling in (("llama", "last"), ("bert", "cls")):
        scorer = scorer_from(wide(family), seed=0, pooling=pooling, quantize="nf4")
        adapted(scorer.backbone)
        save_scorer(scorer, load_tokenizer(wide(family)), tmp_path / family, HeadSettings("cost"))
        whole = scorer_from(wide(family), seed=0, pooling=pooling)
        adapted(whole.backbone)
        loaded = load_scorer(tmp_path / family)
        torch.testing.assert_close(loaded(IDS, SEEN), whole(IDS, SEEN), rtol=0, atol=1e-5)
        again = load_scorer(tmp_path / family, quantize="nf4")
        assert is_quantized(again)
        assert torch.equal(again.head.weight, loaded.head.weight)
        assert not is_quantized(loaded)


def pretended(folder: Path) -> PreTrainedModel:
    """A model with other weights than those on disk that says of itself it has 4 bits: no library is needed."""
    model = load_causal_lm(folder)
    for layer in [m for m in model.modules() if type(m) is torch.nn.Linear and m is not model.lm_head]:
        layer.weight = torch.nn.Parameter(layer.weight.detach() * 1.5)
        layer.quant_state = object()
    return adapted(model)


def test_the_merged_model_is_made_of_the_weights_on_disk(wide):
    expected = merged(adapted(load_causal_lm(wide("llama")))).state_dict()
    found = merged(pretended(wide("llama"))).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


def test_a_base_that_is_gone_is_named(new_model, tmp_path):
    model = pretended(new_model("llama", tmp_path / "base", 64))
    for file in (tmp_path / "base").glob("*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"base of the adapter is needed again(.|\n)*last checkpoint") as caught:
        merged(model)
    assert caught.value.where == str(tmp_path / "base")
