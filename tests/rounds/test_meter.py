"""What a step is said to have taken."""

import json
import time
from pathlib import Path

import pytest
from team_stages import Told

from equipoise.rounds.config import RunConfig
from equipoise.rounds.meter import Meter, Taken, together
from equipoise.rounds.plan import Step
from equipoise.rounds.run import LINEAGE, run_steps

MIB = 1 << 20
ON_LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="a peak is reset in /proc")


@ON_LINUX
def test_a_small_step_after_a_large_one_is_not_charged_with_its_peak() -> None:
    large = Meter()
    held = bytearray(256 * MIB)
    first = large.read()
    del held
    small = Meter()
    held = bytearray(32 * MIB)
    second = small.read()
    del held
    assert first.memory is not None and second.memory is not None
    assert 200 * MIB < first.memory - second.memory < 250 * MIB  # 256 less 32, and what else is freed or taken
    assert second.peak > 0.99 * first.memory  # of the process, whatever it ran before; the kernel counts in lots


def test_processor_time_leaves_waiting_out() -> None:
    meter = Meter()
    time.sleep(0.1)
    taken = meter.read()
    assert taken.seconds >= 0.1 > taken.cpu_seconds


def test_processes_at_once_take_the_longest_time_and_the_sum_of_memory() -> None:
    parts = [Taken(2.0, 1.5, 300, 100), Taken(3.0, 2.5, 400, 50)]
    assert together(parts) == (3.0, 4.0, 700, 150)
    assert together([*parts, Taken(1.0, 1.0, 1, None)]).memory is None


def test_the_lineage_keeps_what_a_step_took_and_does_not_guess_at_an_interrupted_one(tmp_path) -> None:
    steps = [Step(name, "team_stages:finish_alone", Told(out=tmp_path / name), ()) for name in ("whole", "broken")]
    config = RunConfig(out=tmp_path, jobs=1, threads=1)
    run_steps(steps, config)
    first = json.loads((tmp_path / LINEAGE).read_text())["steps"]
    assert first["whole"]["taken"]["seconds"] >= 0 and first["broken"]["taken"] is not None
    (tmp_path / "broken" / "manifest.json").unlink()  # as if it had been killed
    (tmp_path / LINEAGE).write_text(
        json.dumps({"seconds": 1.0, "peak_memory_bytes": 1, "steps": {"whole": first["whole"]}})
    )
    run_steps(steps, config)
    again = json.loads((tmp_path / LINEAGE).read_text())["steps"]
    assert again == {"whole": first["whole"], "broken": first["broken"] | {"taken": None}}
