"""What `test_two_processes` runs alone and in each of two processes: python two_processes.py WORLD OUT ALONE."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from train_models import WORDS, Trouble, cost_model, function, ppo, prompt, sft, write_lines

from equipoise.config import validate
from equipoise.errors import TrainingError
from equipoise.models import lm_head
from equipoise.rollout import native
from equipoise.tokens.batches import Rollout, rows
from equipoise.train import direct, ppo_lag, score_model
from equipoise.train import sft as sft_module
from equipoise.train.direct_config import DirectConfig
from equipoise.train.ppo_lag import train_ppo_lag
from equipoise.train.score_model import train_cost
from equipoise.train.sft import train_sft
from equipoise.train.sharded import gathered

Patch = Callable[[Any, str, Any], None]
RANK = int(os.environ.get("RANK", "0"))
WHOLE = {"device": "cpu", "threads": 1, "timeout": 120.0}
PARTS = {**WHOLE, "shard": True}
SMALL = {"batch_size": 5, "micro_batch": 2, "epochs": 1}  # two cannot halve it, and need unlike micro-batches


class Now:
    """What is running, and what has been seen of it."""

    run: str | None = None  # None: nothing is kept
    networks: ClassVar[set[int]] = set()
    lams: ClassVar[list[float]] = []
    samples = 0


def alone(world: Path, out: Path, patch: Patch) -> None:
    """Every loop in one process; the rollouts of the long run are kept."""
    watch(out, patch)
    for shape in (WHOLE, PARTS):  # to one process they are the same
        score_models(world, out / shape_name(shape), shape)
    roles(world, out, "troubled")
    groups(world, out, out)
    adapters(world, out)
    for name in ("one-then-two", "uninterrupted"):
        Trouble.calls, Trouble.at, Trouble.interrupt = 0, 3 if name == "one-then-two" else None, True
        try_train(rl(out / name, world, "troubled", hardware=PARTS))
    replay(out, out, patch)
    long_run(world, out / "long", WHOLE)


def together(world: Path, out: Path, alone_out: Path) -> None:
    """The same in one of two processes, and what only several can do; the last run does not survive it."""
    watch(out, setattr)
    roles(world, out, "troubled")
    groups(world, out, alone_out)
    adapters(world, out)
    for shape in (WHOLE, PARTS):
        score_models(world, out / shape_name(shape), shape)
    Trouble.calls, Trouble.at, Trouble.interrupt = 0, 3 if RANK == 1 else None, True
    if not try_train(rl(out / "stopped", world, "troubled")):
        (out / f"stopped-{RANK}").touch()
    try_train(rl(out / "stopped", world, "troubled"))
    Trouble.at = None
    try_train(rl(alone_out / "one-then-two", world, "troubled", hardware=PARTS))
    draw = native.NativeSampler.sample
    replay(out, alone_out, setattr)
    for shape in (WHOLE, PARTS):
        long_run(world, out / f"long-{shape_name(shape)}", shape)
    native.NativeSampler.sample = draw
    Trouble.calls, Trouble.at, Trouble.kill = 0, 4, RANK == 1
    try:
        train_ppo_lag(rl(out / "killed", world, "troubled", hardware=PARTS, checkpoint_every=1))
    except TrainingError as error:
        (out / "last-words").write_text(str(error), encoding="utf-8")


def shape_name(shape: dict[str, Any]) -> str:
    return "parts" if "shard" in shape else "whole"


def score_models(world: Path, out: Path, shape: dict[str, Any]) -> None:
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    given = {"model": world / "policy", "held_out": 0.2, "hardware": shape, **SMALL}
    with_name(out / "sft", lambda to: train_sft(sft(to, demonstrations=shown, **given)))
    sources = {name: [{"path": str(world / f"{name}.jsonl")}] for name in ("pairs", "labels")}
    with_name(out / "cost", lambda to: train_cost(cost_model(to, categories=["sweet"], **sources, **given)))
    with_name(out / "direct", lambda to: prefer(world, to, shape))
    low = {**shape, "precision": "bfloat16", "gradient_checkpointing": True}
    given |= {"hardware": low, "lora": {"r": 4}}
    with_name(out / "lora", lambda to: train_sft(sft(to, demonstrations=shown, **given)))


def prefer(world: Path, out: Path, shape: dict[str, Any]) -> Path:
    """Pairs, a reference that is loaded besides, and a cost model."""
    tree = {
        "out": out, "policy": world / "policy", "ref": world / "policy", "pairs": [str(world / "pairs.jsonl")],
        "method": {"type": "modpo", "other": {"type": "model", "path": world / "cost"}}, "max_length": 24,
        "held_out": 0.2, "hardware": shape, "beta": 1.0, "optimizer": {"lr": 1e-3}, **SMALL,
    }  # fmt: skip
    return direct.train_direct(validate(DirectConfig, tree, where=""))


def roles(world: Path, out: Path, reward: str) -> None:
    with_name(out / "ppo", lambda to: train_ppo_lag(rl(to, world, reward)))


def groups(world: Path, out: Path, alone_out: Path) -> None:
    """Several answers to a prompt and no critics; of one group there is one prompt, so one process sees none."""
    asked = alone_out / "groups.jsonl"
    if out == alone_out:
        kinds = ("harmful", "harmless", "harmless", "harmless")
        write_lines(asked, [prompt(f"ask {word}") | {"kind": k} for word, k in zip(WORDS, kinds, strict=False)])
    given: Any = {
        "advantage": {"type": "rloo"}, "samples_per_prompt": 2, "reward_critic": None, "cost_critic": None,
        "prompts": [{"path": str(asked)}], "validation": None, "limit_from": [], "ptx": [], "batch_size": 4,
        "constraint": {"type": "groups", "by": ["kind"], "limits": {"harmful": -1.0}, "limit": 0.3},
        "dual": {"type": "projected", "window": 3},
    }  # fmt: skip
    with_name(out / "groups", lambda to: train_ppo_lag(rl(to, world, "count_good", **given)))


def adapters(world: Path, out: Path) -> None:
    one_base = {**judges(world), "reward_critic": None, "cost_critic": None, "lora": {"r": 4}}
    train_ppo_lag(ppo(out / "adapters", world, batch_size=5, micro_batch=2, steps=3, **one_base))


def long_run(world: Path, out: Path, shape: dict[str, Any]) -> None:
    """Twenty steps of four networks and two that give scores, all of them in parts or none."""
    given: Any = {
        **judges(world, batch_size=2), "batch_size": 7, "micro_batch": 3, "steps": 20, "checkpoint_every": 7,
        "dual": {"type": "log", "window": 10}, "hardware": {**shape, "gradient_checkpointing": "shard" in shape},
        "ptx": [{"path": str(world / "demonstrations.jsonl")}], "ptx_batch_size": 5, "update_iters": 2,
        "actor_optimizer": {"lr": 1e-3}, "critic_optimizer": {"lr": 1e-3},
        "validation": {"prompts": [{"path": str(world / "validation.jsonl")}], "limit": 3, "every": 5},
    }  # fmt: skip
    lm_head.LOGITS = 100 if "shard" in shape else 2**24  # six positions at a time, of dozens
    with_name(out, lambda to: train_ppo_lag(ppo(to, world, **given)))


def rl(out: Path, world: Path, reward: str, **settings: Any) -> Any:
    given: Any = {
        "reward": function(reward), "cost": function("count_sweet"), "constraint": {"type": "mean", "limit": 0.3},
        "batch_size": 7, "limit_from": [{"path": str(world / "labels.jsonl")}],
        "micro_batch": 2, "steps": 4, "ptx": [{"path": str(world / "demonstrations.jsonl")}], "ptx_batch_size": 5,
        "dual": {"type": "log", "window": 10}, "checkpoint_every": 2,
        "validation": {"prompts": [{"path": str(world / "validation.jsonl")}], "limit": 5, "every": 4},
    }  # fmt: skip
    return ppo(out, world, **given | settings)


def judges(world: Path, **settings: Any) -> dict[str, Any]:
    return {name: {"type": "model", "path": world / f"lora-{name}", **settings} for name in ("reward", "cost")}


def try_train(config: Any) -> bool:
    """Whether nobody pressed Ctrl-C."""
    try:
        train_ppo_lag(config)
    except KeyboardInterrupt:
        return False
    return True


def with_name(out: Path, train: Callable[[Path], Path]) -> None:
    """Run a loop; keep the first gradients of each network and each λ in files beside its directory."""
    out.parent.mkdir(exist_ok=True)
    Now.run, Now.networks = str(out), set()
    Now.lams.clear()
    train(out)
    Path(f"{out}-lambda-{RANK}.json").write_text(json.dumps(Now.lams), encoding="utf-8")
    Now.run = None


def watch(out: Path, patch: Patch) -> None:
    out.mkdir(exist_ok=True)
    patch(native, "draw", third_best)  # the same answers however the prompts are divided
    for module in (sft_module, score_model, direct, ppo_lag):
        keep_first_gradients(module, patch)
    move_lambda = ppo_lag.move_lambda

    def move(*given: Any) -> Any:
        state = move_lambda(*given)
        Now.lams.extend(state.lams.values())
        return state

    patch(ppo_lag, "move_lambda", move)


def third_best(distribution: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return distribution.topk(3, dim=-1).indices[:, 2]


def keep_first_gradients(module: Any, patch: Patch) -> None:
    """Write what each network's first optimizer step gets, from whole tensors or from parts."""
    real = module.apply_gradients

    def apply(model: torch.nn.Module, *given: Any) -> Any:
        inner = getattr(model, "module", model)
        if Now.run is not None and id(inner) not in Now.networks:
            named = inner.named_parameters()
            gradients = {name: gathered(p.grad).clone() for name, p in named if p.grad is not None}
            mine = [p.to_local() if isinstance(p, DTensor) else p for p in inner.parameters()]
            held = sum(p.numel() for p in mine) / sum(p.numel() for p in inner.parameters())
            file = f"{Now.run}-gradients-{RANK}-{len(Now.networks)}.safetensors"
            save_file(gradients, file, {"held": str(held)})
            Now.networks.add(id(inner))
        return real(model, *given)

    patch(module, "apply_gradients", apply)


def replay(out: Path, alone_out: Path, patch: Patch) -> None:
    """Keep the rollouts of one process, drawn at random, in files; several take their rows from there."""
    real = native.NativeSampler.sample
    Now.samples = 0

    def sample(self: Any, prompts: Any, sampling: Any, generator: torch.Generator, samples: int = 1) -> Rollout:
        drawn = native.draw
        native.draw = DRAW
        rollout = real(self, prompts, sampling, generator, samples)
        native.draw = drawn
        file = alone_out / f"rollout-{Now.samples % 24}.safetensors"  # 20 steps and 4 validations
        Now.samples += 1
        if out == alone_out:
            save_file({name: value.contiguous() for name, value in vars(rollout).items()}, file)
            return rollout
        return rows(Rollout(**load_file(file)), slice(RANK, None, 2))

    patch(native.NativeSampler, "sample", sample)


DRAW = native.draw

if __name__ == "__main__":
    together(*map(Path, sys.argv[1:]))
