"""A few real steps of a stage, in a process and a directory of their own: peak memory, and seconds per step.

Measured is what the process takes above its imports: on a CPU the most that was resident, on a GPU the most that
torch had allocated. The first step warms up and does not count in the time.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from equipoise.config import validate
from equipoise.errors import TrainingError
from equipoise.plan.workload import Work
from equipoise.runlog import RunLog
from equipoise.train.config import CostConfig, RewardConfig, SftConfig, TrainConfig
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.ppo_lag import train_ppo_lag
from equipoise.train.score_model import train_cost, train_reward
from equipoise.train.sft import train_sft

STAGES: dict[str, Any] = {
    "SftConfig": (SftConfig, train_sft),
    "RewardConfig": (RewardConfig, train_reward),
    "CostConfig": (CostConfig, train_cost),
    "PpoLagConfig": (PpoLagConfig, train_ppo_lag),
}


class Probed(NamedTuple):
    """What a few steps took."""

    steps: int
    peak: int  # bytes above the imports
    seconds_per_step: float


def probe(config: TrainConfig, steps: int, work: Work) -> Probed:
    """Run some steps of a stage and throw the result away.

    Args:
        config: The stage's settings; `out` is not touched.
        steps: How many; at least 2, so that optimizer states exist and one step can be timed.
        work: Of the stage.

    Raises:
        TrainingError: The stage failed; says with which words.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = {"kind": type(config).__name__, "config": shortened(config, steps, work, Path(folder) / "run")}
        command = [sys.executable, "-m", "equipoise.plan.probe"]
        done = subprocess.run(command, input=json.dumps(tree), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise TrainingError(
            "The probe did not run through.",
            why="\n".join(said[-4:]) if said else f"status {done.returncode}: perhaps too little memory",
            fix="Run the stage itself to see more; a smaller micro_batch takes less memory.",
        )
    return Probed(**json.loads(done.stdout.splitlines()[-1]))


def shortened(config: TrainConfig, steps: int, work: Work, out: Path) -> dict[str, Any]:
    """The settings of the first few steps, without what happens beside them."""
    tree = config.model_dump(mode="json") | {"out": str(out), "checkpoint_every": 10**9, "trackers": []}
    if isinstance(config, PpoLagConfig):
        return tree | {"steps": steps, "validation": None}
    assert isinstance(config, (SftConfig, RewardConfig, CostConfig))
    whole = work.steps or steps
    return tree | {"epochs": config.epochs * (steps - 0.5) / whole}


def main() -> None:
    """Run what standard input describes; print what it took."""
    tree = json.load(sys.stdin)
    kind, train = STAGES[tree["kind"]]
    times: list[float] = []
    log = RunLog.log

    def timed(self: RunLog, step: int, metrics: Mapping[str, float]) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        log(self, step, metrics)

    RunLog.log = timed  # type: ignore[method-assign]  # the stage's own loop, with a stopwatch on its steps
    baseline = resident("VmRSS")
    train(validate(kind, tree["config"], where="probe"))
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    peak = used or resident("VmHWM") - baseline
    pace = (times[-1] - times[0]) / (len(times) - 1)
    print(json.dumps({"steps": len(times), "peak": peak, "seconds_per_step": pace}))


def resident(key: str) -> int:
    """A line of /proc/self/status in bytes; elsewhere the peak of this process."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
