"""Several processes: what each keeps of a network in parts, and of a whole one."""

from pathlib import Path
from typing import Any

import pytest
from test_planning import ppo_settings, roles
from train_models import sft

from equipoise.errors import ConfigError
from equipoise.models.backbone import load_causal_lm
from equipoise.plan.config import Options, check_options
from equipoise.plan.plan import Plan, make_plan

SHARDED = {"device": "cpu", "shard": True}


def plan_of(world: Path, processes: int, hardware: dict[str, Any]) -> Plan:
    given = {"model": world / "policy", "demonstrations": [str(world / "demonstrations.jsonl")]}
    config = sft(world / "out", **given, hardware=hardware, batch_size=8, held_out=0.0)
    return make_plan("sft", config, Options(processes=processes))


def test_of_a_network_in_parts_a_process_keeps_its_share_of_everything(world: Path) -> None:
    whole, quarter = (roles(plan_of(world, n, SHARDED))["policy"] for n in (1, 4))
    model = load_causal_lm(world / "policy")
    shares = sum(4 * -(-len(p) // 4) * p[0].numel() for p in model.parameters())  # rounded up to whole rows
    buffers = sum(b.nbytes for b in model.buffers())
    assert quarter.weights == shares + buffers
    assert quarter.gradients == shares
    assert quarter.optimizer == pytest.approx(2 * shares, rel=0.01)  # and a step count each
    assert whole.gradients == sum(p.nbytes for p in model.parameters())


def test_a_training_pass_gathers_layers_and_what_is_in_none(world: Path) -> None:
    plan = plan_of(world, 4, SHARDED)
    model = load_causal_lm(world / "policy")
    assert plan.memory.parts["gathered weights"] == sum(p.nbytes for p in model.parameters())  # it has one layer
    assert plan.memory.phases["train"] > plan.memory.phases["update"]


def test_sampling_and_scoring_gather_one_network_at_a_time(world: Path) -> None:
    given = ppo_settings(world, "reward", "cost", hardware=SHARDED)
    parts, whole = (make_plan("ppo-lag", given, Options(processes=n)) for n in (4, 1))
    actor = load_causal_lm(world / "policy")
    assert parts.memory.parts["gathered weights"] == sum(p.nbytes for p in actor.parameters())
    kept = sum(role.weights + role.optimizer for role in parts.memory.roles)
    assert kept < sum(role.weights + role.optimizer for role in whole.memory.roles) / 3
    assert parts.memory.phases["sample"] > kept + parts.memory.parts["gathered weights"]
    assert "gathered weights" not in whole.memory.parts


def test_whole_networks_keep_a_second_copy_of_gradients_to_exchange(world: Path) -> None:
    one, two = (plan_of(world, n, {"device": "cpu"}) for n in (1, 2))
    assert roles(two)["policy"].gradients == 2 * roles(one)["policy"].gradients
    assert roles(two)["policy"].weights == roles(one)["policy"].weights
    assert (one.work.largest.rows, two.work.largest.rows) == (8, 4)
    assert two.work.steps == one.work.steps


def test_bfloat16_parts_train_float32_copies(world: Path) -> None:
    role = roles(plan_of(world, 4, {**SHARDED, "precision": "bfloat16"}))["policy"]
    assert role.optimizer == pytest.approx(6 * role.gradients, rel=0.01)  # copy and two moments, twice as wide


def test_more_processes_than_items_are_refused(world: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be divided among 16"):
        plan_of(world, 16, SHARDED)


def test_a_probe_of_several_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="one process"):
        check_options(Options(probe=2, processes=2))
    with pytest.raises(ConfigError, match="one process or more"):
        check_options(Options(processes=0))
