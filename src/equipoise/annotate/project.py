"""Commands on a whole labelling project: create, back up, restore, erase a name, say how far it is."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from equipoise.annotate.config import CreateConfig, ProjectConfig
from equipoise.annotate.store import people
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.annotate.store.journal import record
from equipoise.annotate.store.progress import people_progress, totals
from equipoise.annotate.store.project import create_project, open_project, settings
from equipoise.annotate.store.schema import copy_database
from equipoise.errors import StoreError


def create(config: CreateConfig) -> Path:
    """Begin a project in a new or empty directory.

    Raises:
        ConfigError: The taxonomy cannot be read.
        StoreError: The directory is not empty, or cannot be written.
    """
    create_project(config.project, ProjectConfig(**config.model_dump(exclude={"project"})), time.time())
    return config.project


def backup(project: Path, file: Path) -> None:
    """Copy a project's database into one file, as it is at one moment, while others go on working.

    It holds items, labels, people with hashes of their passwords, and the log: keep it as safe as the project.
    Left out are the other files of the directory: uploads as they came, judges' cards, and `judge.sqlite`, without
    which a judge that is run again asks and costs anew.

    Raises:
        StoreError: There is no project, the file is there already, or it cannot be written.
    """
    _refuse_existing(file)
    with open_project(project) as store:
        record(store, "", "back up", {"file": file.name}, time.time())
        _copy(store.path, file)


def restore(file: Path, project: Path) -> None:
    """Make a project of a backup, in a new or empty directory; everybody signs in anew.

    Raises:
        StoreError: The file is no whole backup, or of a newer version; or the directory is not empty.
    """
    if not file.is_file():
        raise StoreError(
            "There is no such file.", where=str(file), fix="Name a file that `annotate backup` wrote."
        )
    with Store(file, read_only=True) as store:
        settings(store)
        if (found := store.rows("PRAGMA integrity_check")) != [("ok",)]:
            raise StoreError("The backup is damaged.", where=str(file), why=str(found[0][0]))
    if project.exists() and (not project.is_dir() or any(project.iterdir())):
        raise StoreError("The directory is not empty.", where=str(project), fix="Choose another name.")
    try:
        project.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError("The project cannot be restored.", where=str(project), why=str(error)) from error
    _copy(file, project / STORE_FILE)
    with open_project(project) as store, store.transaction():
        people.end_all_sessions(store)
        record(store, "", "restore", {"file": file.name}, time.time())


def erase(project: Path, name: str) -> str:
    """Replace a person's name by a pseudonym; see `people.erase_person`.

    Returns:
        The pseudonym.
    """
    with open_project(project) as store:
        return people.erase_person(store, name, time.time())


def status(project: Path) -> str:
    """How far a project and everybody in it is, as text.

    Raises:
        StoreError: There is no project.
    """
    with open_project(project) as store, store.snapshot():
        config, total, rows = settings(store).config, totals(store), people_progress(store)
    share = f" ({total.complete / total.items:.0%})" if total.items else ""
    lines = [
        f"{config.title}: {total.items} items, each for {config.overlap} people",
        f"  complete {total.complete}{share}, begun {total.begun}",
        f"  answers {total.answers} of {total.answers_wanted}",
        f"  gold items {total.gold}, flags {total.flags}",
    ]
    active = [row for row in rows if row.kind == "person" and row.is_active]
    if len(active) < config.overlap and total.complete < total.items:
        lines.append(f"  {len(active)} active people cannot complete items that need {config.overlap}")
    for row in rows:
        pace = "" if row.pace is None else f", {row.pace:.0f} s per item"
        closed = "" if row.is_active else ", closed"
        lines.append(f"{row.name} ({row.kind}{closed}): {row.done} done, {row.skipped} skipped{pace}")
    return "\n".join(lines)


def _refuse_existing(file: Path) -> None:
    if file.exists():
        raise StoreError("The file is there already.", where=str(file), fix="Choose another name.")


def _copy(source: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            copy_database(connection, target)
    except (sqlite3.Error, OSError) as error:
        raise StoreError("The copy cannot be written.", where=str(target), why=str(error)) from error
