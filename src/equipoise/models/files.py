"""Files of models: which folders can be loaded at all, and folders that are written whole or not at all.

Left out: what is in the files (`backbone`, `score_head`, `adapters`).
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.utils import logging

from equipoise.errors import ModelError

ADAPTER = "adapter"
"""Where an adapter lies beside the merged model."""

Writer = Callable[[Path], object]


def replace_files(out: Path, write: Writer) -> None:
    """Let `write` fill a temporary folder, then move its files into `out` one by one; weights of old are removed.

    Raises:
        ModelError: Writing failed; `out` is as it was.
    """
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / ".saving"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with quiet():
            write(temporary)
        new = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file())
        for name in new:
            _sync(temporary / name)
        for name in new:
            (out / name).parent.mkdir(exist_ok=True)
            (temporary / name).replace(out / name)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "The model could not be saved; what was there before is untouched.",
            where=str(out),
            why=str(error),
            fix="Free some disk space and run the command again.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    weights = [*out.glob("model*.safetensors*"), *out.glob(f"{ADAPTER}/*")]
    for stale in {path.relative_to(out) for path in weights} - set(new):
        (out / stale).unlink()


def check_config(folder: Path) -> None:
    """Refuse a folder without a config.json.

    Raises:
        ModelError: It has none.
    """
    if not (folder / "config.json").exists():
        raise ModelError(
            "The folder is no model: it has no config.json.",
            where=str(folder),
            fix="Give the folder that save_pretrained wrote, or one that a finished stage left.",
        )


def check_folder(folder: Path, safetensors: bool) -> None:
    """Refuse a folder without weights that are to be loaded.

    Args:
        folder: A local one.
        safetensors: Whether pickled weights are none.

    Raises:
        ModelError: It has none, or no config.json.
    """
    check_config(folder)
    if safetensors and not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin"))
        raise ModelError(
            "The folder holds pickled weights (.bin) only." if pickled else "The folder holds no weights.",
            where=str(folder),
            why="Only safetensors are loaded: unpickling can run code." if pickled else "No *.safetensors there.",
            fix=f"Run: equipoise convert {folder} NEW_FOLDER" if pickled else "Copy or download it again.",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's loading report, whose cases are checked here, nor its bars where nobody watches."""
    library: Any = logging
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    if not sys.stderr.isatty():
        library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
