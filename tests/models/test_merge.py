import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from test_adapters import adapt
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from equipoise.artefact import fingerprint_of, read_manifest
from equipoise.errors import ModelError
from equipoise.models.backbone import load_causal_lm, save_policy
from equipoise.models.config import MergeConfig
from equipoise.models.merge import merge, weighted_sum
from equipoise.models.score_head import HeadSettings, Scorer, save_scorer
from equipoise.tokens.template import load_tokenizer


def other_of(folder: Path, out: Path, dtype: torch.dtype = torch.float32, **saving: object) -> Path:
    """The same policy with other weights."""
    model = load_causal_lm(folder, dtype=dtype)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(str(out), **saving)
    load_tokenizer(folder).save_pretrained(str(out))
    return out


def merged(out: Path, *policies: Path, **settings: object) -> Path:
    return merge(MergeConfig.model_validate({"out": out, "policies": policies, **settings}))


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {name: t for file in sorted(folder.glob("model*.safetensors")) for name, t in load_file(file).items()}


def logits_of(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8]])).logits


def test_a_weighted_sum_hand_worked() -> None:
    # 0.25·4 + 0.75·0 = 1; 0.25·(−8) + 0.75·4 = 1; beyond the second: −0.5·4 + 1.5·0 = −2, −0.5·(−8) + 1.5·4 = 10
    one, two = torch.tensor([4.0, -8.0]), torch.tensor([0.0, 4.0])
    assert weighted_sum([one, two], [0.25, 0.75]).tolist() == [1.0, 1.0]
    assert weighted_sum([one, two], [-0.5, 1.5]).tolist() == [-2.0, 10.0]


def test_the_sum_is_taken_in_float32_and_rounded_once() -> None:
    # In bfloat16 the numbers above 256 are 2 apart, so 256 + 1 would be 256 again, and the second 1 lost as well.
    parts = [torch.tensor([x], dtype=torch.bfloat16) for x in (256.0, 1.0, 1.0)]
    total = weighted_sum(parts, [1.0, 1.0, 1.0])
    assert (total.item(), total.dtype) == (258.0, torch.bfloat16)


def test_merging_is_linear(folder_of, tmp_path) -> None:
    one = folder_of("llama")
    two = other_of(one, tmp_path / "two")
    half = merged(tmp_path / "half", one, two, weights=(0.5, 0.5))
    expected = {name: (a + weights_of(two)[name]) / 2 for name, a in weights_of(one).items()}
    torch.testing.assert_close(weights_of(half), expected)
    at_once = merged(tmp_path / "at-once", one, two, weights=(0.25, 0.75))
    in_turn = merged(tmp_path / "in-turn", half, two, weights=(0.5, 0.5))
    torch.testing.assert_close(weights_of(at_once), weights_of(in_turn))
    beyond = merged(tmp_path / "beyond", one, two, weights=(-1, 2), extrapolate=True)
    back = merged(tmp_path / "back", one, beyond, weights=(0.5, 0.5))
    torch.testing.assert_close(weights_of(back), weights_of(two))


def test_all_of_one_policy_is_that_policy_byte_for_byte(folder_of, tmp_path) -> None:
    one = folder_of("llama")
    two = other_of(one, tmp_path / "two")
    for policy, weights in ((one, (1, 0)), (two, (0, 1))):
        out = merged(tmp_path / f"{weights}", one, two, weights=weights)
        assert (out / "model.safetensors").read_bytes() == (policy / "model.safetensors").read_bytes()


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])  # the last two tie the head to the embedding
def test_a_merged_policy_loads_with_its_ties_and_type(folder_of, tmp_path, family) -> None:
    one = other_of(folder_of(family), tmp_path / "one", torch.bfloat16)
    two = other_of(one, tmp_path / "two", torch.bfloat16)
    model = load_causal_lm(merged(tmp_path / "out", one, two, weights=(0.5, 0.5)), dtype="auto")
    a, b = (load_causal_lm(path, dtype="auto").get_input_embeddings().weight.float() for path in (one, two))
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    torch.testing.assert_close(embedding, ((a + b) / 2).bfloat16(), rtol=0, atol=0)
    assert (head is embedding) == (family != "llama")
    assert load_tokenizer(tmp_path / "out").chat_template == load_tokenizer(one).chat_template


def test_policies_in_files_of_other_sizes_merge(folder_of, tmp_path) -> None:
    one = folder_of("llama")
    two = other_of(one, tmp_path / "two", max_shard_size="20KB")
    assert len(list(two.glob("model-*.safetensors"))) > 1
    whole = merged(tmp_path / "whole", one, two, weights=(0.25, 0.75))
    parts = merged(tmp_path / "parts", two, one, weights=(0.75, 0.25))
    assert len(list(parts.glob("model-*.safetensors"))) > 1
    torch.testing.assert_close(weights_of(whole), weights_of(parts))
    torch.testing.assert_close(logits_of(load_causal_lm(whole)), logits_of(load_causal_lm(parts)))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # in PEFT
def test_policies_with_adapters_merge_as_peft_adds_up_their_deltas(folder_of, tmp_path) -> None:
    base = folder_of("llama")
    policies = []
    for seed in (1, 2):
        model = load_causal_lm(base)
        adapt(model, seed=seed)
        save_policy(model, load_tokenizer(base), tmp_path / f"{seed}")
        policies.append(tmp_path / f"{seed}")
    out = merged(tmp_path / "out", *policies, weights=(0.3, 0.7))
    assert not (out / "adapter").exists()
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base)), str(policies[0] / "adapter"))
    peft.load_adapter(str(policies[1] / "adapter"), "second")
    peft.add_weighted_adapter(["default", "second"], [0.3, 0.7], "both", combination_type="cat")
    peft.set_adapter("both")
    torch.testing.assert_close(logits_of(load_causal_lm(out)), logits_of(peft), rtol=1e-4, atol=1e-5)


def test_points_lie_evenly_between_two_policies(folder_of, tmp_path) -> None:
    one = folder_of("llama")
    two = other_of(one, tmp_path / "two")
    out = merged(tmp_path / "line", one, two, points=3)
    assert sorted(path.name for path in out.iterdir()) == ["point-0.00", "point-0.50", "point-1.00"]
    half = merged(tmp_path / "half", one, two, weights=(0.5, 0.5))
    assert (out / "point-0.50/model.safetensors").read_bytes() == (half / "model.safetensors").read_bytes()
    assert [read_manifest(p).facts["weights"] for p in sorted(out.iterdir())] == [[1, 0], [0.5, 0.5], [0, 1]]


def test_the_manifest_names_the_sources_by_hash_and_a_finished_merge_stays(folder_of, tmp_path) -> None:
    one = folder_of("llama")
    two = other_of(one, tmp_path / "two")
    out = merged(tmp_path / "out", one, two, weights=(0.5, 0.5))
    manifest = read_manifest(out, ("policy",))
    assert manifest.inputs == {"policy-0": fingerprint_of(one), "policy-1": fingerprint_of(two)}
    before = (out / "model.safetensors").stat().st_mtime_ns
    merged(out, one, two, weights=(0.5, 0.5))
    assert (out / "model.safetensors").stat().st_mtime_ns == before


def edited(folder: Path, out: Path, file: str, **changes: object) -> Path:
    other_of(folder, out)
    tree = json.loads((out / file).read_text())
    (out / file).write_text(json.dumps(tree | changes))
    return out


def test_policies_that_differ_in_more_than_weights_are_refused_by_what_differs(
    folder_of, new_model, tmp_path
) -> None:
    one = folder_of("llama")
    wide = new_model("llama", tmp_path / "wide", 32)
    theta = edited(one, tmp_path / "theta", "config.json", rms_norm_eps=0.1)
    template = other_of(one, tmp_path / "template")
    tokenizer = load_tokenizer(template)
    tokenizer.chat_template += " "
    tokenizer.save_pretrained(str(template))
    half = other_of(one, tmp_path / "half", torch.bfloat16)
    config = json.loads((half / "config.json").read_text()) | {"dtype": "float32"}
    (half / "config.json").write_text(json.dumps(config))
    for other, why in (
        (wide, r"different configurations(.|\n)*hidden_size: 16 and 32"),
        (theta, r"different configurations(.|\n)*rms_norm_eps: 1e-06 and 0.1"),
        (folder_of("qwen2"), r"different configurations(.|\n)*architectures"),
        (template, r"different tokenizers(.|\n)*chat template"),
        (half, r"different tensors(.|\n)*'F32', (.|\n)*'BF16'"),
    ):
        with pytest.raises(ModelError, match=why):
            merged(tmp_path / "out", one, other, weights=(0.5, 0.5))
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_with_another_word_is_refused_by_that_word(folder_of, tmp_path) -> None:
    one = folder_of("llama")
    two = other_of(one, tmp_path / "two")
    tokenizer = load_tokenizer(two)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(str(two))
    with pytest.raises(ModelError, match=r"different tokenizers(.|\n)*token 'zebra': nothing and \d+"):
        merged(tmp_path / "out", one, two, weights=(0.5, 0.5))


def test_adapters_on_different_models_are_refused(folder_of, tmp_path) -> None:
    policies = []
    for name, base in (("a", folder_of("llama")), ("b", other_of(folder_of("llama"), tmp_path / "base"))):
        model = load_causal_lm(base)
        adapt(model, seed=1)
        save_policy(model, load_tokenizer(base), tmp_path / name)
        policies.append(tmp_path / name)
    with pytest.raises(ModelError, match="adapters were trained on different models"):
        merged(tmp_path / "out", *policies, weights=(0.5, 0.5))


def test_a_reward_model_and_a_mean_that_is_not_finite_are_refused(folder_of, tmp_path) -> None:
    one = folder_of("llama")
    scorer = Scorer(load_causal_lm(one).model)
    save_scorer(scorer, load_tokenizer(one), tmp_path / "reward", HeadSettings("reward", "last"))
    with pytest.raises(ModelError, match="reward or cost model"):
        merged(tmp_path / "out", one, tmp_path / "reward", weights=(0.5, 0.5))
    two = other_of(one, tmp_path / "two", torch.float16)
    three = other_of(two, tmp_path / "three", torch.float16)
    with pytest.raises(ModelError, match="is not finite"):
        merged(tmp_path / "far", two, three, weights=(1e7, 1 - 1e7), extrapolate=True)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "either weights or points"),
        ({"weights": (0.5, 0.5), "points": 3}, "either weights or points"),
        ({"weights": (0.5, 0.6)}, "add up to 1, not 1.1"),
        ({"weights": (1.0,)}, "2 policies need as many weights"),
        ({"weights": (1.5, -0.5)}, "extrapolate = true"),
        ({"points": 3, "extrapolate": True}, "for merges beyond them give weights"),
        ({"policies": ("a", "b", "c"), "points": 3}, "between two policies, not 3"),
    ],
)
def test_weights_that_make_no_mean_are_refused(settings, why) -> None:
    with pytest.raises(ValidationError, match=why):
        MergeConfig.model_validate({"out": "out", "policies": ("a", "b"), **settings})
