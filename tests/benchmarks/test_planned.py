"""What `equipoise plan` predicts is what a probe of the same settings measures, within 15 %."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
BAR = 0.15


def off_by(world: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], **case: Any) -> dict[str, float]:
    """How far predictions are from what is measured: +0.1 is a tenth too much."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for module in ("common", "plan"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    common, plan = importlib.import_module("common"), importlib.import_module("plan")
    fixed = {"lengths": "fixed", "threads": 1, "micro_batch": None, "ptx": True, "clock": "wall"}
    found = plan.compare(common.Case(world=world, **fixed, **case), names)
    return {one["case"]: one["predicted"] / one["measured"] - 1 for one in found}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_memory_on_a_cpu_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # what is freed is given back
    names = ["sft", "cost", "ppo-lag", "ppo-lag, micro_batch"]
    size = {"size": "10m", "batch": 8, "prompt": 64, "response": 64, "device": "cpu", "precision": "float32"}
    found = off_by(tmp_path, monkeypatch, names, **size)
    assert list(found) == names
    assert {name: off for name, off in found.items() if abs(off) > BAR} == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_on_a_gpu_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["sft", "ppo-lag"]
    size = {"size": "60m", "batch": 32, "prompt": 128, "response": 128, "device": "cuda", "precision": "bfloat16"}
    found = off_by(tmp_path, monkeypatch, names, **size)
    assert list(found) == names
    assert {name: off for name, off in found.items() if abs(off) > BAR} == {}
