"""BeaverTails and PKU-SafeRLHF-QA: one response with its safety meta-label.

BeaverTails-Evaluation holds prompts only and is read by `prompts`.
"""

from equipoise.data.fields import (
    Fields,
    Origin,
    Parsed,
    take_categories,
    take_flag,
    take_prompt,
    take_severity,
    take_text,
)
from equipoise.errors import DataError
from equipoise.records import SafetyLabel

NEEDS = ("prompt", "response", "is_safe")


def matches(row: Fields) -> bool:
    """Whether the row has the fields of this format."""
    return all(name in row for name in NEEDS)


def parse(row: Fields, origin: Origin) -> Parsed:
    """One labelled response.

    Raises:
        DataError: Names the field that is missing or of the wrong type.
    """
    is_safe = take_flag(row, "is_safe")
    if is_safe is None:
        raise DataError("`is_safe` is missing")
    label = SafetyLabel(
        prompt=take_prompt(row, "prompt", origin),
        response=take_text(row, "response"),
        is_safe=is_safe,
        categories=take_categories(row, "category") or take_categories(row, "harm_category"),
        severity=take_severity(row, "severity_level"),
        source=origin.name,
    )
    return Parsed((label,))
