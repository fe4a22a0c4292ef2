"""A run that was stopped and started again ends with the same bytes as one that was not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from train_models import CPU, Trouble, cost_model, function, ppo, read_lines, sft

from equipoise.artefact import read_manifest
from equipoise.train import ppo_lag, score_model
from equipoise.train import sft as sft_module
from equipoise.train.ppo_lag import train_ppo_lag
from equipoise.train.score_model import train_cost
from equipoise.train.sft import train_sft

LOGS = ("metrics.jsonl", "samples.jsonl")


def rl(out: Path, world: Path) -> Path:
    """Everything that has a state: a window of λ, validation with a best policy, demonstrations, micro-batches."""
    settings = {
        "steps": 7, "checkpoint_every": 2, "reward": function("troubled"), "cost": function("sweet_above_two"),
        "dual": {"type": "log", "window": 20}, "ptx": [{"path": str(world / "demonstrations.jsonl")}],
        "validation": {"prompts": [{"path": str(world / "validation.jsonl")}], "every": 3, "limit": 6},
        "micro_batch": 3, "update_iters": 2, "actor_optimizer": {"lr": 1e-2},
    }  # fmt: skip
    return train_ppo_lag(ppo(out, world, **settings))


def supervised(out: Path, world: Path) -> Path:
    """With dropout, whose random numbers have to come back too."""
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    settings = {"demonstrations": shown, "epochs": 2, "batch_size": 8, "checkpoint_every": 3, "micro_batch": 5}
    return train_sft(sft(out, model=world / "gpt2", optimizer={"lr": 1e-2}, **settings))


def half_precision(out: Path, world: Path) -> Path:
    """In bfloat16, whose weights in float32 are part of the optimizer."""
    settings = {"steps": 6, "checkpoint_every": 3, "hardware": CPU | {"precision": "bfloat16"}}
    return train_ppo_lag(ppo(out, world, actor_optimizer={"lr": 1e-3}, **settings))


def shared_base(out: Path, world: Path) -> Path:
    """Adapters on one base, with validation: checkpoints hold nothing else."""
    judges = {name: {"type": "model", "path": world / f"lora-{name}"} for name in ("reward", "cost")}
    held_out = {"prompts": [{"path": str(world / "validation.jsonl")}], "every": 2, "limit": 6}
    settings = {**judges, "reward_critic": None, "cost_critic": None, "lora": {"r": 4}, "validation": held_out}
    return train_ppo_lag(ppo(out, world, steps=6, checkpoint_every=3, actor_optimizer={"lr": 1e-2}, **settings))


def adapter(out: Path, world: Path) -> Path:
    """With the dropout of the model and of the adapter."""
    settings = {"lora": {"r": 4, "dropout": 0.2}, "epochs": 2, "batch_size": 8, "checkpoint_every": 3}
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    return train_sft(
        sft(out, model=world / "gpt2", demonstrations=shown, optimizer={"lr": 1e-2}, held_out=0.0, **settings)
    )


def scorer(out: Path, world: Path) -> Path:
    pairs = [{"path": str(world / "pairs.jsonl")}]
    settings = {"pairs": pairs, "epochs": 2, "batch_size": 8, "checkpoint_every": 3}
    return train_cost(cost_model(out, model=world / "gpt2", optimizer={"lr": 1e-2}, **settings))


def same(one: Path, two: Path) -> None:
    """Everything but the clock: weights, metrics, samples, results."""
    manifests = [read_manifest(folder) for folder in (one, two)]
    assert manifests[0].files == manifests[1].files
    assert manifests[0].facts == manifests[1].facts
    assert {"model.safetensors", "metrics.jsonl"} <= manifests[0].files.keys()


def accident(monkeypatch: pytest.MonkeyPatch, module: Any, at: int) -> None:
    """Let the optimizer step number `at` of a loop fail, once."""
    left = [at]
    real = module.apply_gradients

    def apply(*given: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("the power went off")
        return real(*given)

    monkeypatch.setattr(module, "apply_gradients", apply)


@pytest.mark.parametrize("at", [1, 2, 6, 9])  # calls of the reward: 7 steps and 3 evaluations
def test_ppo_lag_goes_on_after_an_accident(world, tmp_path, at):
    whole = rl(tmp_path / "whole", world)
    Trouble.calls, Trouble.at = 0, at
    with pytest.raises(RuntimeError, match="power"):
        rl(tmp_path / "broken", world)
    same(whole, rl(tmp_path / "broken", world))


def test_ppo_lag_saves_at_ctrl_c_and_goes_on(world, tmp_path):
    whole = rl(tmp_path / "whole", world)
    Trouble.calls, Trouble.at, Trouble.interrupt = 0, 3, True
    with pytest.raises(KeyboardInterrupt):
        rl(tmp_path / "broken", world)
    folder = tmp_path / "broken"
    assert [path.name for path in (folder / "checkpoints").glob("step-*")] == ["step-000003"]
    assert len(read_lines(folder / "metrics.jsonl")) == 3  # the step was finished first
    same(whole, rl(folder, world))


def test_metrics_are_cut_back_to_the_checkpoint(world, tmp_path):
    Trouble.at = 6  # in step 5 or its evaluation; the checkpoint is of step 4
    with pytest.raises(RuntimeError):
        rl(tmp_path / "broken", world)
    metrics = tmp_path / "broken" / "metrics.jsonl"
    assert [line["step"] for line in read_lines(metrics)] == [1, 2, 3, 4]
    with metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "lambda": 1.0}\n{"step": 6, "lam')  # what a kill in the middle of a line leaves
    rl(tmp_path / "broken", world)
    assert [line["step"] for line in read_lines(metrics)] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("train", "module", "at"),
    [
        (supervised, sft_module, 2),
        (supervised, sft_module, 5),
        (scorer, score_model, 8),
        (half_precision, ppo_lag, 14),  # three networks a step: in step 5
        (shared_base, ppo_lag, 14),
        (adapter, sft_module, 5),
    ],
)
def test_other_stages_and_precisions_go_on_after_an_accident(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[[Path, Path], Path], module: Any,
    at: int,
) -> None:  # fmt: skip
    whole = train(tmp_path / "whole", world)
    with monkeypatch.context() as patched:
        accident(patched, module, at)
        with pytest.raises(RuntimeError, match="power"):
            train(tmp_path / "broken", world)
    same(whole, train(tmp_path / "broken", world))


@pytest.mark.slow
def test_a_command_that_was_interrupted_goes_on(world, tmp_path):
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    settings = {"model": world / "policy", "demonstrations": shown, "epochs": 80, "batch_size": 8}
    command = [
        sys.executable, "-m", "equipoise.cli", "sft", "--model", world / "policy", "--out", tmp_path / "broken",
        "--demonstrations", world / "demonstrations.jsonl", "--max-length", "24", "--epochs", "80",
        "--batch-size", "8", "--hardware.device", "cpu", "--hardware.threads", "1",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, env=environment, text=True)
    metrics = tmp_path / "broken" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(read_lines(metrics)) >= 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "The same command goes on" in said
    [saved] = (tmp_path / "broken" / "checkpoints").iterdir()
    assert saved.name == f"step-{len(read_lines(metrics)):06d}"
    assert len(read_lines(metrics)) < 400
    whole = train_sft(sft(tmp_path / "whole", **settings))
    same(whole, train_sft(sft(tmp_path / "broken", **settings)))
