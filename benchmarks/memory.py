"""Peak memory of two steps above what the imports take, per mode, each in a process of its own.

    MALLOC_MMAP_THRESHOLD_=65536 python benchmarks/memory.py --sizes 60m --micro-batch 8 --out memory.json

On a CPU: the high-water mark of resident memory; on a GPU: the most that torch had allocated. `ideal` is what the
weights, gradients and optimizer states alone take. The yardstick of six roles on one base is one of them trained
alone: an actor's adapter, on as many demonstrations of the same length. With the environment variable, glibc gives
back every tensor that is freed; without it, part of the peak is what its heap keeps.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common import RANK, SIZES, Case, arguments, cases, facts, print_table, write_result
from original import run_original
from ours import Stop, timed_steps

from equipoise.config import validate
from equipoise.plan.probe import resident
from equipoise.train import sft
from equipoise.train.config import SftConfig

ALONE, SHARED = "one actor's adapter alone", "six roles on one base"
MODES = (ALONE, SHARED, "six networks", "original")
STEPS = 2


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], json.loads(sys.argv[3]))))
        return
    parser = arguments(__doc__, sizes=("10m",))
    parser.set_defaults(lengths=["fixed"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    args = parser.parse_args()
    rows, results = [], []
    for case in cases(args):
        peaks: dict[str, int] = {}
        for mode in args.modes:
            found = in_process(mode, case)
            results.append({**facts(case), "mode": mode, **found})
            peaks[mode] = found["peak"]
            mib = [f"{found[key] / 2**20:.0f}" for key in ("peak", "baseline", "ideal")]
            share = f"{found['peak'] / peaks[ALONE]:.2f}" if ALONE in peaks else ""
            rows.append([case.size, case.lengths, case.micro_batch or "", mode, *mib, share])
            print(f"{case.size} {case.lengths} {mode}: {mib[0]} MiB", flush=True)
            write_result(args.out, results)
    head = [
        "model",
        "lengths",
        "micro_batch",
        "mode",
        "peak (MiB)",
        "imports (MiB)",
        "ideal (MiB)",
        "× one adapter",
    ]
    print_table(f"Peak memory above the imports, batch {args.batch}, {args.device} {args.precision}", head, rows)


def in_process(mode: str, case: Case) -> dict[str, int]:
    command = [sys.executable, __file__, "--one", mode, json.dumps(asdict(case), default=str)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(mode: str, tree: dict[str, Any]) -> dict[str, int]:
    """Peak bytes above the baseline of this process, which has only imported so far."""
    case = Case(**{**tree, "world": Path(tree["world"])})
    torch.set_num_threads(case.threads)
    baseline = resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        if mode == "original":
            run_some(lambda turn: run_original(case, turn))
        elif mode == ALONE:
            train_alone(case, out)
        else:
            timed_steps(replace(case, rank=RANK if mode == SHARED else None), out, rounds=STEPS - 1)
    peak = torch.cuda.max_memory_allocated() if case.device == "cuda" else resident("VmHWM") - baseline
    return {"peak": peak, "baseline": baseline, "ideal": ideal(case, mode)}


def train_alone(case: Case, out: Path) -> None:
    """Supervised steps of one adapter, up to where the result would be saved."""
    tree = {
        "out": out, "model": case.world / "policy", "max_length": case.prompt + case.response, "held_out": 0.0,
        "demonstrations": [{"path": str(case.world / "demonstrations.jsonl")}], "batch_size": case.batch,
        "micro_batch": case.micro_batch, "lora": {"r": RANK}, "checkpoint_every": 10**9,
        "hardware": {"device": case.device, "precision": case.precision, "threads": case.threads},
    }  # fmt: skip
    taken = 0
    apply = sft.apply_gradients

    def take(*given: Any) -> torch.Tensor:
        nonlocal taken
        if taken == STEPS:
            raise Stop
        taken += 1
        return apply(*given)

    with mock.patch.object(sft, "apply_gradients", take), contextlib.suppress(Stop):
        sft.train_sft(validate(SftConfig, tree, where="benchmark"))


def run_some(loop: Callable[[Callable[[float], None]], None]) -> None:
    left = STEPS

    def turn(_: float) -> None:
        nonlocal left
        if left == 0:
            raise StopIteration
        left -= 1

    with contextlib.suppress(StopIteration):
        loop(turn)


def ideal(case: Case, mode: str) -> int:
    """Weights, and gradients and AdamW's two moments of trained ones; below float32 with float32 copies."""
    shape = SIZES[case.size]
    backbone = shape.layers * shape.layer_weights + shape.table
    policy, adapter = backbone + shape.table, shape.adapter(RANK)
    frozen, trained = {
        ALONE: (policy, adapter),
        SHARED: (policy + 2 * adapter, 3 * adapter),
    }.get(mode, (policy + 2 * backbone, policy + 2 * backbone))
    width, per_trained = (4, 16) if case.precision == "float32" else (2, 2 + 2 + 12)
    return frozen * width + trained * per_trained


if __name__ == "__main__":
    main()
