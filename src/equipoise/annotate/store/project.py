"""A project's settings, taxonomy and guideline. Commands on whole projects are in `annotate.project`."""

import secrets
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.annotate.store.journal import record
from equipoise.annotate.taxonomy import Taxonomy, load_taxonomy
from equipoise.errors import StoreError

FIRST_GUIDELINE = "guideline.md"


@dataclass(frozen=True, slots=True)
class Project:
    """What a project was created with; `salt` is secret, times are in seconds since 1970."""

    config: ProjectConfig
    taxonomy: Taxonomy
    salt: str
    created_at: float


class Guideline(NamedTuple):
    """One version of what labellers are told, in Markdown; `author` is empty for the command line."""

    version: int
    text: str
    author: str
    saved_at: float


def create_project(path: Path, config: ProjectConfig, now: float) -> None:
    """Make the directory `path` with an empty project in it and the first guideline.

    Raises:
        ConfigError: The taxonomy cannot be read.
        StoreError: There is a project or anything else in that place already, or it cannot be written.
    """
    taxonomy = load_taxonomy(config.taxonomy)
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_taken = any(path.iterdir())
    except OSError as error:
        raise StoreError("The project cannot be created.", where=str(path), why=str(error)) from error
    if is_taken:
        raise StoreError("The directory is not empty.", where=str(path), fix="Choose another name.")
    with Store(path / STORE_FILE) as store, store.transaction():
        row = (config.model_dump_json(), taxonomy.model_dump_json(), secrets.token_hex(16), now)
        store.rows("INSERT INTO project VALUES (1, ?, ?, ?, ?)", *row)
        record(store, "", "create project", {"title": config.title}, now)
        text = (resources.files("equipoise.annotate") / FIRST_GUIDELINE).read_text(encoding="utf-8")
        save_guideline(store, text, "", now)


def open_project(path: Path) -> Store:
    """The database of the project in the directory `path`, brought up to date.

    Raises:
        StoreError: There is no project.
    """
    if not (path / STORE_FILE).is_file():
        raise StoreError(
            "There is no labelling project here.", where=str(path), fix=f"equipoise annotate create {path}"
        )
    store = Store(path / STORE_FILE)
    try:
        settings(store)
    except BaseException:
        store.close()
        raise
    return store


def settings(store: Store) -> Project:
    """The project's settings.

    Raises:
        StoreError: The database holds labels, but no project.
    """
    row = store.one("SELECT settings, taxonomy, salt, created_at FROM project")
    if row is None:
        raise StoreError(
            "These labels belong to no project.",
            where=str(store.path),
            why="`annotate simulate` and the like keep labels in the same kind of file, without settings",
            fix="equipoise annotate create DIRECTORY",
        )
    config, taxonomy, salt, created_at = row
    return Project(
        ProjectConfig.model_validate_json(config), Taxonomy.model_validate_json(taxonomy), salt, created_at
    )


def guideline(store: Store, version: int | None = None) -> Guideline:
    """The latest guideline, or that version of it.

    Raises:
        StoreError: There is no such version.
    """
    row = store.one(
        "SELECT g.version, g.text, coalesce(l.name, ''), g.saved_at FROM guidelines g"
        " LEFT JOIN labellers l ON l.number = g.author WHERE ?1 IS NULL OR g.version = ?1"
        " ORDER BY g.version DESC LIMIT 1",
        version,
    )
    if row is None:
        raise StoreError("There is no such guideline.", where=f"version {version}, {store.path}")
    return Guideline(*row)


def save_guideline(store: Store, text: str, who: str, now: float) -> int:
    """Keep a new version of the guideline, unless the text is that of the latest; older ones stay.

    Returns:
        The version that now holds.

    Raises:
        StoreError: The text is empty.
    """
    if not text.strip():
        raise StoreError("A guideline needs text.", where=str(store.path))
    with store.transaction():
        latest = store.one("SELECT version, text FROM guidelines ORDER BY version DESC LIMIT 1") or (0, "")
        if latest[1] == text:
            return int(latest[0])
        version = int(latest[0]) + 1
        author = store.find_labeller(who) if who else None
        store.rows("INSERT INTO guidelines VALUES (?, ?, ?, ?)", version, text, author, now)
        record(store, who, "save guideline", {"version": version}, now)
        return version
