"""How far a project and its people are: counts and paces, no statistics on what was answered."""

from statistics import median
from typing import NamedTuple

from equipoise.annotate.store.core import Store
from equipoise.annotate.store.leases import GOLD, ON_SCREEN
from equipoise.annotate.store.project import settings

RECENT = 20
"""Finished items that a pace is measured over."""
PAUSE_SECONDS = 600.0
"""Nothing finished for so long is a pause."""


class Progress(NamedTuple):
    """One labeller's work.

    `left` counts what is neither complete nor theirs: at most so much is still to come. `pace` is the median
    number of seconds from opening to finishing the latest items, None before the first. `working_since` is when
    the current stretch of work without a pause began, None after a pause.
    """

    done: int
    skipped: int
    left: int
    pace: float | None
    working_since: float | None


class Totals(NamedTuple):
    """A whole project. Gold items are not among `items`; `answers` are those of people to the others."""

    items: int
    complete: int
    begun: int
    answers: int
    answers_wanted: int
    gold: int
    flags: int


class PersonProgress(NamedTuple):
    """One line of the lead's table; `last_at` is in seconds since 1970."""

    name: str
    kind: str
    is_active: bool
    done: int
    skipped: int
    open: int
    pace: float | None
    last_at: float | None


def progress(store: Store, labeller: str, now: float) -> Progress:
    """One labeller's work so far.

    Raises:
        StoreError: Unknown labeller, or no project.
    """
    number, overlap = store.find_labeller(labeller), settings(store).config.overlap
    done, skipped = store.rows(
        "SELECT count(*) FILTER (WHERE state IN ('done', 'reopened')), count(*) FILTER (WHERE state = 'skipped')"
        " FROM assignments WHERE labeller = ?",
        number,
    )[0]
    wanted = f"i.done < ? AND NOT EXISTS ({GOLD}) AND {ON_SCREEN}"
    (all_left,) = store.rows(f"SELECT count(*) FROM items i WHERE {wanted}", overlap)[0]
    (mine_left,) = store.rows(
        "SELECT count(*) FROM assignments m JOIN items i ON i.number = m.item"
        f" WHERE m.labeller = ? AND m.state != 'open' AND {wanted}",
        *(number, overlap),
    )[0]
    return Progress(done, skipped, all_left - mine_left, _pace(store, number), _working_since(store, number, now))


def totals(store: Store) -> Totals:
    """How far the project is.

    Raises:
        StoreError: No project.
    """
    overlap = settings(store).config.overlap
    items, complete, begun, answers, wanted = store.rows(
        "SELECT count(*), count(*) FILTER (WHERE i.done >= ?1),"
        " count(*) FILTER (WHERE i.done BETWEEN 1 AND ?1 - 1), coalesce(sum(i.done), 0),"
        f" coalesce(sum(max(i.done, ?1)), 0) FROM items i WHERE NOT EXISTS ({GOLD})",
        overlap,
    )[0]
    (gold,) = store.rows("SELECT count(*) FROM gold")[0]
    (flags,) = store.rows("SELECT count(*) FROM notes WHERE kind = 'flag'")[0]
    return Totals(items, complete, begun, answers, wanted, gold, flags)


def people_progress(store: Store) -> list[PersonProgress]:
    """Everybody's work, in the order they were added; judges and simulated labellers too."""
    rows = store.rows(
        "SELECT l.number, l.name, l.kind, l.is_active, count(*) FILTER (WHERE a.state IN ('done', 'reopened')),"
        " count(*) FILTER (WHERE a.state = 'skipped'), count(*) FILTER (WHERE a.state IN ('open', 'reopened')),"
        " max(a.finished_at) FROM labellers l LEFT JOIN assignments a ON a.labeller = l.number"
        " GROUP BY l.number ORDER BY l.number"
    )
    return [
        PersonProgress(name, kind, bool(is_active), done, skipped, opened, _pace(store, number), last_at)
        for number, name, kind, is_active, done, skipped, opened, last_at in rows
    ]


def _pace(store: Store, labeller: int) -> float | None:
    rows = store.rows(
        "SELECT finished_at - opened_at FROM assignments WHERE labeller = ? AND state = 'done'"
        " AND finished_at >= opened_at ORDER BY turn DESC LIMIT ?",
        *(labeller, RECENT),
    )
    return median(seconds for (seconds,) in rows) if rows else None


def _working_since(store: Store, labeller: int, now: float) -> float | None:
    since: float | None = None
    later = now
    for opened_at, finished_at in store.rows(
        "SELECT opened_at, finished_at FROM assignments WHERE labeller = ? AND turn IS NOT NULL"
        " AND opened_at IS NOT NULL ORDER BY turn DESC LIMIT 500",
        labeller,
    ):
        if later - finished_at > PAUSE_SECONDS:
            break
        if finished_at - opened_at > PAUSE_SECONDS:  # it lay open over a pause
            return float(finished_at) if since is None else since
        since = later = min(opened_at, finished_at)
    return since
