"""The recipes for GPUs: their settings are valid, and the layout of the largest one runs with a tiny model."""

from pathlib import Path
from typing import Any

import pytest
from test_two_processes import launch
from train_models import read_lines

from equipoise.artefact import read_manifest
from equipoise.cli.layering import find_recipe, read_toml
from equipoise.config import validate
from equipoise.train.config import CostConfig, RewardConfig, SftConfig
from equipoise.train.ppo_config import PpoLagConfig

NAMES = ("1x24", "1x80", "8x80", "2-nodes")
FILE = [{"path": "x.jsonl"}]
STAGES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "sft": (SftConfig, {"model": "m", "demonstrations": FILE}),
    "reward": (RewardConfig, {"model": "m", "pairs": FILE}),
    "cost": (CostConfig, {"model": "m", "pairs": FILE}),
    "ppo_lag": (PpoLagConfig, {"actor": "m", "prompts": FILE, "ptx": FILE}),
}


@pytest.mark.parametrize("name", NAMES)
def test_recipes_for_gpus_have_valid_settings_for_every_stage_that_trains(name):
    recipe = read_toml(find_recipe(name))
    assert set(recipe) == {"title", "seed", *STAGES}
    for stage, (kind, given) in STAGES.items():
        table = recipe[stage] | given | {"out": "o", "seed": recipe["seed"]}
        for judge in {"reward", "cost"} & set(table):
            table[judge] = table[judge] | {"path": "m"}
        config = validate(kind, table, where=name)
        assert config.hardware.shard == (name in ("8x80", "2-nodes"))
        assert (config.lora is None) == config.hardware.shard


def test_responses_of_the_recipes_fit_what_their_scorers_and_networks_read():
    for name in NAMES:
        table = read_toml(find_recipe(name))["ppo_lag"]
        longest = table["max_prompt_length"] + table["sampling"]["max_new_tokens"]
        assert longest <= table["max_length"] == table["reward"]["max_length"] == table["cost"]["max_length"]


@pytest.mark.slow
def test_the_layout_of_8x80_runs_in_four_processes(world: Path, tmp_path: Path):
    out = tmp_path / "ppo"
    flags = {
        "out": out, "actor": world / "policy", "reward.path": world / "reward", "cost.path": world / "cost",
        "prompts": world / "prompts.jsonl", "ptx": world / "demonstrations.jsonl", "hardware.device": "cpu",
        "hardware.threads": 1, "hardware.timeout": 120, "max-length": 24, "max-prompt-length": 12,
        "sampling.max-new-tokens": 6, "reward.max-length": 24, "cost.max-length": 24, "steps": 2,
        "micro-tokens": 20, "batch-size": 10, "ptx-batch-size": 6, "checkpoint-every": 1,
        "validation.prompts": world / "validation.jsonl", "validation.limit": 5, "validation.every": 1,
    }  # fmt: skip
    given = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    said, ended = launch(4, "-m", "equipoise.cli", "ppo-lag", "8x80", *given)
    assert ended == [0] * 4, "\n".join(said)
    assert read_manifest(out).facts["steps"] == 2
    assert [line["step"] for line in read_lines(out / "metrics.jsonl")] == [1, 2]
    assert (out / "model.safetensors").exists()
