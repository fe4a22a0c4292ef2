"""How the seconds of a PPO-Lag step grow with batch, response, model and processes, and those of sampling with G.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/growth.py --micro-batch 8 --out growth.json --plot docs/growth.svg

One thing is varied at a time, the others stay at `--batch`, `--prompt`, `--response` and the first of `--sizes`;
responses all have the full length. Medians of `--rounds` steps. Beside the seconds: the share of the machine's
fastest matrix product that the whole step reaches (see `roofline.py`), so that one sees where arithmetic binds and
where something else does. With processes, each has one thread and its share of the batch, and the clock is the
wall's.
"""

import multiprocessing
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from common import SIZES, Case, arguments, cases, make_world, median, print_table, write_result
from matplotlib.figure import Figure
from ours import PHASES, Step, timed_steps
from roofline import products, rate, step_flops

from equipoise.data.load import load_prompts
from equipoise.data.source import DataSource
from equipoise.models.backbone import load_causal_lm
from equipoise.rollout.config import Sampling
from equipoise.rollout.native import NativeSampler
from equipoise.tokens.collate import collate_prompts
from equipoise.tokens.template import end_id, load_tokenizer
from equipoise.train.processes import joined

BATCHES = (8, 16, 32, 64)
RESPONSES = (32, 64, 128, 256)
SAMPLES = (1, 2, 4, 8)
PROCESSES = (1, 2)
AXES = ("batch", "response", "parameters", "G", "processes")


@dataclass(frozen=True)
class Point:
    """One measured setting."""

    axis: str  # what is varied
    value: float
    seconds: dict[str, float]  # by phase
    share: float | None  # of the peak

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def step_point(axis: str, value: float, case: Case, rounds: int) -> Point:
    """Some steps of the loop in this process."""
    with tempfile.TemporaryDirectory() as folder:
        steps = timed_steps(case, Path(folder) / "run", rounds)
    return Point(axis, value, by_phase(steps), share_of_peak(case, steps))


def by_phase(steps: Sequence[Step]) -> dict[str, float]:
    return {name: median([step.seconds.get(name, 0.0) for step in steps]) for name in PHASES}


def share_of_peak(case: Case, steps: Sequence[Step]) -> float:
    rows = (case.micro_batch or case.batch) * (case.prompt + case.response)
    peak = max(rate(*size, case) for _, *size in products(SIZES[case.size], rows, rows))
    return median([sum(step_flops(case, step).values()) / step.total for step in steps]) / peak


def sampling_point(samples: int, case: Case, rounds: int) -> Point:
    """G responses to each of batch/G prompts: as many responses, fewer prompts to read."""
    tokenizer = load_tokenizer(case.world / "policy")
    policy = load_causal_lm(case.world / "policy", dtype=torch.float32)
    prompts = load_prompts(DataSource(path=str(case.world / "prompts.jsonl")))[: case.batch // samples]
    batch = collate_prompts(tokenizer, [p.messages for p in prompts], case.prompt).batch
    sampler, seconds = NativeSampler(policy, end_id(tokenizer), int(tokenizer.pad_token_id or 0)), []
    for number in range(rounds + 1):
        began, generator = case.now(), torch.Generator().manual_seed(number)
        sampler.sample(batch, Sampling(max_new_tokens=case.response), generator, samples)
        seconds.append(case.now() - began)
    return Point("G", samples, {"sample": median(seconds[1:])}, None)


def processes_point(count: int, case: Case, rounds: int) -> Point:
    """The same batch divided among processes of one thread each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context, case = multiprocessing.get_context("spawn"), replace(case, threads=1, clock="wall")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = context.Pipe()
        given = [(rank, count, port, case, rounds, Path(folder), theirs) for rank in range(count)]
        workers = [context.Process(target=work, args=one) for one in given]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return Point("processes", count, ours.recv(), None)


def work(rank: int, count: int, port: int, case: Case, rounds: int, folder: Path, pipe: Connection) -> None:
    torch.set_num_threads(1)
    with joined(rank, count, port):
        steps = timed_steps(case, folder / "run", rounds)
    if rank == 0:
        pipe.send(by_phase(steps))


def measure(args: Any) -> list[Point]:
    """Every axis that is asked for, in turn."""
    [base, *others] = cases(args)
    found: list[Point] = []

    def note(point: Point) -> None:
        found.append(point)
        print(f"{point.axis} {point.value:g}: {point.total:.3f} s", flush=True)

    for axis in args.axes:
        match axis:
            case "batch":
                for batch in [n for n in BATCHES if n <= 2 * base.batch]:
                    note(step_point(axis, batch, replace(base, batch=batch), args.rounds))
            case "response":
                for response in [n for n in RESPONSES if n <= 2 * base.response]:
                    world = base.world.parent / f"{base.size}-{base.lengths}-{base.prompt}-{response}"
                    case = replace(base, response=response, world=world)
                    make_world(case)
                    note(step_point(axis, response, case, args.rounds))
            case "parameters":
                for case in (base, *others):
                    note(step_point(axis, weights(case), case, args.rounds))
            case "G":
                for samples in [n for n in SAMPLES if n <= base.batch]:
                    note(sampling_point(samples, base, args.rounds))
            case "processes":
                for count in [n for n in PROCESSES if n <= base.batch]:
                    note(processes_point(count, base, args.rounds))
    return found


def weights(case: Case) -> int:
    shape = SIZES[case.size]
    return shape.layers * shape.layer_weights + 2 * shape.table


def plot(points: Sequence[Point], path: Path) -> None:
    """Seconds by phase over each axis, stacked; the dashed line is the share of the peak."""
    axes = list(dict.fromkeys(point.axis for point in points))
    figure = Figure(figsize=(4 * len(axes), 3.4), layout="constrained")
    panels = figure.subplots(1, len(axes), squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        some = [point for point in points if point.axis == axis]
        ticks = range(len(some))
        bottom = [0.0] * len(some)
        for phase in PHASES:
            heights = [point.seconds.get(phase, 0.0) for point in some]
            if any(heights):
                panel.bar(ticks, heights, 0.7, bottom, label=phase)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        panel.set_xticks(
            ticks, [f"{point.value / 1e6:.0f} M" if axis == "parameters" else f"{point.value:g}" for point in some]
        )
        panel.set(xlabel=axis, ylabel="seconds")
        if any(point.share for point in some):
            other = panel.twinx()
            other.plot(ticks, [100 * (point.share or 0.0) for point in some], "k--o", markersize=3)
            other.set(ylim=(0, 100), ylabel="% of the peak")
    panels[0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = arguments(__doc__, sizes=("1m", "10m"))
    parser.add_argument("--plot", type=Path, help="an SVG file")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), help="what is varied")
    parser.set_defaults(lengths=["fixed"], batch=32, response=128)
    args = parser.parse_args()
    points = measure(args)
    rows = [
        [p.axis, f"{p.value:g}", f"{p.total:.3f}", "" if p.share is None else f"{p.share:.0%}"]
        + [f"{p.seconds[phase]:.3f}" if phase in p.seconds else "" for phase in PHASES]
        for p in points
    ]
    print_table("How a step grows", ["varied", "value", "seconds", "of the peak", *PHASES], rows)
    write_result(args.out, [vars(point) for point in points])
    if args.plot:
        plot(points, args.plot)


if __name__ == "__main__":
    main()
