"""The speed benchmarks still fit the package: a smoke test on a tiny model, without any peer that is not ours."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
MODULES = ("common", "ours", "original", "speed", "peers", "roofline", "sharing")


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(name: str, monkeypatch: pytest.MonkeyPatch, out: Path, *options: str) -> list[dict[str, Any]]:
    """A benchmark's main function; the rows that it wrote."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for module in MODULES:
        monkeypatch.delitem(sys.modules, module, raising=False)
    world, result = out / "world", out / f"{name}.json"
    command = [name, "--quick", "--threads", "1", "--world", str(world), "--out", str(result), *options]
    monkeypatch.setattr(sys, "argv", command)
    importlib.import_module(name).main()
    rows: list[dict[str, Any]] = json.loads(result.read_text(encoding="utf-8"))["rows"]
    return rows


def test_speed_gives_the_seconds_of_every_phase(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = run("speed", monkeypatch, tmp_path)
    assert [row["lengths"] for row in rows] == ["fixed", "geometric"]
    fixed, geometric = rows
    assert fixed["mean_length"] == fixed["response"]
    assert geometric["mean_length"] < geometric["response"]
    for row in rows:
        assert all(seconds > 0 for seconds in row["phases"].values())


def test_peers_without_trl_compare_with_the_original_structure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trl" else find(name))
    rows = run("peers", monkeypatch, tmp_path, "--lengths", "geometric")
    assert [row["peer"] for row in rows] == ["equipoise", "equipoise-lora", "original"]
    assert all(row["samples_per_second"] > 0 for row in rows)
    assert "trl is not installed" in capsys.readouterr().out


def test_sharing_reads_fewer_tokens_for_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = run("sharing", monkeypatch, tmp_path, "--lengths", "fixed")
    # 4 answers of 8 tokens to prompts of 8 tokens: 4·16 alone, 32 + 8·4/G shared
    assert [(row["samples"], *row["tokens"].values()) for row in rows] == [(1, 64, 64), (2, 64, 48), (4, 64, 40)]
    assert all(row["difference"] < 1e-5 for row in rows)


@pytest.mark.parametrize(
    "name",
    ["elo_coverage", "growth", "known_answers", "logits", "memory", "plan", "playground", "sampler", "scaling"],
)
def test_the_others_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    for module in (*MODULES, name):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert importlib.import_module(name).__doc__
