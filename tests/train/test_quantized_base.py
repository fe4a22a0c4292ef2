"""Training on a base of 4 bits: the roles share it, learn on it, and leave whole models of full precision."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_shared_base import CPU, close, judges, networks, storage
from train_models import (
    Trouble,
    cost_model,
    disturb,
    function,
    make_policy,
    make_scorer,
    ppo,
    read_lines,
    reward_model,
    sft,
)

from equipoise.config import validate
from equipoise.errors import ConfigError
from equipoise.models.adapters import base_at, base_of_adapter, load_adapter
from equipoise.models.backbone import load_backbone, load_causal_lm
from equipoise.models.four_bit import is_quantized, quantized_layers
from equipoise.models.score_head import Critic, Scorer, scorer_on
from equipoise.records import Prompt
from equipoise.rollout.native import NativeSampler
from equipoise.rollout.respond import to_responses
from equipoise.rollout.score import model_source
from equipoise.tokens.collate import collate_prompts
from equipoise.tokens.template import end_id
from equipoise.train import ppo_lag, score_model
from equipoise.train import sft as sft_module
from equipoise.train.config import RewardConfig, SftConfig
from equipoise.train.forward import actor_log_probs, critic_values
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.ppo_lag import train_ppo_lag
from equipoise.train.roles import load_roles
from equipoise.train.score_model import train_cost, train_reward
from equipoise.train.sft import train_sft

LORA = {"r": 4, "alpha": 8, "quantize": "nf4"}
QUICK = {"lr": 1e-2, "schedule": "constant", "warmup": 0.0}


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that is as wide as a block of 4-bit weights, and scorers on it."""
    folder = tmp_path_factory.mktemp("wide-world")
    make_policy(folder / "policy", width=64)
    for kind in ("reward", "cost"):
        make_scorer(folder / kind, folder / "policy", kind, lora=True)
    return folder


def on_four_bits(out: Path, world: Path, wide: Path, **settings: Any) -> PpoLagConfig:
    given = {"actor": wide / "policy", "lora": LORA, **judges(wide / "reward", wide / "cost")}
    quick = {"actor_optimizer": QUICK, "critic_optimizer": QUICK}
    return ppo(out, world, **{**given, **quick, **settings})


def test_shared_roles_give_the_numbers_of_separate_networks_of_4_bits(library, world, wide):
    """Each separate network is loaded for itself: scorers as the reward and cost stages load them."""
    config = on_four_bits(wide / "unused", world, wide)
    roles = load_roles(config, CPU)
    prompts = [Prompt.from_text("ask " + "one " * n) for n in range(6)]
    batch = collate_prompts(roles.tokenizer, [p.messages for p in prompts], 100).batch
    disturb(roles.actor, 7)
    sampler = NativeSampler(roles.actor, end_id(roles.tokenizer), int(roles.tokenizer.pad_token_id))
    rollout = sampler.sample(batch, config.sampling, torch.Generator().manual_seed(0))
    responses = to_responses(prompts, rollout, roles.tokenizer)
    with torch.no_grad():
        for kind, given in (("reward", config.reward), ("cost", config.cost)):
            alone = scorer_on(load_causal_lm(wide / "policy", quantize="nf4"), wide / kind, kind)
            backbone = load_backbone(wide / "policy", quantize="nf4")
            load_adapter(backbone, wide / kind, kind, trainable=False)
            staged = Scorer(backbone)
            staged.head.load_state_dict(alone.head.state_dict())
            expected = torch.tensor(model_source(given, staged).score(responses))
            assert close(torch.tensor(getattr(roles, kind).score(responses)), expected)
            assert expected.std() > 0.01
            values = critic_values(roles.critics[f"{kind}_critic"], rollout)
            assert close(values, critic_values(Critic(alone), rollout))
        known = actor_log_probs(roles.actor, rollout, config.sampling)
        mask = rollout.response_mask
        assert close(known[mask], rollout.log_probs[mask])  # the sampler reads the 4 bits, too
        ref = load_causal_lm(wide / "policy", quantize="nf4")
        expected = actor_log_probs(ref, rollout, config.sampling)
        assert close(actor_log_probs(roles.ref, rollout, config.sampling), expected)
        assert (known - expected).abs().max() > 0.01
        full = actor_log_probs(load_causal_lm(wide / "policy"), rollout, config.sampling)
        assert (full - expected).abs().max() > 1e-3


def test_six_roles_keep_one_base_of_4_bits(library, world, wide):
    roles = load_roles(on_four_bits(wide / "unused", world, wide), CPU)
    base = dict(quantized_layers(roles.ref))
    assert len(base) == 7  # of one layer; the head is none of them
    for network in networks(roles).values():
        layers = quantized_layers(network)
        assert {layer.weight.data_ptr() for _, layer in layers} == {x.weight.data_ptr() for x in base.values()}
        assert {id(layer.quant_state) for _, layer in layers} == {id(x.quant_state) for x in base.values()}
    trained = {
        name for network in roles.trained().values() for name, p in network.named_parameters() if p.requires_grad
    }
    assert all("lora_" in name or ".head." in name for name in trained)


def test_what_does_not_share_the_base_has_4_bits_of_its_own(library, world, wide):
    lora = LORA | {"share": False}
    roles = load_roles(on_four_bits(wide / "unused", world, wide, lora=lora, ref=wide / "policy"), CPU)
    found = networks(roles)
    assert all(is_quantized(network) for network in found.values())
    weights = {name: storage(network) for name, network in found.items()}
    assert not weights["actor"] & (weights["ref"] | weights["reward"] | weights["cost"])
    assert weights["reward"] & weights["reward_critic"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_policy_learns_and_is_saved_in_full_with_its_adapter(library, world, wide, tmp_path, precision):
    settings = {"model": wide / "policy", "lora": LORA, "epochs": 3, "batch_size": 8, "optimizer": QUICK}
    settings["hardware"] = {"device": "cpu", "threads": 1, "precision": precision}
    settings["demonstrations"] = [{"path": str(world / "demonstrations.jsonl")}]
    before = base_at(wide / "policy")
    out = train_sft(sft(tmp_path / "sft", **settings))
    found = [line["loss"] for line in read_lines(out / "metrics.jsonl")]
    assert found[-1] < 0.6 * found[0]
    assert base_of_adapter(out) == before == base_at(wide / "policy")
    assert_merged(wide / "policy", out, precision)


def assert_merged(base: Path, out: Path, precision: str) -> None:
    """What was saved is W + (alpha/r)·B·A of the base's own weights, not of the rounded ones."""
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    adapter = load_file(out / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    dtype = getattr(torch, precision)
    for name, weight in after.items():
        assert weight.dtype == dtype
        expected, key = before[name].to(dtype), f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in adapter:
            a, b = (adapter[f"{key}.lora_{part}.weight"] for part in "AB")
            expected = expected + 2.0 * (b @ a)
            assert not torch.equal(weight, before[name].to(dtype))
        torch.testing.assert_close(weight, expected)


def test_reward_and_cost_models_learn(library, world, wide, tmp_path):
    pairs = [{"path": str(world / "pairs.jsonl")}]
    settings = {"model": wide / "policy", "lora": LORA, "pairs": pairs, "epochs": 6, "optimizer": QUICK}
    for kind, config, train in (("reward", reward_model, train_reward), ("cost", cost_model, train_cost)):
        out = train(config(tmp_path / kind, **settings))
        found = [line["loss"] for line in read_lines(out / "metrics.jsonl")]
        assert found[-1] < 0.6 * found[0], kind
        assert base_of_adapter(out) == base_at(wide / "policy")


def test_the_reward_rises_and_the_policy_is_saved_in_full(library, world, wide, tmp_path):
    counted = {"reward": function("count_good"), "reward_critic": wide / "reward", "kl_coef": 0.001}
    still = {"constraint": {"type": "none"}, "cost_critic": None, "batch_size": 32, "steps": 25}
    ptx = {"ptx": [{"path": str(world / "demonstrations.jsonl")}], "ptx_coef": 0.1}
    out = train_ppo_lag(on_four_bits(tmp_path / "out", world, wide, **counted, **still, **ptx))
    rewards = [step["mean_reward"] for step in read_lines(out / "metrics.jsonl")]
    assert sum(rewards[-5:]) / 5 > 1 + sum(rewards[:5]) / 5
    assert base_of_adapter(out) == base_at(wide / "policy")
    assert (out / "adapter" / "adapter_config.json").exists()
    assert_merged(wide / "policy", out, "float32")


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(library, world, wide, tmp_path):
    judge = {"reward": function("troubled"), "reward_critic": wide / "reward"}
    once, twice = (
        on_four_bits(tmp_path / name, world, wide, **judge, checkpoint_every=2) for name in ("once", "twice")
    )
    train_ppo_lag(once)
    Trouble.calls, Trouble.at = 0, 4  # the last of four steps
    with pytest.raises(RuntimeError, match="power"):
        train_ppo_lag(twice)
    Trouble.at = None
    whole, again = ((end / "model.safetensors").read_bytes() for end in (once.out, train_ppo_lag(twice)))
    assert whole == again


STAGES = [
    (sft_module, "load_causal_lm", sft, train_sft, {"demonstrations": "demonstrations"}),
    (score_model, "scorer_from", reward_model, train_reward, {"pairs": "pairs"}),
    (score_model, "scorer_from", cost_model, train_cost, {"pairs": "pairs"}),
]


@pytest.mark.parametrize(("module", "loader", "kind", "train", "files"), STAGES)
def test_without_the_library_it_is_refused_before_anything_loads(
    world, tmp_path, monkeypatch, module, loader, kind, train, files
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(module, loader, lambda *_, **__: pytest.fail("loaded"))
    data = {key: [{"path": str(world / f"{name}.jsonl")}] for key, name in files.items()}
    with pytest.raises(ConfigError, match=r"lora\.quantize = \"nf4\"(.|\n)*pip install 'equipoise\[quant\]'"):
        train(kind(tmp_path / "out", model=world / "policy", lora=LORA, **data))
    assert not (tmp_path / "out").exists()


def test_rl_without_the_library_is_refused_before_anything_loads(world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(ppo_lag, "load_roles", lambda *_: pytest.fail("loaded"))
    eight = {"critic_optimizer": {"bits": 8}}
    with pytest.raises(ConfigError, match=r"critic_optimizer\.bits = 8, lora\.quantize(.|\n)*equipoise\[quant\]"):
        train_ppo_lag(ppo(tmp_path / "out", world, lora=LORA, **eight))


@pytest.mark.parametrize("kind", [SftConfig, RewardConfig])
def test_a_base_of_4_bits_is_not_divided_among_processes(kind):
    data = {"demonstrations": [{"path": "x"}]} if kind is SftConfig else {"pairs": [{"path": "x"}]}
    tree = {"out": "x", "model": "x", **data, "lora": LORA}
    assert validate(kind, tree, where="test").quantize == "nf4"
    with pytest.raises(ConfigError, match=r"4 bits cannot be sharded: unset lora\.quantize"):
        validate(kind, tree | {"hardware": {"shard": True}}, where="test")


def test_all_weights_are_not_trained_in_4_bits():
    """The setting is one of adapters; beside them there is none."""
    tree = {"out": "x", "model": "x", "demonstrations": [{"path": "x"}]}
    assert validate(SftConfig, tree, where="test").quantize is None
    with pytest.raises(ConfigError, match="quantize"):
        validate(SftConfig, tree | {"quantize": "nf4"}, where="test")
    with pytest.raises(ConfigError, match="nf4"):
        validate(SftConfig, tree | {"lora": {"quantize": "int3"}}, where="test")
