"""What judges answered and what it cost: raw answers by the hash of their request, and an account of requests.

One SQLite file next to the labels, held by one process at a time. A request is written down before it is sent and
an answer before it is used, so a killed process has paid for nothing that is lost but what was under way. No
credentials, no headers; what an answer means is not read here.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from equipoise.errors import StoreError
from equipoise.records import Record

ANSWERS_FILE = "judge.sqlite"
_APPLICATION_ID = 0x4551504A  # "EQPJ"
_SCHEMA = f"""
    BEGIN IMMEDIATE;
    CREATE TABLE answers (
        key TEXT PRIMARY KEY,           -- hash of the URL and the request's body
        request TEXT NOT NULL,          -- the body as JSON
        status INTEGER NOT NULL,        -- HTTP status of the answer
        answer TEXT NOT NULL,           -- its body as it came
        answered_at REAL NOT NULL       -- seconds since 1970
    ) WITHOUT ROWID;
    CREATE TABLE calls (
        number INTEGER PRIMARY KEY,
        judge TEXT NOT NULL,
        key TEXT NOT NULL,
        sent_at REAL NOT NULL,
        most REAL NOT NULL,             -- money it costs at worst
        status INTEGER,                 -- NULL: no answer came; it may have been charged
        prompt_tokens INTEGER,          -- NULL: the endpoint did not say
        completion_tokens INTEGER,
        cost REAL                       -- NULL: unknown, at worst `most`
    );
    CREATE INDEX calls_by_judge ON calls (judge);
    CREATE TABLE judges (
        name TEXT PRIMARY KEY,
        settings TEXT NOT NULL          -- JSON: what the judge's answers depend on
    ) WITHOUT ROWID;
    PRAGMA application_id = {_APPLICATION_ID};
    PRAGMA user_version = 1;
    COMMIT;
"""


class Answer(NamedTuple):
    """A whole HTTP answer."""

    status: int
    text: str


class Usage(NamedTuple):
    """What an answer took; None where the endpoint did not say."""

    prompt_tokens: int | None
    completion_tokens: int | None


UNKNOWN = Usage(None, None)


class Spending(Record):
    """What a judge has used so far, over all its runs.

    `calls` counts every HTTP request that was sent, repetitions included; `lost` those that brought no whole
    answer; `without_usage` the answers whose tokens are unknown. `money` takes unknown costs at their worst.
    """

    calls: int
    lost: int
    prompt_tokens: int
    completion_tokens: int
    without_usage: int
    money: float


class Answers:
    """The open file; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open the file at `path`, creating it.

        Raises:
            StoreError: It cannot be opened, is not ours, or another process holds it.
        """
        self.path, self._lock = path, threading.Lock()
        try:
            self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise StoreError("The judge's answers cannot be opened.", where=str(path), why=str(error)) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise StoreError(
                "The judge's answers cannot be opened.",
                where=str(path),
                why=str(error),
                fix="If another judge runs on this project, wait until it has finished.",
            ) from error
        except StoreError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        owner = self._db.execute("PRAGMA application_id").fetchone()[0]
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if (owner, version) == (0, 0) and not self._db.execute("SELECT * FROM sqlite_schema").fetchone():
            self._db.executescript(_SCHEMA)
        elif (owner, version) != (_APPLICATION_ID, 1):
            why = f"application {owner:#x}, version {version}"
            raise StoreError("This holds no answers of judges that can be read.", where=str(self.path), why=why)
        self._db.execute("BEGIN IMMEDIATE")  # takes the lock that the exclusive mode then keeps
        self._db.execute("COMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others have it."""
        self._db.close()

    def find(self, key: str) -> Answer | None:
        """The answer to the request with this hash, if it has been given."""
        with self._lock:
            row = self._db.execute("SELECT status, answer FROM answers WHERE key = ?", (key,)).fetchone()
        return Answer(*row) if row else None

    def note_sent(self, judge: str, key: str, most: float) -> int:
        """Write down that a request is about to be sent.

        Args:
            judge: Who asks.
            key: Hash of the request.
            most: Money that it costs at worst.

        Returns:
            The call's number.
        """
        with self._writing(is_durable=False):
            row = (judge, key, time.time(), most)
            sql = "INSERT INTO calls (judge, key, sent_at, most) VALUES (?, ?, ?, ?)"
            return int(self._db.execute(sql, row).lastrowid or 0)

    def note_refused(self, number: int, status: int) -> None:
        """Write down that a call was answered with an error status, which costs nothing."""
        with self._writing(is_durable=False):
            self._db.execute("UPDATE calls SET status = ?, cost = 0 WHERE number = ?", (status, number))

    def keep(
        self,
        number: int | None,
        key: str,
        request: Mapping[str, Any],
        answer: Answer,
        usage: Usage = UNKNOWN,
        cost: float | None = None,
    ) -> None:
        """Keep a whole answer and what it cost, both or neither.

        Args:
            number: The call that brought it; None: it took none.
            key: Hash of the request.
            request: Its body.
            answer: What came.
            usage: What it took.
            cost: Money; None: unknown.
        """
        with self._writing():
            row = (key, json.dumps(request, ensure_ascii=False), *answer, time.time())
            self._db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row)
            self._db.execute(
                "UPDATE calls SET status = ?, prompt_tokens = ?, completion_tokens = ?, cost = ? WHERE number = ?",
                (answer.status, *usage, cost, number),
            )

    def spending(self, judge: str) -> Spending:
        """What a judge has used over all its runs."""
        sql = (
            "SELECT count(*), count(*) FILTER (WHERE status IS NULL), coalesce(sum(prompt_tokens), 0),"
            " coalesce(sum(completion_tokens), 0),"
            " count(*) FILTER (WHERE status = 200 AND (prompt_tokens IS NULL OR completion_tokens IS NULL)),"
            " coalesce(sum(coalesce(cost, most)), 0.0) FROM calls WHERE judge = ?"
        )
        with self._lock:
            row = self._db.execute(sql, (judge,)).fetchone()
        return Spending(**dict(zip(Spending.model_fields, row, strict=True)))

    def settings_of(self, judge: str) -> dict[str, Any] | None:
        """What a judge's answers depend on, as it was when it first ran."""
        with self._lock:
            row = self._db.execute("SELECT settings FROM judges WHERE name = ?", (judge,)).fetchone()
        return json.loads(row[0]) if row else None

    def keep_settings(self, judge: str, settings: Mapping[str, Any]) -> None:
        """Keep what a judge's answers depend on."""
        with self._writing():
            row = (judge, json.dumps(settings, ensure_ascii=False))
            self._db.execute("INSERT OR REPLACE INTO judges VALUES (?, ?)", row)

    @contextmanager
    def _writing(self, *, is_durable: bool = True) -> Iterator[None]:
        """One transaction; it survives a killed process, and if durable (which waits for the disk) a power cut."""
        with self._lock:
            try:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                why = str(error)
                raise StoreError("An answer cannot be saved.", where=str(self.path), why=why) from error
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
