"""What a step takes: seconds, seconds of processor time, peak memory.

A process runs one step after the other, and the system keeps the peak of a process's whole life. Linux lets it
begin anew; elsewhere a step's own memory is unknown. Left out: memory of devices.
"""

import ctypes
import gc
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PEAK = "5"  # what has the kernel set the peak to what is resident now: proc(5)


class Taken(NamedTuple):
    """What a step took."""

    seconds: float  # wall clock
    cpu_seconds: float  # of all threads, of all its processes
    peak: int  # bytes; of its processes, whatever they ran before
    memory: int | None  # bytes; the peak during this step, libraries included; None: cannot be told


class Meter:
    """Begins to measure this process when it is made."""

    def __init__(self) -> None:
        self.before = _life_peak()
        self.resets = _begin_anew()
        self.started, self.cpu = time.monotonic(), time.process_time()

    def read(self) -> Taken:
        """What was taken since."""
        peak = _life_peak()
        return Taken(
            seconds=round(time.monotonic() - self.started, 3),
            cpu_seconds=round(time.process_time() - self.cpu, 3),
            peak=max(self.before, peak),
            memory=peak if self.resets else None,
        )


def together(parts: Sequence[Taken]) -> Taken:
    """What a step took in several processes at once."""
    memory = [part.memory for part in parts if part.memory is not None]
    return Taken(
        seconds=max(part.seconds for part in parts),
        cpu_seconds=sum(part.cpu_seconds for part in parts),
        peak=sum(part.peak for part in parts),
        memory=sum(memory) if len(memory) == len(parts) else None,
    )


def _begin_anew() -> bool:
    """Give back what earlier steps left, and forget their peak; whether the system can."""
    if not (_CLEAR.exists() and _STATUS.exists()):
        return False
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim:
        trim(0)
    try:
        _CLEAR.write_text(_PEAK)
    except OSError:  # a kernel or a sandbox that does not let it
        return False
    return True


def _life_peak() -> int:
    """The peak of this process in bytes, since it began or since it was reset."""
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        if found:
            return found[0] * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
