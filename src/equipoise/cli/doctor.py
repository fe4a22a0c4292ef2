"""`equipoise doctor`: what is installed, what it runs on, and what is known not to work.

It never fails on a missing package: that is what it is asked about.
"""

import os
import platform
import shutil
from importlib import import_module, metadata
from pathlib import Path
from typing import NamedTuple

from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.table import Table
from rich.text import Text

from equipoise import __version__

PACKAGES = {
    "always": ("pydantic", "cyclopts", "datasets", "pyarrow", "numpy", "scipy", "statsmodels", "matplotlib"),
    "extra train": ("torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors"),
    "extra vllm": ("vllm",),
    "extra trackers": ("tensorboard", "trackio", "wandb", "mlflow-skinny"),
}


class KnownBad(NamedTuple):
    """Versions that do not work, alone or beside others."""

    versions: dict[str, str]
    reason: str
    fix: str


KNOWN_BAD: tuple[KnownBad, ...] = (
    KnownBad({"torch": "<2.11"}, "older than what this package is tested with", "pip install 'torch>=2.11'"),
    KnownBad(
        {"transformers": "<5.17"},
        "names a model's precision and its cache differently, so saved models do not load alike",
        "pip install 'transformers>=5.17'",
    ),
    KnownBad(
        {"transformers": ">=5", "peft": "<0.18"},
        "peft imports cache classes that transformers 5 no longer has",
        "pip install 'peft>=0.19'",
    ),
    KnownBad(
        {"transformers": ">=5", "huggingface_hub": "<1"},
        "transformers 5 needs the hub client's newer interface",
        "pip install 'huggingface_hub>=2'",
    ),
    KnownBad({"cyclopts": "<5"}, "the command line is written for cyclopts 5", "pip install 'cyclopts>=5'"),
)


def doctor() -> int:
    """Print versions, devices, memory, free disk and known-bad pairs.

    Returns:
        0, or 1 when something installed is known not to work.
    """
    console = Console()
    versions = {name: _version(name) for names in PACKAGES.values() for name in names}
    table = Table(box=None, show_header=False, pad_edge=False)
    for what, value in (*_machine(), *_devices()):
        table.add_row(what, Text(value))
    for group, names in PACKAGES.items():
        table.add_row(group, Text(", ".join(f"{name} {versions[name] or 'missing'}" for name in names)))
    console.print(table, highlight=False)
    problems = find_problems({name: _version(name) for row in KNOWN_BAD for name in row.versions})
    for problem in problems:
        console.print(f"known bad: {problem}", style="bold red", markup=False)
    if not problems:
        console.print("No known-bad versions.")
    return 1 if problems else 0


def find_problems(versions: dict[str, str | None]) -> list[str]:
    """Every row of the known-bad table that these versions match, in words.

    Args:
        versions: Package → installed version, or None where it is not installed.
    """
    return [
        f"{', '.join(f'{name} {versions[name]}' for name in row.versions)}: {row.reason}. {row.fix}"
        for row in KNOWN_BAD
        if all(_matches(versions.get(name), wanted) for name, wanted in row.versions.items())
    ]


def _matches(version: str | None, wanted: str) -> bool:
    return version is not None and SpecifierSet(wanted).contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> list[tuple[str, str]]:
    disk = shutil.disk_usage(Path.cwd())
    return [
        ("equipoise", __version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("cpu", f"{os.cpu_count()} cores"),
        ("memory", _memory()),
        ("disk", f"{_gigabytes(disk.free)} free of {_gigabytes(disk.total)} in {Path.cwd()}"),
    ]


def _memory() -> str:
    try:
        return _gigabytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not on this system
        return "unknown"


def _devices() -> list[tuple[str, str]]:
    """What torch can run on; one row that says so where there is no torch."""
    try:
        torch = import_module("torch")
    except ImportError as error:
        return [
            ("devices", f"none: {error}; labels, data checks and reports work; pip install 'equipoise[train]'")
        ]
    rows = [("device cpu", f"{torch.get_num_threads()} threads")]
    if torch.backends.mps.is_available():
        rows.append(("device mps", "available"))
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        rows.append((f"device cuda:{index}", f"{gpu.name}, {_gigabytes(gpu.total_memory)}"))
    return rows


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
