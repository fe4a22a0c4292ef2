"""What a run says while it works: one JSON line and one console line per step, samples, warnings, progress.

Files, in the run's directory: `metrics.jsonl`, `samples.jsonl`, `warnings.jsonl`; each line carries its `step`.
Nothing here writes clock times into them, so a resumed run ends with the files of an uninterrupted one.
Left out: trackers (accelerate has them) and what a metric means (`docs/metrics.md`).
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from equipoise.artefact import write_text
from equipoise.errors import TrainingError

if TYPE_CHECKING:
    from rich.progress import Progress

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
WARNINGS = "warnings.jsonl"
_SAMPLE_WIDTH = 300


class RunLog:
    """The log of one stage run.

    Inside `with RunLog(…) as log:` a terminal also shows a progress bar with the time left and the last sample;
    without a terminal (or without `with`) there are plain lines on stderr.

    Args:
        out: The run's directory; it exists.
        total_steps: Steps of the whole run, those before a resume included.
        show: The metrics that the console line names; empty names all. The file always has all.
        quiet: Neither print nor write, only refuse what is not finite: for every process but the main one.
    """

    def __init__(self, out: Path, *, total_steps: int, show: Sequence[str] = (), quiet: bool = False) -> None:
        self._out, self._total, self._show, self._quiet = out, total_steps, tuple(show), quiet
        self._first_step, self._started = 0, time.monotonic()
        self._progress: Progress | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of `step` (counted from 1).

        Raises:
            TrainingError: A metric is not finite; nothing of this step is written.
        """
        values = {key: float(value) for key, value in metrics.items()}
        wrong = {key: value for key, value in values.items() if not math.isfinite(value)}
        if wrong:
            raise TrainingError(
                f"Not finite: {', '.join(f'{key} = {value}' for key, value in wrong.items())}.",
                where=f"step {step} of {self._out}",
                fix="Lower the learning rate, or look at the batch of this step; the last checkpoint is intact.",
            )
        self._append(METRICS, [{"step": step, **values}])
        shown = [f"{key} {value:.4g}" for key, value in values.items() if not self._show or key in self._show]
        left = self._time_left(step)
        self._say("  ".join([f"step {step}/{self._total}", *shown, f"eta {_clock(left)}"]))
        if self._progress:
            self._progress.update(self._progress.task_ids[0], completed=step, left=_clock(left), refresh=True)

    def sample(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Append examples of what the model writes at `step`."""
        self._append(SAMPLES, [{"step": step, **record} for record in records])
        if self._progress and records:
            text = _one_line(records[-1])
            self._progress.update(self._progress.task_ids[0], sample=text, refresh=True)

    def history(self, count: int) -> list[dict[str, float]]:
        """The metrics of the last `count` steps, oldest first."""
        path = self._out / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines[-count:]]

    def warn(self, step: int, message: str) -> None:
        """Append and show a warning in words, for what goes wrong without stopping the run."""
        self._append(WARNINGS, [{"step": step, "message": message}])
        self._say(f"warning at step {step}: {message}")

    def cut_back(self, step: int) -> None:
        """Drop every line after `step`, and any half-written one: a resumed run writes them again."""
        self._first_step, self._started = step, time.monotonic()
        for path in (self._out / name for name in (METRICS, SAMPLES, WARNINGS)):
            if path.exists() and not self._quiet:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
                write_text(path, "".join(line for line in lines if _step_of(line) <= step))

    def __enter__(self) -> Self:
        """Start the live display where stderr is a terminal."""
        if not self._quiet and sys.stderr.isatty():
            self._progress = _start_display(self._total, self._first_step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the live display down."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        if self._quiet:
            return
        with (self._out / name).open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def _say(self, line: str) -> None:
        if self._quiet:
            return
        if self._progress:
            self._progress.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _time_left(self, step: int) -> float:
        """Seconds until the last step at the pace of this process."""
        done = max(step - self._first_step, 1)
        return (time.monotonic() - self._started) / done * max(self._total - step, 0)


def _start_display(total: int, completed: int) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    progress = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]} left", markup=False),
        TextColumn("{task.fields[sample]}", markup=False),
        console=Console(stderr=True),
        auto_refresh=False,
    )
    progress.add_task("", total=total, completed=completed, left="?", sample="")
    progress.start()
    return progress


def _step_of(line: str) -> float:
    """The step of a line; infinite where the line was cut short by a crash."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except json.JSONDecodeError:
        return math.inf


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _one_line(record: Mapping[str, Any]) -> str:
    text = "  ".join(f"{key}: {value}" for key, value in record.items()).replace("\n", " ")
    return text if len(text) <= _SAMPLE_WIDTH else text[: _SAMPLE_WIDTH - 1] + "…"
