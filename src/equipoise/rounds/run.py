"""Runs a plan: what is finished is skipped, what is ready runs, up to `jobs` stages at once.

Kill it at any moment and run it again: it goes on from the last finished piece. Lineage is in `run.json`, with
what each step took; the results are in `summary.json`. Left out: which steps there are (`plan`, `study`), and how
seconds and memory are measured (`meter`).
"""

import io
import json
import multiprocessing
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from equipoise.artefact import STAGE, read_manifest, write_json
from equipoise.config import config_hash, resolve_function
from equipoise.report.config import ReportConfig
from equipoise.rounds.config import RunConfig
from equipoise.rounds.meter import Meter, Taken, together
from equipoise.rounds.plan import REPORT, Step, make_plan

if TYPE_CHECKING:
    from equipoise.report.history import Usage

LINEAGE = "run.json"
SUMMARY = "summary.json"


class Done(NamedTuple):
    """What a finished step tells the run."""

    taken: Taken  # this time; next to nothing when it was finished before
    process: int


def run_rounds(config: RunConfig) -> Path:
    """Run a recipe to its report.

    Args:
        config: The recipe.

    Returns:
        `config.out`, with `summary.json` and `report.html`.

    Raises:
        EquipoiseError: A setting is wrong (before anything runs), or a stage failed; what is finished stays.
    """
    steps = make_plan(config)
    usage = run_steps(steps, config)
    from equipoise.report.history import summarise_run  # and statistics and charts: seconds before a run begins
    from equipoise.report.report import PAGE

    report = next(step.config for step in steps if step.name == REPORT)
    assert isinstance(report, ReportConfig)
    write_json(config.out / SUMMARY, summarise_run(report.evaluation, report.rounds, usage))
    shutil.copyfile(report.out / PAGE, config.out / PAGE)
    return config.out


def run_steps(steps: Sequence[Step], config: RunConfig) -> "Usage":
    """Run a plan to its end and keep its lineage in `run.json`.

    Args:
        steps: The plan.
        config: Where the run is, and in how many processes and threads.

    Returns:
        What it took, interrupted attempts included.

    Raises:
        EquipoiseError: A stage failed; what is finished stays.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    spent = _seconds_before(config.out)
    begun = {step.name for step in steps if (config.out / step.name / STAGE).exists()}
    taken = _taken_before(config.out)
    memory: dict[int, int] = {}
    for step, done in _execute(steps, config):
        for part in done:
            memory[part.process] = max(memory.get(part.process, 0), part.taken.peak)
        if step.name not in begun:  # what an interrupted attempt took is not known
            taken[step.name] = together([part.taken for part in done])
        seconds = spent + time.monotonic() - started
        print(f"[{seconds:6.0f} s] {step.name}: {_outcome(done)}", file=sys.stderr, flush=True)
        _write_lineage(config, steps, (seconds, sum(memory.values())), taken)
    from equipoise.report.history import Usage

    lineage = json.loads((config.out / LINEAGE).read_text(encoding="utf-8"))
    return Usage(
        seconds=lineage["seconds"],
        peak_memory_bytes=lineage["peak_memory_bytes"],
        seed=config.seed,
        config_hash=config_hash(config.model_copy(update={"out": Path()})),
    )


def _execute(steps: Sequence[Step], config: RunConfig) -> Iterator[tuple[Step, list[Done]]]:
    """Run the steps in an order that respects what each reads; yield each as it ends, with all its processes."""
    if config.jobs == 1:
        for step in steps:
            yield step, [_run_step(step, config.threads)]
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.jobs, mp_context=context, initializer=_die_with_parent) as pool:
        yield from _in_parallel(steps, pool, config)


def _in_parallel(steps: Sequence[Step], pool: Executor, config: RunConfig) -> Iterator[tuple[Step, list[Done]]]:
    waiting = list(steps)
    done: dict[str, list[Done]] = {step.name: [] for step in steps}
    finished: set[str] = set()
    running: dict[Future[Done], Step] = {}
    while waiting or running:
        for step in [s for s in waiting if finished.issuperset(s.after)]:
            size = config.jobs if step.spread else 1
            if len(running) + size > config.jobs:
                break  # what comes later waits too, so that a step for all processes gets its turn
            waiting.remove(step)
            places = _places(size)
            running |= {pool.submit(_run_step, step, config.threads, place): step for place in places}
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            step = running.pop(future)
            done[step.name].append(future.result())
            if step not in running.values():
                yield step, done[step.name]
                finished.add(step.name)


class Place(NamedTuple):
    """One of the processes that a step runs in."""

    rank: int
    size: int
    port: int  # where they meet; 0 where nobody else is to be met


def _places(size: int) -> list[Place]:
    if size == 1:
        return [Place(0, 1, 0)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return [Place(rank, size, port) for rank in range(size)]


def _run_step(step: Step, threads: int | None, place: Place | None = None) -> Done:
    """Run one stage in this process, always with the same number of threads: sums depend on it.

    With a `place` the process is one of a pool: what it says is marked as the step's.
    """
    import torch

    meter = Meter()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    stderr = sys.stderr
    try:
        if place:
            sys.stderr = _Prefixed(stderr, f"{step.name}: ")
        with _joined(place) if place and place.size > 1 else nullcontext():
            resolve_function(step.function)(step.config)
    finally:
        sys.stderr = stderr
    return Done(meter.read(), os.getpid())


def _joined(place: Place) -> AbstractContextManager[None]:
    from equipoise.train.processes import joined

    return joined(*place)


class _Prefixed(io.TextIOBase):
    """Standard error of a stage beside others: every line says whose it is."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self.stream, self.prefix, self.begun = stream, prefix, ""

    def write(self, text: str) -> int:
        """Pass on whole lines."""
        *lines, self.begun = (self.begun + text).split("\n")
        self.stream.write("".join(f"{self.prefix}{line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        """Pass on at once."""
        self.stream.flush()


def _die_with_parent() -> None:
    """End this worker when the run is killed, so that a new run finds nobody writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        wait_for([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def _outcome(done: Sequence[Done]) -> str:
    seconds = max(part.taken.seconds for part in done)
    return f"done in {seconds:.1f} s" if seconds > 1 else "done"


def _seconds_before(out: Path) -> float:
    """Seconds that earlier, interrupted attempts at this run took."""
    path = out / LINEAGE
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.exists() else 0.0


def _taken_before(out: Path) -> dict[str, Taken]:
    """What each finished step took in earlier attempts at this run, where that is known."""
    path = out / LINEAGE
    steps = json.loads(path.read_text(encoding="utf-8"))["steps"] if path.exists() else {}
    return {name: Taken(**step["taken"]) for name, step in steps.items() if step.get("taken")}


def _write_lineage(
    config: RunConfig, steps: Sequence[Step], used: tuple[float, int], taken: Mapping[str, Taken]
) -> None:
    """Write what is finished; `used`: seconds and peak memory in bytes of the whole run so far."""
    seconds, memory = used
    known: dict[str, Any] = {}
    for step in steps:
        if (config.out / step.name / "manifest.json").exists():
            manifest = read_manifest(config.out / step.name)
            mine = taken.get(step.name)
            known[step.name] = {
                "fingerprint": manifest.fingerprint,
                "inputs": manifest.inputs,
                "taken": mine._asdict() if mine else None,
            }
    before = config.out / LINEAGE
    peak = json.loads(before.read_text(encoding="utf-8"))["peak_memory_bytes"] if before.exists() else 0
    tree = {
        "seconds": round(seconds, 1),
        "peak_memory_bytes": max(peak, memory),
        "seed": config.seed,
        "steps": known,
    }
    write_json(before, tree)
