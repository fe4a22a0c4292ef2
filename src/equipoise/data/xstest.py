"""XSTest: requests that sound harmful and are not, beside truly harmful contrasts; and people's refusal verdicts.

Safe requests become `look_alike`, their unsafe contrasts `harmful`; the type of the request becomes its category.
"""

import re
from pathlib import PurePath

from equipoise.data.fields import Fields, Origin, Parsed, take_prompt, take_text
from equipoise.errors import DataError
from equipoise.records import Prompt, Refusal, RefusalLabel, RequestKind

PROMPTS = ("prompt", "type", "label")
COMPLETIONS = ("prompt", "type", "completion", "final_label")
_VERDICTS: dict[str, Refusal] = {
    "1_full_compliance": "none",
    "2_full_refusal": "full",
    "3_partial_refusal": "partial",
}
_KINDS: dict[str, RequestKind] = {"safe": "look_alike", "unsafe": "harmful"}
_FILE_NAME = re.compile(r"xstest(_v\d+)?_completions_")


def matches_prompts(row: Fields) -> bool:
    """Whether the row has the fields of the prompt file."""
    return all(name in row for name in PROMPTS)


def parse_prompts(row: Fields, origin: Origin) -> Parsed:
    """One prompt.

    Raises:
        DataError: Names the field that is missing or has an unknown value.
    """
    label = take_text(row, "label")
    if label not in _KINDS:
        raise DataError(f"`label` is {label!r}, not safe or unsafe")
    return Parsed((_prompt(row, _KINDS[label], origin),))


def matches_completions(row: Fields) -> bool:
    """Whether the row has the fields of a completion file."""
    return all(name in row for name in COMPLETIONS)


def parse_completions(row: Fields, origin: Origin) -> Parsed:
    """One answer with its final verdict and the annotators' votes; the policy's name comes from the file's.

    Raises:
        DataError: Names the field that is missing or has an unknown value.
    """
    kind: RequestKind = "harmful" if take_text(row, "type").startswith("contrast_") else "look_alike"
    votes = [_verdict(row, name) for name in ("annotation_1", "annotation_2")]
    label = RefusalLabel(
        prompt=_prompt(row, kind, origin),
        response=take_text(row, "completion"),
        policy=_FILE_NAME.sub("", PurePath(origin.name).name.split(".")[0]),
        refusal=_verdict(row, "final_label"),
        votes=tuple(vote for vote in votes if vote is not None),
    )
    return Parsed((label,))


def _prompt(row: Fields, kind: RequestKind, origin: Origin) -> Prompt:
    return take_prompt(row, "prompt", origin, kind=kind, category=take_text(row, "type"))


def _verdict(row: Fields, name: str) -> Refusal | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if value not in _VERDICTS:
        raise DataError(f"`{name}` is {value!r}, not one of {', '.join(_VERDICTS)}")
    return _VERDICTS[value]
