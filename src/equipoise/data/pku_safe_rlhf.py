"""PKU-SafeRLHF, old and newer schema: two responses with a helpfulness and a harmlessness preference.

The newer schema adds the 19 categories and a severity per response. Columns beyond those are ignored.
"""

from equipoise.data.fields import (
    Fields,
    Origin,
    Parsed,
    take_categories,
    take_flag,
    take_prompt,
    take_severity,
    take_side,
    take_text,
)
from equipoise.records import PreferencePair

NEEDS = ("prompt", "response_0", "response_1")


def matches(row: Fields) -> bool:
    """Whether the row has the fields of this format."""
    return all(name in row for name in NEEDS)


def parse(row: Fields, origin: Origin) -> Parsed:
    """One pair; labels that the row lacks stay None.

    Raises:
        DataError: Names the field that is missing or of the wrong type.
    """
    pair = PreferencePair(
        prompt=take_prompt(row, "prompt", origin),
        responses=(take_text(row, "response_0"), take_text(row, "response_1")),
        more_helpful=take_side(row, "better_response_id"),
        safer=take_side(row, "safer_response_id"),
        is_safe=(take_flag(row, "is_response_0_safe"), take_flag(row, "is_response_1_safe")),
        categories=(
            take_categories(row, "response_0_harm_category"),
            take_categories(row, "response_1_harm_category"),
        ),
        severity=(
            take_severity(row, "response_0_severity_level"),
            take_severity(row, "response_1_severity_level"),
        ),
        source=origin.name,
    )
    return Parsed((pair,))
