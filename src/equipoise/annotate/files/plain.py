"""Prompts with responses as anybody writes them: no labels, no tool, one row per prompt or one per response.

A row has the prompt, as a text or a list of turns, and either all its responses (a list `responses`, or fields
`response_0`, `response_1`, … in any number) or one `response`; rows of one prompt are then put together. `policy`,
`kind` and `category` may come along. What the data readers know, they read (`known`).
"""

from functools import partial

from pydantic import ValidationError

from equipoise.annotate.files.contents import Contents, Entry, make_item
from equipoise.annotate.files.mapping import FileMap, response_fields, take_conversation, take_shown
from equipoise.data.demonstrations import matches_prompt_response
from equipoise.data.fields import Fields, explain_validation, take_text
from equipoise.data.formats import FORMATS
from equipoise.data.jsonl import Row
from equipoise.errors import DataError
from equipoise.records import Prompt, Response

LESS_SPECIAL = ("prompts", "prompt_response")
"""Formats that see less in such a row than there is: a prompt without its responses, a demonstration."""


def matches(row: Fields, mapping: FileMap) -> bool:
    """Whether a row is of this kind: it has responses, and no other reader knows it or reads all of them."""
    if mapping.responses:
        return all(name in row for name in mapping.responses)
    found = len(response_fields(row, mapping))
    known = next((form.name for form in FORMATS if form.matches(row)), "prompts")
    if known == "pku_safe_rlhf":
        return found > 2
    return known in LESS_SPECIAL and (found > 0 or matches_prompt_response(row))


def add(found: Contents, row: Row, fields: Fields, mapping: FileMap) -> None:
    """Put what a row holds into `found`: an item, a response to be grouped, or the reason why neither."""
    if response_fields(fields, mapping):
        found.attempt(row.line, partial(_item, row, fields, mapping, found.name))
    else:
        found.attempt(row.line, partial(_response, found, fields, mapping))


def _item(row: Row, fields: Fields, mapping: FileMap, source: str) -> Entry:
    shown = take_shown(fields, mapping, source)
    return Entry(row.line, make_item(_about(shown.prompt, fields), shown.responses, source))


def _response(found: Contents, fields: Fields, mapping: FileMap) -> None:
    prompt = _about(take_conversation(fields, mapping.prompt or "prompt", found.name), fields)
    text = take_text(fields, "completion" if "completion" in fields else "response")
    found.responses.append(Response(prompt=prompt, text=text, policy=str(fields.get("policy") or found.name)))


def _about(prompt: Prompt, fields: Fields) -> Prompt:
    """The prompt with the `kind` and `category` that the row gives."""
    given = {name: fields[name] for name in ("kind", "category") if fields.get(name)}
    try:
        return Prompt.model_validate({**prompt.model_dump(), **given}) if given else prompt
    except ValidationError as error:
        raise DataError(explain_validation(Prompt, error)) from None
