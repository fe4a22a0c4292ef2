"""Roles on one frozen base: the same numbers as separate models of the same weights, and the base never moves."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from train_models import (
    cost_model,
    disturb,
    function,
    make_policy,
    make_qwen2,
    make_scorer,
    ppo,
    read_lines,
    reward_model,
    sft,
)
from transformers import AutoModelForCausalLM

from equipoise.algos import policy
from equipoise.artefact import read_manifest
from equipoise.errors import ConfigError
from equipoise.models.adapters import base_at, base_of_adapter
from equipoise.models.backbone import causal_logits, load_causal_lm, save_policy
from equipoise.records import Prompt, Response
from equipoise.rollout.native import NativeSampler
from equipoise.rollout.respond import to_responses
from equipoise.rollout.score import ModelSource
from equipoise.tokens.batches import Rollout
from equipoise.tokens.collate import collate_prompts
from equipoise.tokens.template import end_id
from equipoise.train import ppo_lag
from equipoise.train.forward import actor_log_probs, critic_values
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.ppo_lag import train_ppo_lag
from equipoise.train.roles import Roles, load_roles
from equipoise.train.score_model import train_cost, train_reward
from equipoise.train.sft import train_sft

CPU = torch.device("cpu")
QUICK = {"lr": 1e-2, "schedule": "constant", "warmup": 0.0}
LORA = {"r": 4, "alpha": 8}


def judges(reward: Path, cost: Path) -> dict[str, Any]:
    paths = {"reward": reward, "cost": cost}
    return {
        **{kind: {"type": "model", "path": path} for kind, path in paths.items()},
        "reward_critic": None,
        "cost_critic": None,
    }


def on_one_base(out: Path, world: Path, **settings: Any) -> PpoLagConfig:
    shared = {"lora": LORA, **judges(world / "lora-reward", world / "lora-cost")}
    return ppo(out, world, **{**shared, "actor_optimizer": QUICK, "critic_optimizer": QUICK, **settings})


class Twins(NamedTuple):
    """The same weights twice: adapters on one base, and six models of their own; and what to compute on."""

    config: PpoLagConfig
    shared: Roles
    separate: Roles
    rollout: Rollout
    responses: list[Response]


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    world = tmp_path_factory.mktemp(request.param)
    if request.param == "qwen2":
        make_qwen2(world / "policy")
    else:
        make_policy(world / "policy", request.param)
    for kind in ("reward", "cost"):
        make_scorer(world / f"lora-{kind}", world / "policy", kind, lora=True)
    config = on_one_base(world / "out", world)
    shared = load_roles(config, CPU)
    disturb(shared.actor, 7)
    save_policy(shared.actor, shared.tokenizer, world / "actor")
    whole = {"lora": None, "actor": world / "actor", "ref": world / "policy"}
    separate = load_roles(on_one_base(world / "out", world, **whole), CPU)
    prompts = [Prompt.from_text("ask " + "one " * n) for n in range(6)]
    batch = collate_prompts(shared.tokenizer, [p.messages for p in prompts], 100).batch
    sampler = NativeSampler(shared.actor, end_id(shared.tokenizer), int(shared.tokenizer.pad_token_id))
    rollout = sampler.sample(batch, config.sampling, torch.Generator().manual_seed(0))
    return Twins(config, shared, separate, rollout, to_responses(prompts, rollout, shared.tokenizer))


def networks(roles: Roles) -> dict[str, nn.Module]:
    """All that has weights."""
    assert isinstance(roles.reward, ModelSource)
    assert isinstance(roles.cost, ModelSource)
    return {**roles.trained(), "ref": roles.ref, "reward": roles.reward.scorer, "cost": roles.cost.scorer}


def storage(network: nn.Module) -> set[int]:
    return {p.data_ptr() for p in network.parameters()}


def close(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one, two, atol=1e-5, rtol=0)


def test_scores_log_probs_and_values_are_those_of_separate_models(twins):
    _, shared, separate, rollout, responses = twins
    sampling = twins.config.sampling
    with torch.no_grad():
        for kind in ("reward", "cost"):
            scores = [torch.tensor(getattr(roles, kind).score(responses)) for roles in (shared, separate)]
            assert close(*scores)
            assert scores[0].std() > 0.01
            values = [critic_values(r.critics[f"{kind}_critic"], rollout)[0] for r in (shared, separate)]
            assert close(*values)
        for role in ("actor", "ref"):
            found = [actor_log_probs(getattr(roles, role), rollout, sampling) for roles in (shared, separate)]
            assert close(*found)
        base = actor_log_probs(shared.ref, rollout, sampling)
        assert (actor_log_probs(shared.actor, rollout, sampling) - base).abs().max() > 0.01
        mask = rollout.response_mask  # the sampler asked the actor with its adapter, too
        assert close(actor_log_probs(shared.actor, rollout, sampling)[mask], rollout.log_probs[mask])


def losses(roles: Roles, twins: Twins) -> dict[str, Tensor]:
    """The losses of a step, with the same advantages and returns for both."""
    rollout, generator = twins.rollout, torch.Generator().manual_seed(3)
    mask, count = rollout.response_mask, float(len(rollout.input_ids))
    noise = torch.randn(mask.shape, generator=generator)
    found = {}
    log_probs = actor_log_probs(roles.actor, rollout, twins.config.sampling)
    found["actor"], _ = policy.actor_loss(log_probs, rollout.log_probs, noise, mask, 0.2, count)
    for role in ("reward_critic", "cost_critic"):
        (values,) = critic_values(roles.critics[role], rollout)
        found[role], _ = policy.value_loss(values, noise, noise + 1, mask, denominator=count, clip_range=5.0)
    return found


def test_losses_and_gradients_are_those_of_separate_models(twins):
    found, expected = (losses(roles, twins) for roles in (twins.shared, twins.separate))
    for roles, all_losses in ((twins.shared, found), (twins.separate, expected)):
        sum(all_losses.values()).backward()
        assert all(p.grad is None for p in roles.ref.parameters())
    for role, network in twins.shared.trained().items():
        assert close(found[role], expected[role])
        whole = twins.separate.trained()[role]
        layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, LoraLayer)}
        assert layers
        for name, layer in layers.items():
            [(adapter, scale)] = layer.scaling.items()
            a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            gradient = whole.get_submodule(name).weight.grad  # of W' = W + scale·B·A, transposed in GPT-2
            gradient = gradient.T if layer.fan_in_fan_out else gradient
            assert close(b.grad, scale * gradient @ a.T), name
            assert close(a.grad, scale * b.T @ gradient), name
            assert layer.get_base_layer().weight.grad is None
        if role != "actor":
            assert close(network.scorer.head.weight.grad, whole.scorer.head.weight.grad)
        assert max(p.grad.abs().max() for p in network.parameters() if p.grad is not None) > 1e-3
        for model in (network, whole):
            model.zero_grad(set_to_none=True)


def test_one_base_is_in_memory_once(twins):
    assert all(storage(twins.shared.ref) & storage(network) for network in networks(twins.shared).values())

    def size(roles: Roles) -> int:
        return sum({p.data_ptr(): p.numel() for n in networks(roles).values() for p in n.parameters()}.values())

    one = sum(p.numel() for p in twins.shared.ref.parameters())
    adapters = sum(p.numel() for n in twins.shared.trained().values() for p in n.parameters() if p.requires_grad)
    assert size(twins.shared) < one + 2 * adapters
    assert size(twins.separate) > 4 * one


def test_critics_start_as_copies_of_the_adapters_that_judge(twins):
    shared = twins.shared
    for judge, critic in (
        (shared.reward, shared.critics["reward_critic"]),
        (shared.cost, shared.critics["cost_critic"]),
    ):
        theirs = dict(judge.scorer.named_parameters())
        for name, weight in critic.scorer.named_parameters():
            twin = theirs[name.replace("_critic.", ".")]
            assert torch.equal(weight, twin)
            if "lora_" in name or name.startswith("head"):
                assert weight.data_ptr() != twin.data_ptr()
                assert (weight.requires_grad, twin.requires_grad) == (True, False)
    for role, network in networks(shared).items():
        names = {name for layer in network.modules() if isinstance(layer, LoraLayer) for name in layer.lora_A}
        assert names == ({role} if role != "ref" else set())


Run = Callable[..., tuple[Roles, Path]]


@pytest.fixture
def run(world, tmp_path, monkeypatch) -> Run:
    """Train on one base; the roles as training left them, and the finished directory."""

    def train(**settings: Any) -> tuple[Roles, Path]:
        seen: list[Roles] = []

        def load(*given: Any) -> Roles:
            seen.append(load_roles(*given))
            return seen[-1]

        monkeypatch.setattr(ppo_lag, "load_roles", load)
        out = train_ppo_lag(on_one_base(tmp_path / "out", world, **settings))
        return seen[-1], out

    return train


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_moves_the_adapters_and_nothing_else(run, world, precision):
    hardware = {"device": "cpu", "threads": 1, "precision": precision}
    start = networks(load(world, hardware=hardware))
    before = {name: [p.clone() for p in network.parameters()] for name, network in start.items()}
    ptx = [{"path": str(world / "demonstrations.jsonl")}]
    roles, _ = run(ptx=ptx, update_iters=2, micro_batch=3, hardware=hardware)
    for name, network in networks(roles).items():
        moved = [not torch.equal(p, q) for p, q in zip(network.parameters(), before[name], strict=True)]
        assert moved == [p.requires_grad for p in network.parameters()], name
        assert any(moved) == (name in roles.trained())
        assert all(p.grad is None for p in network.parameters())


def load(world: Path, **settings: Any) -> Roles:
    return load_roles(on_one_base(world / "unused", world, **settings), CPU)


def test_the_reward_rises(run, world):
    counted = {"reward": function("count_good"), "reward_critic": world / "lora-reward"}
    still = {"constraint": {"type": "none"}, "cost_critic": None, "batch_size": 32, "kl_coef": 0.001}
    _, out = run(steps=40, **counted, **still)
    rewards = [step["mean_reward"] for step in read_lines(out / "metrics.jsonl")]
    assert sum(rewards[-5:]) / 5 > 1.5 + sum(rewards[:5]) / 5


def test_the_result_is_a_plain_model_equal_to_the_actor_with_its_adapter_beside_it(run, world):
    roles, out = run()
    ids = torch.tensor([[0, 2, 6, 8, 3, 11]])
    seen = torch.ones_like(ids, dtype=torch.bool)
    plain = AutoModelForCausalLM.from_pretrained(str(out)).eval()
    with torch.no_grad():
        found = causal_logits(plain, ids, seen)
        assert close(found, causal_logits(roles.actor, ids, seen))
        assert not torch.allclose(found, causal_logits(roles.ref, ids, seen), atol=1e-3)
    assert base_of_adapter(out) == base_at(world / "policy")
    assert {"adapter/adapter_model.safetensors", "model.safetensors"} <= read_manifest(out).files.keys()


def test_the_best_feasible_policy_is_kept_with_its_adapter(run, world):
    held_out = {"prompts": [{"path": str(world / "validation.jsonl")}], "every": 1, "limit": 8}
    _, out = run(validation=held_out, constraint={"type": "mean", "limit": 1e3})
    steps = {s["step"]: s["validation_mean_reward"] for s in read_lines(out / "metrics.jsonl")}
    best = max(steps, key=lambda step: steps[step])
    assert read_manifest(out).facts["best_step"] == best
    assert (out / "adapter" / "base.json").exists()


def test_a_checkpoint_holds_adapters_and_heads_only(run, monkeypatch):
    monkeypatch.setattr(ppo_lag, "drop_checkpoints", lambda _: None)
    roles, out = run(checkpoint_every=3)
    saved = out / "checkpoints" / "step-000003"
    for role, network in roles.trained().items():
        names = {name for name, p in network.named_parameters() if p.requires_grad}
        assert load_file(saved / f"{role}.safetensors").keys() == names
        assert all("lora_" in name or ".head." in name for name in names)


def test_an_adapter_of_another_base_is_refused_and_both_are_named(world, tmp_path, monkeypatch):
    make_policy(tmp_path / "other")
    model = load_causal_lm(tmp_path / "other")
    disturb(model, 1)
    save_policy(model, load(world).tokenizer, tmp_path / "other")
    monkeypatch.setattr("equipoise.train.shared_base.load_causal_lm", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match="another base") as caught:
        load_roles(on_one_base(tmp_path / "out", world, actor=tmp_path / "other"), CPU)
    assert str(world / "policy") in caught.value.why
    assert str(tmp_path / "other") in caught.value.why
    assert "lora.share = false" in caught.value.fix


def test_the_same_base_elsewhere_is_the_same_base(world, tmp_path):
    shutil.copytree(world / "policy", tmp_path / "moved")
    load_roles(on_one_base(tmp_path / "out", world, actor=tmp_path / "moved"), CPU)


@pytest.mark.parametrize("how", ["no adapter", "share = false"])
def test_a_model_that_does_not_share_is_loaded_whole_and_its_critic_is_an_adapter_on_it(run, world, how):
    plain = judges(world / "reward", world / "cost") if how == "no adapter" else {"lora": LORA | {"share": False}}
    roles, _ = run(**plain)
    for judge, critic in (
        (roles.reward, roles.critics["reward_critic"]),
        (roles.cost, roles.critics["cost_critic"]),
    ):
        whole = storage(judge.scorer.backbone)
        assert not whole & storage(roles.ref)
        assert {p.data_ptr() for p in critic.parameters() if not p.requires_grad} == whole
        assert all("lora_" in n or ".head." in n for n, p in critic.named_parameters() if p.requires_grad)


def test_functions_may_judge_and_another_reference_may_be_named(run, world, tmp_path):
    shutil.copytree(world / "policy", tmp_path / "ref")
    named = {"reward": function("count_good"), "reward_critic": world / "lora-reward", "ref": tmp_path / "ref"}
    roles, _ = run(**named)
    assert not storage(roles.actor) & storage(roles.ref)
    assert storage(roles.actor) & storage(roles.critics["reward_critic"])
    assert not any(p.requires_grad for p in roles.ref.parameters())


def test_two_rounds_in_which_every_stage_trains_adapters(world, tmp_path):
    shown, sources = [{"path": str(world / "demonstrations.jsonl")}], [{"path": str(world / "pairs.jsonl")}]
    small = {"lora": LORA, "epochs": 1, "batch_size": 8, "optimizer": {"lr": 1e-2}}
    current = train_sft(sft(tmp_path / "sft", model=world / "policy", demonstrations=shown, **small))
    for k in (1, 2):
        folder = tmp_path / f"round-{k}"
        reward = train_reward(reward_model(folder / "reward", model=current, pairs=sources, **small))
        cost = train_cost(cost_model(folder / "cost", model=current, pairs=sources, **small))
        config = ppo(folder / "policy", world, actor=current, lora=LORA, steps=2, **judges(reward, cost))
        roles = load_roles(config, CPU)
        assert base_of_adapter(reward) == base_of_adapter(cost) == base_at(current)
        assert all(storage(roles.ref) & storage(network) for network in networks(roles).values())
        before, current = current, train_ppo_lag(config)
        assert base_of_adapter(current) == base_at(before)
