"""The labelling database: one SQLite file in WAL mode, with items, labellers, assignments and labels.

Everything added twice is there once; adding something different under the same identity is refused. Identity is
item, labeller and question (and the response's position, for safety); the time of labelling is kept beside it.
What is acknowledged is on the disk. What makes an item or label impossible is in `labels`; who labels what, and
when, is in the modules beside this one, which hold all other SQL. No statistics, no files but the database.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from equipoise.annotate.labels import (
    Assignment,
    Item,
    Label,
    RankingLabel,
    VerdictLabel,
    check_harmlessness,
    check_item,
    check_ranks,
    check_verdict,
    question_of,
)
from equipoise.annotate.store.schema import STEPS, check_version, migrate
from equipoise.errors import StoreError
from equipoise.records import Prompt, Verdict

LabellerKind = Literal["simulated", "person", "judge"]
Key = tuple[int, int]
"""Row numbers of an item and a labeller."""
STORE_FILE = "labels.sqlite"
LOCK_SECONDS = 10.0
ITEM = "i.prompt, i.responses, i.questions, i.source, i.repeat"
"""What `item_of` takes, of a row `i`."""
AMONG = "(?1 IS NULL OR i.id IN (SELECT value FROM json_each(?1)))"
"""An item i is among those that `_ids` gives, or none are."""
WRITING = threading.RLock()
"""Held to write: threads of one process take turns. SQLite's own wait, for other processes, sleeps and polls."""
INSERT_VERDICT = "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
SELECT_VERDICT = "SELECT verdict FROM verdicts WHERE item = ? AND labeller = ? AND position = ?"
INSERT_RANKING = "INSERT INTO rankings VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
SELECT_RANKING = "SELECT ranks FROM rankings WHERE item = ? AND labeller = ? AND question = ?"
FINISH = """
    UPDATE assignments SET state = 'done', finished_at = ?, leased_until = NULL, draft = NULL,
        turn = (SELECT coalesce(max(turn), 0) + 1 FROM assignments WHERE labeller = ?),
        guideline = (SELECT max(version) FROM guidelines)
    WHERE item = ? AND labeller = ? AND state != 'done'
        AND (SELECT count(*) FROM verdicts v
                WHERE v.item = assignments.item AND v.labeller = assignments.labeller)
            + (SELECT count(*) FROM rankings r
                WHERE r.item = assignments.item AND r.labeller = assignments.labeller)
            = (SELECT sum(iif(q.value IN ('safety', 'refusal'), json_array_length(i.responses), 1))
                FROM items i, json_each(i.questions) q WHERE i.number = assignments.item)
"""


class Store:
    """An open labelling database; one per thread. Close it, or use it in a `with` block."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the database at `path`, creating it or bringing its schema up to date unless `read_only`.

        Raises:
            StoreError: It is missing (read-only), no database, not ours, or of a newer version.
        """
        self.path = path
        self._is_inside = False
        try:
            uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._db = sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None)
            try:
                self._prepare(read_only)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise StoreError(
                "The labelling database cannot be opened.", where=str(path), why=str(error)
            ) from error

    def _prepare(self, read_only: bool) -> None:
        version = check_version(self._db, self.path)
        if read_only and version < len(STEPS):
            self._read_older()
        if not read_only:
            with WRITING:
                self._db.execute("PRAGMA journal_mode = WAL")
                migrate(self._db, self.path)
        self._db.execute("PRAGMA synchronous = FULL")  # a commit has reached the disk when it returns
        self._db.execute("PRAGMA foreign_keys = ON")

    def _read_older(self) -> None:
        """Go on with a copy in memory that is up to date: a read-only file stays as it is."""
        with closing(self._db) as older:
            self._db = sqlite3.connect(":memory:", isolation_level=None)
            older.backup(self._db)
        migrate(self._db, self.path)
        self._db.execute("PRAGMA query_only = ON")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was acknowledged stays."""
        self._db.close()

    def seal(self) -> None:
        """Fold the write-ahead log in, so that the database is one file that a read-only reader can open."""
        try:
            self._db.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            raise StoreError("The labelling database is in use.", where=str(self.path), why=str(error)) from error

    def scrub(self) -> None:
        """Rewrite the file without what was deleted or replaced, and empty the write-ahead log.

        Raises:
            StoreError: Somebody is reading; it can be done again later.
        """
        try:
            with WRITING:
                self._db.execute("VACUUM")
                is_busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error as error:
            raise StoreError("The file cannot be rewritten.", where=str(self.path), why=str(error)) from error
        if is_busy:
            raise StoreError(
                "The file is in use: old pages are still there.",
                where=str(self.path),
                fix="Erase the pseudonym when nobody reads, which overwrites them.",
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is kept together or not at all; inside another transaction, part of that one.

        Raises:
            StoreError: The database cannot be written: locked, read-only, disk full.
        """
        if self._is_inside:
            yield
            return
        with WRITING:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._is_inside = True
                yield
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                fix = "Free space on the disk, then do it again." if _is_full(error) else ""
                raise StoreError(
                    "The labels cannot be saved.", where=str(self.path), why=str(error), fix=fix
                ) from error
            finally:
                self._is_inside = False
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment, while others go on writing."""
        try:
            self._db.execute("BEGIN")
            self._is_inside = True
            yield
        except sqlite3.Error as error:
            raise StoreError("The labels cannot be read.", where=str(self.path), why=str(error)) from error
        finally:
            self._is_inside = False
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def rows(self, sql: str, *values: object, **named: object) -> list[tuple[Any, ...]]:
        """Run one statement, with its values in order or by name, and return its rows; for this package's modules.

        Raises:
            StoreError: The database refuses it.
        """
        try:
            return self._db.execute(sql, named or values).fetchall()
        except sqlite3.Error as error:
            if self._is_inside:
                raise  # `transaction` or `snapshot` says it; a full disk has ended the transaction already
            raise StoreError("The labels cannot be read.", where=str(self.path), why=str(error)) from error

    def one(self, sql: str, *values: object, **named: object) -> tuple[Any, ...] | None:
        """The first row, if there is one."""
        rows = self.rows(sql, *values, **named)
        return rows[0] if rows else None

    def add_items(self, items: Iterable[Item]) -> None:
        """Add items; one that is there already stays as it is.

        Raises:
            StoreError: An item nobody could answer, or the same item with other questions.
        """
        with self.transaction():
            for item in items:
                check_item(item)
                row = (item.prompt.model_dump_json(), *(json.dumps(v) for v in (item.responses, item.questions)))
                self._db.execute(
                    "INSERT INTO items (id, prompt, responses, questions, source, repeat)"
                    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                    (item.id, *row, item.source, item.repeat),
                )
                ((kept,),) = self.rows("SELECT questions FROM items WHERE id = ?", item.id)
                _must_equal(kept, row[2], f"item {item.id}", "The item is there with other questions.")

    def add_labellers(self, names: Iterable[str], kind: LabellerKind) -> None:
        """Add labellers by name; one that is there already stays.

        Raises:
            StoreError: An empty name, or a known one of another kind.
        """
        with self.transaction():
            for name in names:
                if not name.strip():
                    raise StoreError("A labeller needs a name.", where=str(self.path))
                self._db.execute(
                    "INSERT INTO labellers (name, kind) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (name, kind)
                )
                ((kept,),) = self.rows("SELECT kind FROM labellers WHERE name = ?", name)
                _must_equal(kept, kind, f"labeller {name!r}", "The labeller is known as another kind.")

    def assign(self, assignments: Iterable[Assignment]) -> None:
        """Keep items for labellers, each item at most once for each labeller, until they are answered.

        Raises:
            StoreError: Unknown item or labeller, `shown` is no order of the responses, or it is assigned
                already with another order.
        """
        with self.transaction():
            for given in assignments:
                item, count, _ = self.find_item(given.item)
                labeller, where = self.find_labeller(given.labeller), _where(given.item, given.labeller)
                if sorted(given.shown) != list(range(count)):
                    raise StoreError("`shown` is no order of the responses.", where=where, why=f"{given.shown}")
                shown = json.dumps(given.shown)
                self._db.execute(
                    "INSERT INTO assignments (item, labeller, shown) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    (item, labeller, shown),
                )
                ((kept,),) = self.rows(
                    "SELECT shown FROM assignments WHERE item = ? AND labeller = ?", item, labeller
                )
                _must_equal(kept, shown, where, "The labeller has this item already, in another order.")

    def add_labels(self, labels: Sequence[Label], now: float | None = None) -> None:
        """Add labels, all or none; a label that is there already with the same value changes nothing.

        An assignment whose questions all have labels is done.

        Args:
            labels: Of any items and labellers.
            now: Seconds since 1970; the clock's unless given.

        Raises:
            StoreError: Unknown item or labeller, a labeller that was not assigned the item, a question the item
                does not ask, a value of the wrong shape, another value under the same identity, or a safe
                response ranked as harmful as an unsafe one, by the same labeller.
        """
        with self.transaction():
            now, touched = time.time() if now is None else now, dict[Key, str]()
            for label in labels:
                where = _where(label.item, label.labeller)
                item, count, questions = self.find_item(label.item)
                key = (item, self.find_labeller(label.labeller))
                if not self.rows("SELECT 1 FROM assignments WHERE item = ? AND labeller = ?", *key):
                    raise StoreError("The item was not assigned to the labeller.", where=where)
                question = question_of(label)
                if question not in questions:
                    raise StoreError(f"The item does not ask about {question}.", where=where)
                self._add_label(key, label, count, now)
                touched[key] = where
            for key, where in touched.items():
                self._check_consistency(key, where)
                self._db.execute(FINISH, (now, key[1], *key))

    def _add_label(self, key: Key, label: Label, count: int, now: float) -> None:
        where = _where(label.item, label.labeller)
        if isinstance(label, VerdictLabel):
            check_verdict(label.verdict, label.position, count, where=where)
            part, value = f"{label.position}", label.verdict.model_dump_json()
            insert, select = INSERT_VERDICT, SELECT_VERDICT
        else:
            value = json.dumps(check_ranks(label.ranks, count, where=f"{where}, {label.question}"))
            part, insert, select = label.question, INSERT_RANKING, SELECT_RANKING
        if not self._db.execute(insert, (*key, part, value, now)).rowcount:
            ((kept,),) = self.rows(select, *key, part)
            if isinstance(label, VerdictLabel):  # written before verdicts had all of today's fields
                kept = Verdict.model_validate_json(kept).model_dump_json()
            _must_equal(kept, value, f"{where}, {part}", "There is another label already.")

    def _check_consistency(self, key: Key, where: str) -> None:
        sql = "SELECT position, json_extract(verdict, '$.is_safe') FROM verdicts WHERE item = ? AND labeller = ?"
        is_safe = {position: None if safe is None else bool(safe) for position, safe in self.rows(sql, *key)}
        if ranks := self.one(SELECT_RANKING, *key, "harmlessness"):
            check_harmlessness(is_safe, json.loads(ranks[0]), where=where)

    def items(self) -> Iterator[Item]:
        """Every item, in the order they were added."""
        for row in self._db.execute(f"SELECT {ITEM} FROM items i ORDER BY number"):
            yield item_of(*row)

    def labellers(self) -> dict[str, LabellerKind]:
        """Name → kind, in the order they were added."""
        return dict(self._db.execute("SELECT name, kind FROM labellers ORDER BY number"))

    def assignments(self) -> Iterator[Assignment]:
        """Who was given what, by item, then labeller."""
        for item, labeller, shown in self._db.execute(
            "SELECT i.id, l.name, a.shown FROM assignments a JOIN items i ON i.number = a.item"
            " JOIN labellers l ON l.number = a.labeller ORDER BY a.item, a.labeller"
        ):
            yield Assignment(item, labeller, tuple(json.loads(shown)))

    def verdicts(self, items: Sequence[str] | None = None) -> Iterator[VerdictLabel]:
        """Every verdict, by item, labeller, position; on these items only, if given."""
        for item, labeller, position, verdict in self._db.execute(
            "SELECT i.id, l.name, v.position, v.verdict FROM verdicts v JOIN items i ON i.number = v.item"
            f" JOIN labellers l ON l.number = v.labeller WHERE {AMONG} ORDER BY v.item, v.labeller, v.position",
            _ids(items),
        ):
            yield VerdictLabel(item, labeller, position, Verdict.model_validate_json(verdict))

    def rankings(self, items: Sequence[str] | None = None) -> Iterator[RankingLabel]:
        """Every ranking, by item, labeller, question; of these items only, if given."""
        for item, labeller, question, ranks in self._db.execute(
            "SELECT i.id, l.name, r.question, r.ranks FROM rankings r JOIN items i ON i.number = r.item"
            f" JOIN labellers l ON l.number = r.labeller WHERE {AMONG} ORDER BY r.item, r.labeller, r.question",
            _ids(items),
        ):
            yield RankingLabel(item, labeller, question, tuple(json.loads(ranks)))

    def item(self, item: str) -> Item:
        """The item of that id.

        Raises:
            StoreError: There is no such item.
        """
        return item_of(*self.rows(f"SELECT {ITEM} FROM items i WHERE number = ?", self.find_item(item)[0])[0])

    def find_item(self, item: str) -> tuple[int, int, str]:
        """An item's row number, its number of responses and its questions.

        Raises:
            StoreError: There is no such item.
        """
        row = self.one("SELECT number, json_array_length(responses), questions FROM items WHERE id = ?", item)
        if row is None:
            raise StoreError("There is no such item.", where=f"item {item}, {self.path}")
        return row[0], row[1], json.loads(row[2])

    def find_labeller(self, name: str) -> int:
        """A labeller's row number.

        Raises:
            StoreError: There is no such labeller.
        """
        row = self.one("SELECT number FROM labellers WHERE name = ?", name)
        if row is None:
            raise StoreError("There is no such labeller.", where=f"labeller {name!r}, {self.path}")
        return int(row[0])


def item_of(prompt: str, responses: str, questions: str, source: str, repeat: int) -> Item:
    """The item in these columns."""
    return Item(
        prompt=Prompt.model_validate_json(prompt),
        responses=json.loads(responses),
        questions=json.loads(questions),
        source=source,
        repeat=repeat,
    )


def _ids(items: Sequence[str] | None) -> tuple[str | None]:
    return (None if items is None else json.dumps(list(items)),)


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _where(item: str, labeller: str) -> str:
    return f"item {item}, labeller {labeller!r}"


def _must_equal(kept: object, new: object, where: str, what: str) -> None:
    if kept != new:
        raise StoreError(what, where=where, why=f"the database has {kept}, now given {new}")
