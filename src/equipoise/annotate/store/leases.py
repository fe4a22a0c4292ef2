"""Places and leases: which item a labeller may have next, and whether there is still room. Used by `queue` alone.

An item has `overlap` places for people. A place is taken for good by whoever has answered the item, and for the
time of a lease by whoever has it in hand; a lease of NULL has no end, one of 0 has run out. Leases end only in
`enter`, so that a clock that goes backwards brings none back to life after its place was given away.
"""

import json
import random
from typing import NamedTuple

from equipoise.annotate.store.core import Store
from equipoise.annotate.store.project import Project, settings
from equipoise.errors import StoreError

RENEW_SECONDS = 60.0
"""A lease that is no older than this is not written again: looking costs no write."""

MINE = "SELECT 1 FROM assignments m WHERE m.item = i.number AND m.labeller = :me"
GOLD = "SELECT 1 FROM gold g WHERE g.item = i.number"
PLACES = """(i.done + (
    SELECT count(*) FROM assignments a JOIN labellers l ON l.number = a.labeller
    WHERE a.item = i.number AND a.state = 'open' AND l.kind = 'person'
        AND (a.leased_until IS NULL OR a.leased_until > 0)))"""
"""The places of item i that are used or held, by anybody."""
DECLINED = """(
    EXISTS (SELECT 1 FROM declined d WHERE d.labeller = :me AND d.category = i.category)
    OR EXISTS (SELECT 1 FROM verdicts v, json_each(v.verdict, '$.categories') c
        JOIN declined d ON d.labeller = :me AND d.category = c.value WHERE v.item = i.number))"""
"""The prompt itself, or somebody, names a category that the labeller does not want to see."""
ON_SCREEN = """i.questions != '["refusal"]'"""
"""Nobody is asked here whether a response refuses: such items come with their labels."""
NEXT = f"""
    SELECT i.number FROM items i
    WHERE i.done < :overlap AND NOT EXISTS ({MINE}) AND NOT EXISTS ({GOLD}) AND {PLACES} < :overlap
        AND {ON_SCREEN}
        AND (NOT :declines OR NOT {DECLINED})
    ORDER BY i.done DESC, i.number LIMIT 1
"""
NEXT_GOLD = f"""
    SELECT i.number FROM gold g JOIN items i ON i.number = g.item
    WHERE NOT EXISTS ({MINE}) AND (NOT :declines OR NOT {DECLINED})
    ORDER BY i.number LIMIT 1
"""
NEXT_OF_ALL = f"""
    SELECT i.number FROM items i WHERE NOT EXISTS ({MINE}) AND {ON_SCREEN} ORDER BY i.number LIMIT 1
"""
OWN = f"""
    SELECT i.number FROM assignments m JOIN items i ON i.number = m.item
    WHERE m.labeller = :me AND m.state IN ('open', 'reopened') AND (
        m.state = 'reopened' OR m.leased_until IS NULL OR m.leased_until > 0
        OR NOT :is_person OR EXISTS ({GOLD}) OR {PLACES} < :overlap)
    ORDER BY m.state = 'open', m.turn IS NULL, m.turn, m.opened_at, i.number LIMIT 1
"""
FULL = f"""
    SELECT :is_person AND NOT EXISTS ({GOLD}) AND {PLACES} >= :overlap AND NOT EXISTS (
        {MINE} AND (m.state IN ('done', 'reopened')
            OR m.state = 'open' AND (m.leased_until IS NULL OR m.leased_until > 0)))
    FROM items i WHERE i.number = :item
"""


class Hand(NamedTuple):
    """A labeller at a moment."""

    number: int
    is_person: bool
    project: Project
    now: float

    @property
    def lease(self) -> float:
        """Until when an item taken now is kept."""
        return self.now + 60 * self.project.config.lease_minutes

    def values(self, **more: object) -> dict[str, object]:
        """What the queries above need to know."""
        overlap = self.project.config.overlap
        return {"me": self.number, "is_person": self.is_person, "overlap": overlap, **more}


def enter(store: Store, labeller: str, now: float) -> Hand:
    """Look a labeller up and end the leases, of anybody, that have run out; inside a transaction.

    Raises:
        StoreError: Unknown or inactive labeller, or no project.
    """
    number = store.find_labeller(labeller)
    kind, is_active = store.rows("SELECT kind, is_active FROM labellers WHERE number = ?", number)[0]
    if not is_active:
        raise StoreError("This account is closed.", where=f"labeller {labeller!r}")
    hand = Hand(number, kind == "person", settings(store), now)
    store.rows(
        "UPDATE assignments SET leased_until = 0 WHERE state = 'open' AND leased_until > 0 AND leased_until <= ?",
        now,
    )
    # the clock has gone backwards: nobody holds an item for longer than a lease from now
    store.rows("UPDATE assignments SET leased_until = ?1 WHERE state = 'open' AND leased_until > ?1", hand.lease)
    return hand


def own_item(store: Store, hand: Hand) -> int | None:
    """What the labeller has in hand, items to be changed first."""
    row = store.one(OWN, **hand.values())
    return row[0] if row else None


def next_item(store: Store, hand: Hand) -> int | None:
    """The item that the labeller gets next: for people begun ones first, at times a gold one."""
    queries = [NEXT if hand.is_person else NEXT_OF_ALL]
    if hand.is_person and _is_gold_due(store, hand):
        queries.insert(0, NEXT_GOLD)
    declines = store.one("SELECT 1 FROM declined WHERE labeller = ? LIMIT 1", hand.number) is not None
    for query in queries:
        if row := store.one(query, **hand.values(declines=declines)):
            return int(row[0])
    return None


def _is_gold_due(store: Store, hand: Hand) -> bool:
    """Once in every block of 1 / gold_share items of this labeller, at a place drawn for the block."""
    share = hand.project.config.gold_share
    if share == 0:
        return False
    block = max(1, round(1 / share))
    begun, place = divmod(
        store.rows("SELECT count(*) FROM assignments WHERE labeller = ?", hand.number)[0][0], block
    )
    drawn = random.Random(f"{hand.project.salt} gold {hand.number} {begun}").randrange(block)
    return bool(place == drawn)


def lease_item(store: Store, hand: Hand, item: int) -> None:
    """Hand an item out for the first time, its responses in an order drawn for this labeller."""
    shown = list(range(store.rows("SELECT json_array_length(responses) FROM items WHERE number = ?", item)[0][0]))
    random.Random(f"{hand.project.salt} shown {hand.number} {item}").shuffle(shown)
    store.rows(
        "INSERT INTO assignments (item, labeller, shown, leased_until, opened_at) VALUES (?, ?, ?, ?, ?)",
        *(item, hand.number, json.dumps(shown), hand.lease, hand.now),
    )


def renew_lease(store: Store, hand: Hand, item: int) -> None:
    """Let a lease begin anew; one without an end stays."""
    store.rows(
        "UPDATE assignments SET leased_until = ? WHERE item = ? AND labeller = ? AND leased_until < ?",
        *(hand.lease, item, hand.number, hand.lease - RENEW_SECONDS),
    )
    store.rows(
        "UPDATE assignments SET opened_at = ? WHERE item = ? AND labeller = ? AND opened_at IS NULL",
        *(hand.now, item, hand.number),
    )


def is_full(store: Store, hand: Hand, item: int) -> bool:
    """Whether the labeller has no place at an item: theirs has run out, and others have taken all there are."""
    return bool(store.rows(FULL, **hand.values(item=item))[0][0])
