"""The labelling database's schema, as the list of steps that lead to it.

`PRAGMA user_version` counts the steps a file has been through. A step is never edited once released: a change is
a new step at the end. No rows are read or written here.
"""

import sqlite3
from pathlib import Path

from equipoise.errors import StoreError

APPLICATION_ID = 0x45515053  # "EQPS": tells our files from other SQLite databases

STEPS: tuple[str, ...] = (
    """
    CREATE TABLE items (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        prompt TEXT NOT NULL,           -- a Prompt as JSON
        responses TEXT NOT NULL,        -- JSON list of texts
        questions TEXT NOT NULL,        -- JSON list
        source TEXT NOT NULL
    );
    CREATE TABLE labellers (
        number INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL              -- simulated, person or judge
    );
    CREATE TABLE assignments (
        item INTEGER NOT NULL REFERENCES items,
        labeller INTEGER NOT NULL REFERENCES labellers,
        shown TEXT NOT NULL,            -- JSON list: position of the response shown as the j-th
        PRIMARY KEY (item, labeller)
    ) WITHOUT ROWID;
    CREATE TABLE verdicts (
        item INTEGER NOT NULL,
        labeller INTEGER NOT NULL,
        position INTEGER NOT NULL,
        verdict TEXT NOT NULL,          -- a Verdict as JSON
        labelled_at REAL NOT NULL,      -- seconds since 1970, no part of a label's identity
        PRIMARY KEY (item, labeller, position),
        FOREIGN KEY (item, labeller) REFERENCES assignments
    ) WITHOUT ROWID;
    CREATE TABLE rankings (
        item INTEGER NOT NULL,
        labeller INTEGER NOT NULL,
        question TEXT NOT NULL,
        ranks TEXT NOT NULL,            -- JSON list in the item's order, 0 = best
        labelled_at REAL NOT NULL,
        PRIMARY KEY (item, labeller, question),
        FOREIGN KEY (item, labeller) REFERENCES assignments
    ) WITHOUT ROWID;
    """,
)


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """How many steps the file has been through; 0 for a new one.

    Raises:
        StoreError: The file is another program's database, or a newer version of this package made it.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if owner != APPLICATION_ID and not is_empty:
        raise StoreError("This is no labelling database of ours.", where=str(path), fix="Check the path.")
    if version > len(STEPS):
        raise StoreError(
            "The labelling database was made by a newer version of this package.",
            where=str(path),
            why=f"its schema is version {version}, this package knows up to {len(STEPS)}",
            fix="Upgrade equipoise.",
        )
    return version


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Take the database through the steps it lacks, each whole or not at all.

    Raises:
        StoreError: See `check_version`.
    """
    for number in range(check_version(connection, path) + 1, len(STEPS) + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE;{STEPS[number - 1]}"
            f"PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = {number};COMMIT;"
        )
