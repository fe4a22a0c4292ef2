"""Predicted and measured peak memory: `equipoise plan` beside a probe of the same settings.

    python benchmarks/plan.py --out plan.json

Each case is probed in a process of its own. The models are random, as wide as `--size` says; on a GPU take
`--device cuda --size 1b`.
"""

import argparse
import json
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from common import SIZES, Case, make_world, print_table, write_result

from equipoise.config import validate
from equipoise.models.score_head import HeadSettings, save_scorer, scorer_from
from equipoise.plan.config import Options
from equipoise.plan.plan import make_plan
from equipoise.tokens.template import load_tokenizer
from equipoise.train.config import CostConfig, LoraSettings, SftConfig
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.setup import train_adapter

STEPS = 2
Tree = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="10m")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--response", type=int, default=64)
    parser.add_argument("--cases", nargs="+")
    parser.add_argument("--world", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    case = Case(
        world=args.world / f"plan-{args.size}-{args.prompt}-{args.response}", size=args.size, lengths="fixed",
        batch=args.batch, prompt=args.prompt, response=args.response, device=args.device,
        precision=args.precision, threads=1, micro_batch=None, ptx=True, clock="wall",
    )  # fmt: skip
    rows, results = [], []
    for found in compare(case, args.cases):
        results.append(found)
        mib = [f"{found[key] / 2**20:.0f}" for key in ("predicted", "measured")]
        rows.append([found["case"], *mib, f"{found['predicted'] / found['measured'] - 1:+.1%}", found["phase"]])
        print(*rows[-1], flush=True)
    print_table("Peak memory", ["stage", "predicted (MiB)", "measured (MiB)", "off by", "peak in"], rows)
    write_result(args.out, results)


def compare(case: Case, names: Collection[str] | None = None) -> Iterator[Tree]:
    """Predicted and measured bytes of some cases, or of all."""
    make_world(case)
    add_adapters_and_pairs(case)
    for name, (kind, tree) in settings(case).items():
        if names and name not in names:
            continue
        plan = make_plan(name, validate(kind, tree, where=name), Options(probe=STEPS))
        assert plan.probed is not None
        phase = max(plan.memory.phases, key=plan.memory.phases.__getitem__)
        sizes = {"predicted": plan.memory.peak, "measured": plan.probed.peak}
        yield {"case": name, **sizes, "phase": phase, "plan": plan.tree()}


def add_adapters_and_pairs(case: Case) -> None:
    folder = case.world
    if (folder / "pairs.jsonl").exists():
        return
    for seed, kind in enumerate(("reward", "cost")):
        scorer = scorer_from(folder / "policy", seed=seed, dtype="auto")
        train_adapter(scorer.backbone, kind, LoraSettings(), seed)
        head = HeadSettings("reward" if kind == "reward" else "cost")
        save_scorer(scorer, load_tokenizer(folder / "policy"), folder / f"lora-{kind}", head)
    draw, words = random.Random(1), SIZES[case.size].vocabulary - 6
    lines = []
    for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines():
        texts = [" ".join(f"w{draw.randrange(words)}" for _ in range(case.response - 1)) for _ in range(2)]
        lines.append({"prompt": json.loads(line), "responses": texts, "safer": 1, "is_safe": [False, True]})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def settings(case: Case) -> dict[str, tuple[Any, Tree]]:
    """Stage → its config type and settings."""
    folder, length = case.world, case.prompt + case.response
    common: Tree = {
        "out": "unused", "batch_size": case.batch, "max_length": length + 8,
        "hardware": {"device": case.device, "precision": case.precision, "threads": 1},
    }  # fmt: skip
    demonstrations, pairs = [str(folder / "demonstrations.jsonl")], [str(folder / "pairs.jsonl")]
    rl = {
        **common, "actor": folder / "policy", "prompts": [str(folder / "prompts.jsonl")], "ptx": demonstrations,
        "max_prompt_length": case.prompt, "sampling": {"max_new_tokens": case.response},
    }  # fmt: skip
    judges = {
        kind: {"type": "model", "path": folder / kind, "batch_size": case.batch} for kind in ("reward", "cost")
    }
    shared = {kind: {**judges[kind], "path": folder / f"lora-{kind}"} for kind in judges}
    again = {**common["hardware"], "gradient_checkpointing": True}
    quick = {"model": folder / "policy", "held_out": 0.0, "epochs": 1}
    four_bits = {"lora": {"quantize": "nf4"}}
    return {
        "sft": (SftConfig, {**common, **quick, "demonstrations": demonstrations}),
        "sft, lora, micro_batch": (
            SftConfig,
            {**common, **quick, "demonstrations": demonstrations, "lora": {}, "micro_batch": case.batch // 2},
        ),
        "cost": (CostConfig, {**common, **quick, "pairs": pairs}),
        "ppo-lag": (PpoLagConfig, {**rl, **judges}),
        "ppo-lag, lora": (PpoLagConfig, {**rl, **shared, "lora": {}}),
        "sft, 4 bits": (SftConfig, {**common, **quick, "demonstrations": demonstrations, **four_bits}),
        "ppo-lag, 4 bits": (PpoLagConfig, {**rl, **shared, **four_bits}),
        "ppo-lag, 4 bits, checkpointing": (PpoLagConfig, {**rl, **shared, **four_bits, "hardware": again}),
        "ppo-lag, micro_batch": (PpoLagConfig, {**rl, **judges, "micro_batch": case.batch // 4}),
        "ppo-lag, micro_tokens": (PpoLagConfig, {**rl, **judges, "micro_tokens": case.batch * length // 2}),
        "ppo-lag, checkpointing": (PpoLagConfig, {**rl, **judges, "hardware": again}),
    }


if __name__ == "__main__":
    main()
