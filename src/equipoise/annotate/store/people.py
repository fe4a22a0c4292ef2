"""Who may sign in: people, their personal links, passwords and sessions. No HTTP here, no rate limits.

Links and sessions are random tokens; the database keeps their SHA-256 only. Passwords are hashed with scrypt,
which takes a good part of a second on purpose: callers do it outside a transaction and off the event loop.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import JsonValue

from equipoise.annotate.store.core import Store
from equipoise.annotate.store.journal import record
from equipoise.errors import StoreError

Role = Literal["lead", "labeller"]
DAY = 86400.0
INVITE_SECONDS = 14 * DAY
SESSION_SECONDS = 7 * DAY
LONGEST_NAME = 60
SHORTEST_PASSWORD = 8
PSEUDONYM = "erased-"
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters that count as printable and print nothing."""
LOOKING_ALIKE = {"LATIN", "CYRILLIC", "GREEK"}
"""Scripts with letters that look like each other's."""
SCRYPT = (14, 8, 5)
"""log2 of the cost, block size, parallel runs: 16 MiB and about a third of a second."""


SELECT_PERSON = "SELECT name, role, is_active, password IS NOT NULL FROM labellers"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may sign in."""

    name: str
    role: Role
    is_active: bool
    has_password: bool


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in person; times are in seconds since 1970."""

    person: Person
    csrf: str
    expires_at: float


def people(store: Store) -> list[Person]:
    """Everybody who is or was a person here, in the order they were added; no judges, no simulated labellers."""
    return [_person(*row) for row in store.rows(f"{SELECT_PERSON} WHERE kind = 'person' ORDER BY number")]


def person(store: Store, name: str) -> Person | None:
    """The person of that name."""
    row = store.one(f"{SELECT_PERSON} WHERE kind = 'person' AND name = ?", name)
    return _person(*row) if row else None


def invite(store: Store, name: str, role: Role, now: float, *, by: str = "") -> str:
    """A token for a personal link, valid once and for two weeks; older links of that person end.

    Somebody unknown is added. Somebody known gets a way back in, with the role given now.

    Returns:
        What goes into the link; it is kept nowhere.

    Raises:
        StoreError: The name cannot be one, or belongs to a judge or a simulated labeller.
    """
    name = normal_name(name)
    _check_name(name)
    token = secrets.token_urlsafe(24)
    with store.transaction():
        _check_looks(store, name)
        store.add_labellers([name], "person")
        number = store.find_labeller(name)
        store.rows("UPDATE labellers SET role = ?, is_active = 1 WHERE number = ?", role, number)
        store.rows("DELETE FROM invites WHERE labeller = ? AND used_at IS NULL", number)
        store.rows(
            "INSERT INTO invites VALUES (?, ?, ?, ?, NULL)", _digest(token), number, now, now + INVITE_SECONDS
        )
        record(store, by, "invite", {"labeller": name, "role": role}, now)
    return token


def normal_name(name: str) -> str:
    """A name in the one form in which it is kept: an é is one character, whatever keyboard it came from."""
    return unicodedata.normalize("NFC", name)


def invited(store: Store, token: str, now: float) -> Person | None:
    """Whose link this is, while it is valid."""
    row = store.one(
        f"{SELECT_PERSON} WHERE is_active AND number = (SELECT labeller FROM invites"
        " WHERE token = ? AND used_at IS NULL AND expires_at > ?)",
        _digest(token),
        now,
    )
    return _person(*row) if row else None


def accept_invite(store: Store, token: str, password: str | None, now: float) -> Person:
    """Use a personal link up.

    Args:
        store: The project.
        token: What was in the link.
        password: Made by `hash_password`; None leaves the person as they are, with the link alone.
        now: Seconds since 1970.

    Raises:
        StoreError: The link is unknown, used or out of date.
    """
    with store.transaction():
        found = invited(store, token, now)
        if found is None:
            raise StoreError(
                "This link is not valid.", why="It is unknown, used or out of date.", fix="Ask for a new one."
            )
        store.rows("UPDATE invites SET used_at = ? WHERE token = ?", now, _digest(token))
        record(store, found.name, "join", {}, now)
        if password is not None:
            set_password(store, found.name, password, now)
        return _known(store, found.name)


def set_password(store: Store, name: str, password: str, now: float) -> None:
    """Keep a new password, made by `hash_password`, and end all of the person's sessions."""
    with store.transaction():
        number = store.find_labeller(name)
        store.rows("UPDATE labellers SET password = ? WHERE number = ?", password, number)
        store.rows("DELETE FROM sessions WHERE labeller = ?", number)
        record(store, name, "set password", {}, now)


def password_of(store: Store, name: str) -> str | None:
    """The stored hash of an active person's password, for `check_password`."""
    row = store.one("SELECT password FROM labellers WHERE name = ? AND is_active AND kind = 'person'", name)
    return cast("str | None", row[0]) if row else None


def set_active(store: Store, name: str, is_active: bool, now: float, *, by: str = "") -> None:
    """Let somebody in again, or shut them out: sessions and links end, what they hold goes back to the queue.

    Raises:
        StoreError: There is no such person.
    """
    with store.transaction():
        _known(store, name)
        number = store.find_labeller(name)
        store.rows("UPDATE labellers SET is_active = ? WHERE number = ?", int(is_active), number)
        if not is_active:
            _shut_out(store, number)
        record(store, by, "activate" if is_active else "deactivate", {"labeller": name}, now)


def start_session(store: Store, name: str, now: float) -> str:
    """Sign somebody in.

    Returns:
        What the browser holds; the database keeps a hash of it.

    Raises:
        StoreError: There is no such person, or they are no longer active.
    """
    token = secrets.token_urlsafe(32)
    with store.transaction():
        if not _known(store, name).is_active:
            raise StoreError("This account is closed.", where=f"labeller {name!r}")
        row = (_digest(token), store.find_labeller(name), secrets.token_urlsafe(24), now, now + SESSION_SECONDS)
        store.rows("DELETE FROM sessions WHERE expires_at <= ?", now)
        store.rows("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", *row)
    return token


def session(store: Store, token: str, now: float) -> Session | None:
    """The session of that token, if it is still valid and the person active."""
    row = store.one(
        "SELECT l.name, l.role, l.is_active, l.password IS NOT NULL, s.csrf, s.expires_at FROM sessions s"
        " JOIN labellers l ON l.number = s.labeller WHERE s.token = ? AND s.expires_at > ? AND l.is_active",
        _digest(token),
        now,
    )
    return Session(_person(*row[:4]), row[4], row[5]) if row else None


def end_session(store: Store, token: str) -> None:
    """Sign out; an unknown token changes nothing."""
    with store.transaction():
        store.rows("DELETE FROM sessions WHERE token = ?", _digest(token))


def end_all_sessions(store: Store) -> None:
    """Sign everybody out."""
    with store.transaction():
        store.rows("DELETE FROM sessions")


def declined(store: Store, name: str) -> set[str]:
    """The categories that somebody does not want to see."""
    rows = store.rows("SELECT category FROM declined WHERE labeller = ?", store.find_labeller(name))
    return {category for (category,) in rows}


def decline(store: Store, name: str, categories: set[str], now: float) -> None:
    """Replace the categories that somebody does not want to see; items of these are no longer handed to them."""
    with store.transaction():
        number = store.find_labeller(name)
        store.rows("DELETE FROM declined WHERE labeller = ?", number)
        for category in sorted(categories):
            store.rows("INSERT INTO declined VALUES (?, ?)", number, category)
        record(store, name, "decline categories", {"categories": cast("list[JsonValue]", sorted(categories))}, now)


def erase_person(store: Store, name: str, now: float, *, by: str = "") -> str:
    """Replace a name by a pseudonym everywhere and close the account; labels stay, under the pseudonym.

    In notes and the journal the name is replaced wherever it stands as a word. Freed pages of the file are
    overwritten. Backups and exports made before keep the name.

    Returns:
        The pseudonym; to erase that only overwrites freed pages once more.

    Raises:
        StoreError: There is no such person, or the database is in use and freed pages cannot be overwritten.
    """
    _known(store, name)
    pseudonym = name if name.startswith(PSEUDONYM) else _replace_name(store, name, now, by)
    store.scrub()
    return pseudonym


def _replace_name(store: Store, name: str, now: float, by: str) -> str:
    with store.transaction():
        number = store.find_labeller(name)
        pseudonym = f"{PSEUDONYM}{number}"
        store.rows(
            "UPDATE labellers SET name = ?, password = NULL, is_active = 0 WHERE number = ?", pseudonym, number
        )
        _shut_out(store, number)
        store.rows("UPDATE journal SET who = ? WHERE who = ?", pseudonym, name)
        word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        for row, detail in store.rows("SELECT number, detail FROM journal"):
            new = json.dumps(_without(json.loads(detail), word, pseudonym), ensure_ascii=False)
            if new != detail:
                store.rows("UPDATE journal SET detail = ? WHERE number = ?", new, row)
        for row, text in store.rows("SELECT number, text FROM notes"):
            if word.search(text):
                store.rows("UPDATE notes SET text = ? WHERE number = ?", word.sub(pseudonym, text), row)
        record(store, by, "erase", {"labeller": pseudonym}, now)
    return pseudonym


def hash_password(password: str) -> str:
    """What may be kept of a password. Takes about a third of a second.

    Raises:
        StoreError: It is shorter than 8 characters.
    """
    if len(password) < SHORTEST_PASSWORD:
        raise StoreError(f"A password needs at least {SHORTEST_PASSWORD} characters.")
    salt = secrets.token_bytes(16)
    key = _scrypt(password, salt, *SCRYPT)
    return "$".join(["scrypt", *map(str, SCRYPT), *(base64.b64encode(part).decode() for part in (salt, key))])


def check_password(password: str, stored: str | None) -> bool:
    """Whether `stored` was made of this password; takes as long where there is none."""
    if stored is None:
        _scrypt(password, b"nobody", *SCRYPT)
        return False
    _, cost, block, runs, salt, key = stored.split("$")
    found = _scrypt(password, base64.b64decode(salt), int(cost), int(block), int(runs))
    return hmac.compare_digest(found, base64.b64decode(key))


def _person(name: str, role: Role, is_active: int, has_password: int) -> Person:
    return Person(name, role, bool(is_active), bool(has_password))


def _known(store: Store, name: str) -> Person:
    found = person(store, name)
    if found is None:
        raise StoreError(
            "There is no such person.",
            where=f"{name!r}, {store.path}",
            fix=f"Names are listed by: equipoise annotate status {store.path.parent}",
        )
    return found


def _check_name(name: str) -> None:
    is_fine = name == name.strip() and 0 < len(name) <= LONGEST_NAME and name.isprintable()
    is_fine = is_fine and not UNSEEN.search(name) and all(len(_scripts(word)) < 2 for word in name.split())
    if not is_fine or name.startswith(PSEUDONYM):
        raise StoreError(
            "This cannot be a name.",
            where=repr(name),
            why=f"1 to {LONGEST_NAME} printable characters, no space around them, each word in one script, "
            f"not {PSEUDONYM}…",
        )


def _check_looks(store: Store, name: str) -> None:
    """Refuse a new name that only capitals, width or ligatures tell from another's."""
    known = store.labellers()
    alike = [one for one in known if _look(one) == _look(name)]
    if name not in known and alike:
        raise StoreError(
            "Somebody has a name that looks like this one.",
            where=repr(name),
            why=f"{alike[0]!r} is here already",
            fix="Use that name, or one that differs by more than its looks.",
        )


def _look(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _scripts(word: str) -> set[str]:
    """Which of the scripts that look alike its letters are of."""
    return {unicodedata.name(letter, "").partition(" ")[0] for letter in word} & LOOKING_ALIKE


def _shut_out(store: Store, number: int) -> None:
    """End sessions and links, and give back what is held."""
    store.rows("DELETE FROM sessions WHERE labeller = ?", number)
    store.rows("DELETE FROM invites WHERE labeller = ?", number)
    store.rows("UPDATE assignments SET leased_until = 0 WHERE labeller = ? AND state = 'open'", number)


def _without(value: JsonValue, word: re.Pattern[str], pseudonym: str) -> JsonValue:
    match value:
        case str():
            return word.sub(pseudonym, value)
        case list():
            return [_without(one, word, pseudonym) for one in value]
        case dict():
            return {key: _without(one, word, pseudonym) for key, one in value.items()}
    return value


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _scrypt(password: str, salt: bytes, cost: int, block: int, runs: int) -> bytes:
    memory = 128 * block * ((1 << cost) + runs + 2)
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << cost, r=block, p=runs, maxmem=2 * memory, dklen=32)
