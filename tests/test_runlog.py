import json
import math
from pathlib import Path

import pytest

from equipoise.errors import TrainingError
from equipoise.runlog import METRICS, SAMPLES, WARNINGS, RunLog


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_step_is_one_json_line_and_one_console_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, total_steps=2) as log:
        log.log(1, {"loss": 0.5, "kl": 0.25})
        log.log(2, {"loss": 0.25, "kl": 0.5})
    assert lines(tmp_path / METRICS) == [
        {"step": 1, "loss": 0.5, "kl": 0.25},
        {"step": 2, "loss": 0.25, "kl": 0.5},
    ]
    console = capsys.readouterr().err.splitlines()
    assert len(console) == 2
    assert console[0].startswith("step 1/2  loss 0.5  kl 0.25  eta ")


def test_the_console_names_only_the_metrics_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunLog(tmp_path, total_steps=1, show=("kl",)).log(1, {"loss": 0.5, "kl": 0.25})
    assert "loss" not in capsys.readouterr().err
    assert lines(tmp_path / METRICS)[0]["loss"] == 0.5


def test_a_quiet_log_neither_prints_nor_writes_but_still_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, total_steps=1, quiet=True) as log:
        log.log(1, {"loss": 0.5})
        log.sample(1, [{"text": "x"}])
        log.warn(1, "λ is pinned at its ceiling")
        with pytest.raises(TrainingError):
            log.log(2, {"loss": math.nan})
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_stops_the_run_and_is_not_written(tmp_path: Path, value: float) -> None:
    log = RunLog(tmp_path, total_steps=3)
    log.log(1, {"loss": 1.0})
    with pytest.raises(TrainingError, match=r"loss = (nan|inf|-inf)[\s\S]*step 2"):
        log.log(2, {"loss": value, "kl": 0.0})
    assert len(lines(tmp_path / METRICS)) == 1


def test_a_warning_is_kept_with_its_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunLog(tmp_path, total_steps=9).warn(7, "λ is pinned at its ceiling")
    assert lines(tmp_path / WARNINGS) == [{"step": 7, "message": "λ is pinned at its ceiling"}]
    assert "warning at step 7: λ is pinned" in capsys.readouterr().err


def test_cutting_back_to_a_checkpoint_then_going_on_gives_the_files_of_an_uninterrupted_run(
    tmp_path: Path,
) -> None:
    for name, interrupted in (("a", False), ("b", True)):
        out = tmp_path / name
        out.mkdir()
        for step in range(1, 5 if interrupted else 7):
            write_step(RunLog(out, total_steps=6), step)
        if interrupted:
            with (out / METRICS).open("a") as file:
                file.write('{"step": 5, "lo')  # killed in the middle of a line
            log = RunLog(out, total_steps=6)
            log.cut_back(2)
            for step in range(3, 7):
                write_step(log, step)
    for name in (METRICS, SAMPLES, WARNINGS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_terminal_also_shows_the_time_left_and_the_last_sample_as_plain_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with RunLog(tmp_path, total_steps=2) as log:
        log.log(1, {"loss": 0.5})
        log.sample(1, [{"response": "[bold]not markup[/bold]"}])
        log.log(2, {"loss": 0.25})
    shown = capsys.readouterr().err
    assert "step 2/2  loss 0.25" in shown
    assert "left" in shown
    assert "[bold]not markup[/bold]" in shown


def write_step(log: RunLog, step: int) -> None:
    log.log(step, {"loss": 1 / step})
    log.sample(step, [{"prompt": "how?", "response": f"so\n{step}"}])
    log.warn(step, "drift")
