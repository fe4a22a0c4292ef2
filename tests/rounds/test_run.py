"""Steps over several processes."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from team_stages import Told

from equipoise.rounds.config import RunConfig
from equipoise.rounds.plan import Step
from equipoise.rounds.run import _in_parallel


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as made:
        yield made


def steps(folder: Path, *given: tuple[str, bool]) -> list[Step]:
    """Steps that each wait for the one before."""
    names = [f"{place}-{function}" for place, (function, _) in enumerate(given)]
    return [
        Step(name, f"team_stages:{function}", Told(out=folder / name), tuple(names[:place][-1:]), spread)
        for place, (name, (function, spread)) in enumerate(zip(names, given, strict=True))
    ]


def test_a_spread_step_takes_all_processes_and_the_next_one_is_alone_again(pool, tmp_path):
    planned = steps(tmp_path, ("count", False), ("count", True), ("count", False), ("count", True))
    done = {step.name: parts for step, parts in _in_parallel(planned, pool, RunConfig(jobs=2, threads=1))}
    assert [len(parts) for parts in done.values()] == [1, 2, 1, 2]
    texts = [sorted(file.read_text() for file in step.config.out.iterdir()) for step in planned]
    alone, both = ["0 of 1: 1"], ["0 of 2: 3", "1 of 2: 3"]
    assert texts == [alone, both, alone, both]


def test_a_failure_in_one_process_ends_the_step_and_the_others_do_not_hang(pool, tmp_path):
    [step] = steps(tmp_path, ("fail_in_one", True))
    with pytest.raises((ValueError, RuntimeError), match=r"no luck|closed|peer|Connection"):
        list(_in_parallel([step], pool, RunConfig(jobs=2, threads=1)))
    again = steps(tmp_path, ("count", True))
    assert len(list(_in_parallel(again, pool, RunConfig(jobs=2, threads=1)))) == 1
