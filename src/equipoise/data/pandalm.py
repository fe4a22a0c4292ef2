"""The PandaLM test set: two models' answers to one instruction, compared by three annotators."""

from typing import Any, Literal

from equipoise.data.fields import Fields, Origin, Parsed, take_prompt, take_text, with_input
from equipoise.errors import DataError
from equipoise.records import Comparison

NEEDS = ("instruction", "response1", "response2", "annotator1", "cmp_key")
_VOTES: dict[str, Literal[0, 1, "tie"]] = {"0": "tie", "1": 0, "2": 1}


def matches(row: Fields) -> bool:
    """Whether the row has the fields of this format."""
    return all(name in row for name in NEEDS)


def parse(row: Fields, origin: Origin) -> Parsed:
    """One comparison; an empty answer is an answer.

    Raises:
        DataError: Names the field that is missing or of the wrong type.
    """
    first, _, second = take_text(row, "cmp_key").partition("_")
    if not first or not second or "_" in second:
        raise DataError(f"`cmp_key` is {row['cmp_key']!r}, not two models' names joined by '_'")
    asked = "" if row.get("input") is None else take_text(row, "input")
    request = {"instruction": with_input(take_text(row, "instruction"), asked)}
    annotators = sorted(name for name in row if name.startswith("annotator"))
    comparison = Comparison(
        prompt=take_prompt(request, "instruction", origin),
        policies=(first, second),
        responses=(take_text(row, "response1"), take_text(row, "response2")),
        votes=tuple(_vote(row[name], name) for name in annotators),
    )
    return Parsed((comparison,))


def _vote(value: Any, name: str) -> Literal[0, 1, "tie"]:
    if isinstance(value, bool) or str(value) not in _VOTES:
        raise DataError(f"`{name}` is {value!r}, not 0 (tie), 1 or 2")
    return _VOTES[str(value)]
