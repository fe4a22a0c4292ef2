"""Plain prompt lists: lines of text, lists of strings, rows with a `prompt` or an `instruction`.

BeaverTails-Evaluation and the usual red-team sets are of this kind, with a `category`.
"""

from typing import Any

from equipoise.data.fields import Fields, Origin, Parsed, take_prompt, take_text, with_input

NEEDS = ("prompt",)
_NAMES = ("prompt", "instruction")


def matches(row: Any) -> bool:
    """Whether the row is a text or has a prompt."""
    return isinstance(row, str) or (isinstance(row, dict) and any(name in row for name in _NAMES))


def parse(row: Fields | str, origin: Origin) -> Parsed:
    """One prompt.

    Raises:
        DataError: It is missing, no text, or empty.
    """
    fields: Fields = {"prompt": row} if isinstance(row, str) else row
    name = "instruction" if "instruction" in fields and "prompt" not in fields else "prompt"
    category = None if fields.get("category") is None else take_text(fields, "category")
    if fields.get("input") is not None:
        fields = {**fields, name: with_input(take_text(fields, name), take_text(fields, "input"))}
    return Parsed((take_prompt(fields, name, origin, category=category or None),))
