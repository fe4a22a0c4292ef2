"""Running out of memory says where and what to do, and loses nothing; activations that were moved are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from train_models import cost_model, ppo, sft

from equipoise.artefact import read_manifest
from equipoise.config import validate
from equipoise.errors import ConfigError, TrainingError
from equipoise.models.backbone import causal_logits, load_causal_lm
from equipoise.rollout.native import NativeSampler
from equipoise.rollout.score import ModelSource
from equipoise.train import ppo_lag, score_model
from equipoise.train import sft as sft_module
from equipoise.train.config import Hardware
from equipoise.train.memory import training
from equipoise.train.ppo_lag import train_ppo_lag
from equipoise.train.score_model import train_cost
from equipoise.train.sft import train_sft

ASKED = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.1 GiB."
ADVICE = " If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF."
PHASES = [
    # function of the loop, which of its calls in the third of four steps fails, what the message says, its advice
    (NativeSampler, "sample", 1, "while sampling", "max_new_tokens"),
    (ModelSource, "score", 1, "while scoring by the reward model", "reward.batch_size"),
    (ModelSource, "score", 2, "while scoring by the cost model", "cost.batch_size"),
    (ppo_lag, "actor_log_probs", 1, "while reading the responses with the reference", "micro_tokens"),
    (ppo_lag, "critic_values", 1, "while training the reward critic", "offload_activations"),
    (ppo_lag, "critic_values", 2, "while training the cost critic", "gradient_checkpointing"),
    (ppo_lag, "actor_log_probs", 2, "while training the actor.", "lora"),
    (ppo_lag, "target_log_probs", 1, "while training the actor on demonstrations", "micro_batch"),
    (ppo_lag, "apply_gradients", 1, "while updating the actor", "lora"),
    (ppo_lag, "apply_gradients", 3, "while updating the cost critic", "lora"),
]


def run_out(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int) -> None:
    """Let the `at`-th call fail as CUDA does."""
    calls, original = 0, getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise torch.OutOfMemoryError(ASKED + ADVICE)
        return original(*given, **named)

    monkeypatch.setattr(owner, name, call)


def rl(out, world):
    judges = {kind: {"type": "model", "path": world / kind, "max_length": 24} for kind in ("reward", "cost")}
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    return train_ppo_lag(ppo(out, world, **judges, ptx=shown, steps=4, checkpoint_every=1))


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A run in which nothing fails."""
    return read_manifest(rl(tmp_path_factory.mktemp("whole") / "out", world)).files


@pytest.mark.parametrize("owner, name, at, says, advice", PHASES)
def test_every_phase_is_named_and_the_last_checkpoint_goes_on(
    owner, name, at, says, advice, world, whole, tmp_path, monkeypatch
):
    per_step = {"sample": 1, "score": 2, "critic_values": 2, "actor_log_probs": 2, "target_log_probs": 1}
    with monkeypatch.context() as patched:
        run_out(patched, owner, name, 2 * per_step.get(name, 3) + at)
        with pytest.raises(TrainingError, match="out of memory") as caught:
            rl(tmp_path / "out", world)
    assert says in caught.value.what
    assert caught.value.why == ASKED
    assert advice in caught.value.fix
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-000002"]
    assert read_manifest(rl(tmp_path / "out", world)).files == whole


def test_held_out_evaluation_is_named_too(world, tmp_path, monkeypatch):
    run_out(monkeypatch, ppo_lag, "validate", 1)
    held_out = {"prompts": [{"path": str(world / "validation.jsonl")}], "every": 1, "limit": 4}
    with pytest.raises(TrainingError, match="held-out prompts"):
        train_ppo_lag(ppo(tmp_path / "out", world, validation=held_out))


def test_the_other_stages_name_what_they_trained(world, tmp_path, monkeypatch):
    shown, pairs = ([{"path": str(world / f"{name}.jsonl")}] for name in ("demonstrations", "pairs"))
    run_out(monkeypatch, sft_module, "target_log_probs", 1)
    with pytest.raises(TrainingError, match="while training the policy"):
        train_sft(sft(tmp_path / "sft", model=world / "policy", demonstrations=shown))
    run_out(monkeypatch, score_model.Scorer, "forward", 1)
    with pytest.raises(TrainingError, match="while training the cost model"):
        train_cost(cost_model(tmp_path / "cost", model=world / "policy", pairs=pairs))


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^shapes$"), run_pass(torch.nn.Identity()):
        raise RuntimeError("shapes")


def run_pass(model, offload=False):
    config = sft(Path("unused"), model="unused", demonstrations=[{"path": "x"}])
    config = config.model_copy(update={"hardware": Hardware(offload_activations=offload)})
    return training(model, "actor", 0, 1, Accelerator(cpu=True), config)


@pytest.mark.parametrize("family", ["policy", "gpt2"])
def test_offloaded_activations_give_the_same_gradients_bit_for_bit(world, family):
    ids = torch.randint(0, 9, (3, 8), generator=torch.Generator().manual_seed(0))
    found = []
    for offload in (False, True):
        model = load_causal_lm(world / family)
        with run_pass(model, offload):
            causal_logits(model, ids, torch.ones_like(ids, dtype=torch.bool)).square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    assert any(gradient.abs().max() > 0 for gradient in found[0])


def test_what_is_offloaded_is_a_copy_of_all_but_the_weights():
    model = torch.nn.Linear(3, 3)
    x = torch.ones(2, 3, requires_grad=True)
    with run_pass(model, True):
        y = model(x).exp()
    with torch.no_grad():
        x.zero_()  # the backward pass reads its own copy
    (weight_gradient,) = torch.autograd.grad(y.sum(), [model.weight])
    expected = torch.stack([y.detach()[:, i].sum().expand(3) for i in range(3)])  # Σ_n y_ni · x_nj with x = 1
    torch.testing.assert_close(weight_gradient, expected)


def test_offloading_is_refused_where_the_device_computes_in_main_memory(world, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_lag, "load_roles", lambda *_: pytest.fail("loaded"))
    config = ppo(tmp_path / "out", world, hardware={"device": "cpu", "offload_activations": True})
    with pytest.raises(ConfigError, match="kept off the device cpu"):
        train_ppo_lag(config)


def test_offloading_is_refused_for_networks_in_parts():
    with pytest.raises(ConfigError, match=r"exclude each other(.|\n)*gradient_checkpointing"):
        validate(Hardware, {"shard": True, "offload_activations": True}, where="test")
