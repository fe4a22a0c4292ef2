"""Passwords as scrypt strings. Slow on purpose: run these beside the event loop. Who they belong to is in the store."""

import base64
import hashlib
import hmac
import secrets

from equipoise.errors import StoreError

COST, BLOCK, PARALLEL, LENGTH = 2**14, 8, 5, 32
"""16 MiB and some 0.2 s each: one of the settings that OWASP recommends."""
SHORTEST, LONGEST = 10, 200


def hash_password(password: str) -> str:
    """`scrypt$cost$block$parallel$salt$key`, the last two in base64, with a new salt.

    Raises:
        StoreError: Fewer than 10 characters, or more than 200.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise StoreError(
            "This password cannot be used.",
            why=f"it has {len(password)} characters; {SHORTEST} to {LONGEST} are needed",
            fix="Several words in a row are easy to keep in mind.",
        )
    salt = secrets.token_bytes(16)
    key = _derive(password, salt, COST, BLOCK, PARALLEL)
    salted, derived = (base64.b64encode(part).decode() for part in (salt, key))
    return f"scrypt${COST}${BLOCK}${PARALLEL}${salted}${derived}"


def check_password(password: str, hashed: str | None) -> bool:
    """Whether it is the one; with nothing to compare with, False after the same time."""
    if hashed is None:
        _derive(password, b"nobody", COST, BLOCK, PARALLEL)
        return False
    _, cost, block, parallel, salt, key = hashed.split("$")
    made = _derive(password, base64.b64decode(salt), int(cost), int(block), int(parallel))
    return hmac.compare_digest(made, base64.b64decode(key))


def _derive(password: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    text = password[: LONGEST + 1].encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=cost, r=block, p=parallel, dklen=LENGTH, maxmem=2**26)
