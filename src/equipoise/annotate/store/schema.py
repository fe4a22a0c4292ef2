"""The labelling database's schema, as the list of steps that lead to it.

`PRAGMA user_version` counts the steps a file has been through. A step is never edited once released: a change is
a new step at the end. Before an older file is changed, a copy of it is laid beside it.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
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
    """
    CREATE TABLE project (
        number INTEGER PRIMARY KEY CHECK (number = 1),
        settings TEXT NOT NULL,         -- a ProjectConfig as JSON
        taxonomy TEXT NOT NULL,         -- a Taxonomy as JSON, as it was when the project was created
        salt TEXT NOT NULL,             -- random: draws the order of responses and where gold items come
        created_at REAL NOT NULL
    );
    CREATE TABLE guidelines (
        version INTEGER PRIMARY KEY,
        text TEXT NOT NULL,             -- Markdown
        author INTEGER REFERENCES labellers, -- NULL: the command line
        saved_at REAL NOT NULL
    );
    ALTER TABLE labellers ADD COLUMN role TEXT NOT NULL DEFAULT 'labeller'; -- or lead
    ALTER TABLE labellers ADD COLUMN password TEXT;                         -- scrypt, with its parameters and salt
    ALTER TABLE labellers ADD COLUMN is_active INTEGER NOT NULL DEFAULT 1;
    CREATE TABLE sessions (
        token TEXT PRIMARY KEY,         -- SHA-256 of what the browser holds
        labeller INTEGER NOT NULL REFERENCES labellers,
        csrf TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX sessions_of ON sessions (labeller);
    CREATE TABLE invites (
        token TEXT PRIMARY KEY,         -- SHA-256 of what is in the link
        labeller INTEGER NOT NULL REFERENCES labellers,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        used_at REAL
    ) WITHOUT ROWID;

    ALTER TABLE items ADD COLUMN category TEXT AS (json_extract(prompt, '$.category')) VIRTUAL;
    ALTER TABLE items ADD COLUMN repeat INTEGER NOT NULL DEFAULT 0; -- the same responses asked about before
    ALTER TABLE items ADD COLUMN done INTEGER NOT NULL DEFAULT 0; -- people who have answered; kept by triggers
    CREATE INDEX items_by_done ON items (done DESC);
    ALTER TABLE assignments ADD COLUMN state TEXT NOT NULL DEFAULT 'open'
        CHECK (state IN ('open', 'done', 'reopened', 'skipped')); -- reopened: answered, and being changed
    ALTER TABLE assignments ADD COLUMN leased_until REAL;  -- of open ones; NULL: kept for the labeller for ever
    ALTER TABLE assignments ADD COLUMN opened_at REAL;
    ALTER TABLE assignments ADD COLUMN finished_at REAL;
    ALTER TABLE assignments ADD COLUMN turn INTEGER;       -- counts what a labeller finished or skipped, in order
    ALTER TABLE assignments ADD COLUMN guideline INTEGER REFERENCES guidelines;
    ALTER TABLE assignments ADD COLUMN draft TEXT;         -- a Draft as JSON
    ALTER TABLE assignments ADD COLUMN origin TEXT;        -- file and line of imported answers; NULL: given here
    CREATE INDEX assignments_by_turn ON assignments (labeller, turn);
    CREATE INDEX assignments_by_state ON assignments (labeller, state);
    CREATE INDEX assignments_by_lease ON assignments (leased_until) WHERE state = 'open';
    CREATE TRIGGER assignment_added AFTER INSERT ON assignments WHEN NEW.state IN ('done', 'reopened')
    BEGIN
        UPDATE items SET done = (
            SELECT count(*) FROM assignments a JOIN labellers l ON l.number = a.labeller
            WHERE a.item = NEW.item AND a.state IN ('done', 'reopened') AND l.kind = 'person'
        ) WHERE number = NEW.item;
    END;
    CREATE TRIGGER assignment_changed AFTER UPDATE OF state ON assignments
    BEGIN
        UPDATE items SET done = (
            SELECT count(*) FROM assignments a JOIN labellers l ON l.number = a.labeller
            WHERE a.item = NEW.item AND a.state IN ('done', 'reopened') AND l.kind = 'person'
        ) WHERE number = NEW.item;
    END;
    UPDATE assignments SET
        state = 'done',
        finished_at = max(
            coalesce((SELECT max(labelled_at) FROM verdicts v
                WHERE v.item = assignments.item AND v.labeller = assignments.labeller), 0),
            coalesce((SELECT max(labelled_at) FROM rankings r
                WHERE r.item = assignments.item AND r.labeller = assignments.labeller), 0)
        ),
        turn = item
    WHERE (SELECT count(*) FROM verdicts v
            WHERE v.item = assignments.item AND v.labeller = assignments.labeller)
        + (SELECT count(*) FROM rankings r
            WHERE r.item = assignments.item AND r.labeller = assignments.labeller)
        = (SELECT sum(CASE q.value WHEN 'safety' THEN json_array_length(i.responses) ELSE 1 END)
            FROM items i, json_each(i.questions) q WHERE i.number = assignments.item);

    CREATE TABLE revisions (            -- answers that were changed or withdrawn
        number INTEGER PRIMARY KEY,
        item INTEGER NOT NULL,
        labeller INTEGER NOT NULL,
        answers TEXT NOT NULL,          -- a Draft as JSON
        guideline INTEGER REFERENCES guidelines,
        finished_at REAL NOT NULL,
        replaced_at REAL NOT NULL,
        FOREIGN KEY (item, labeller) REFERENCES assignments
    );
    CREATE TABLE notes (
        number INTEGER PRIMARY KEY,
        item INTEGER NOT NULL REFERENCES items,
        labeller INTEGER NOT NULL REFERENCES labellers,
        kind TEXT NOT NULL CHECK (kind IN ('flag', 'comment', 'skip')),
        text TEXT NOT NULL,
        at REAL NOT NULL
    );
    CREATE INDEX notes_of ON notes (item);
    CREATE TABLE declined (
        labeller INTEGER NOT NULL REFERENCES labellers,
        category TEXT NOT NULL,
        PRIMARY KEY (labeller, category)
    ) WITHOUT ROWID;
    CREATE TABLE gold (
        item INTEGER PRIMARY KEY REFERENCES items,
        answers TEXT NOT NULL,          -- a Draft as JSON: what is right, where it is known
        author INTEGER REFERENCES labellers, -- NULL: the command line
        at REAL NOT NULL
    );
    CREATE TABLE adjudications (
        item INTEGER NOT NULL REFERENCES items,
        question TEXT NOT NULL,
        position INTEGER NOT NULL,      -- of the response, for safety; -1 for a ranking
        value TEXT NOT NULL,            -- a Verdict or a list of ranks as JSON
        labeller INTEGER NOT NULL REFERENCES labellers,
        at REAL NOT NULL,
        PRIMARY KEY (item, question, position)
    ) WITHOUT ROWID;
    CREATE TABLE chats (
        number INTEGER PRIMARY KEY,
        labeller INTEGER NOT NULL REFERENCES labellers,
        policy TEXT NOT NULL,
        turns TEXT NOT NULL,            -- JSON list of turns with their scores
        hit TEXT,                       -- JSON: what is wrong with which answer; NULL: no hit
        started_at REAL NOT NULL,
        at REAL NOT NULL                -- last changed
    );
    CREATE INDEX chats_of ON chats (labeller);
    CREATE TABLE journal (
        number INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        who TEXT NOT NULL,              -- a labeller's name; empty: the command line
        what TEXT NOT NULL,
        detail TEXT NOT NULL            -- JSON object
    );
    CREATE TRIGGER journal_is_not_deleted BEFORE DELETE ON journal
    BEGIN
        SELECT RAISE(ABORT, 'the journal is never deleted from');
    END;
    CREATE TRIGGER journal_is_not_changed BEFORE UPDATE OF number, at, what ON journal
    BEGIN
        SELECT RAISE(ABORT, 'the journal is never changed');
    END;
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
    """Take the database through the steps it lacks, all or none.

    An older file is first copied to `path` with `.v` and its version added; a database in memory has no file.

    Raises:
        StoreError: See `check_version`.
    """
    if check_version(connection, path) == len(STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = check_version(connection, path)  # another process may have been faster
        is_file = bool(connection.execute("PRAGMA database_list").fetchone()[2])
        if is_file and 0 < version < len(STEPS):
            copy_database(connection, path.with_name(f"{path.name}.v{version}"))
        for step in STEPS[version:]:
            for statement in statements_in(step):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def statements_in(step: str) -> Iterator[str]:
    """The statements of a step, one by one: `executescript` would end the transaction around it."""
    statement = ""
    for line in step.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def copy_database(connection: sqlite3.Connection, target: Path) -> None:
    """Copy what is committed, while others read and write; `target` is there whole or not at all.

    Raises:
        sqlite3.Error: The copy cannot be written.
    """
    source = connection.execute("PRAGMA database_list").fetchone()[2]
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(unfinished)) as writer:
            reader.backup(writer)
            writer.execute("PRAGMA journal_mode = DELETE")  # one file
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
