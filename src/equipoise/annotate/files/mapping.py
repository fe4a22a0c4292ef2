"""Which field of another tool's file is the prompt, which the responses, and which of its questions asks what.

Other tools let their users name everything. The defaults read files whose names are ours; anything else is said in
a TOML file (`--mapping`). A question that the mapping does not name is left out and counted; an answer that does
not fit its question is refused.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from equipoise.annotate.files.contents import Answer
from equipoise.annotate.labels import RankQuestion
from equipoise.config import Config, read_toml, validate
from equipoise.data.fields import Fields, take_categories, take_flag, take_severity, take_text
from equipoise.errors import DataError
from equipoise.records import REFUSALS, Message, Prompt, Verdict

Asks = Literal["helpfulness", "harmlessness", "single", "safety", "categories", "severity", "refusal"]
PROMPTS = ("prompt", "instruction", "question")
LISTS = ("responses", "items")
_NUMBERED = re.compile(r"(response|answer|completion|reply|text)([_-]?\d|[_-][a-fA-F])")
_DEFAULT = re.compile(r"(helpfulness|harmlessness|single)|(safety|categories|severity|refusal)(?:[_-]?(\d))?")
_CHOICES: dict[str, int | Literal["tie"]] = {"left": 0, "right": 1, "A": 0, "B": 1, "tie": "tie"}
_VERDICTS = {"safe": True, "unsafe": False}


class QuestionMap(Config):
    """What one question of another tool asks."""

    asks: Asks = Field(description="Our question, or the part of a safety verdict.")
    response: int = Field(0, ge=0, description="Which response it is about, from 0; not for rankings.")
    values: dict[str, int | bool | str] = Field(
        {}, description="The tool's answer → ours: a response's number or 'tie'; true or false for safety."
    )


class FileMap(Config):
    """How to read files of Label Studio, Argilla and Potato."""

    prompt: str | None = Field(
        None, description="Field of the prompt; prompt, instruction or question unless given."
    )
    responses: tuple[str, ...] = Field(
        (), description="Fields of the responses in order, or one that holds a list; response_0, … unless given."
    )
    questions: dict[str, QuestionMap] = Field(
        {}, description="The tool's question → what it asks; those with our names unless given."
    )
    items: Path | None = Field(None, description="Potato: the data file that its project shows.")
    id: str = Field("id", description="Potato: the field of that file that identifies an item.")


def read_mapping(path: Path) -> FileMap:
    """The mapping in a TOML file.

    Raises:
        ConfigError: It cannot be read, or says what no mapping says.
    """
    return validate(FileMap, read_toml(path), where=str(path))


class Shown(NamedTuple):
    """The conversation and responses of an item, and what the tool calls each response."""

    prompt: Prompt
    responses: tuple[str, ...]
    names: tuple[str, ...]


class Said(NamedTuple):
    """One labeller's answers to the tool's questions, as the tool stores them."""

    labeller: str
    answers: Mapping[str, Any]
    at: float | None = None


def take_shown(row: Fields, mapping: FileMap, source: str) -> Shown:
    """The prompt and the responses among an item's fields.

    Raises:
        DataError: A field is missing, or no text; names it.
    """
    name = mapping.prompt or next((name for name in PROMPTS if name in row), None)
    if name is None:
        raise DataError(
            f"it has no field {', '.join(PROMPTS)}: `prompt` of the mapping says which; it has {_names(row)}"
        )
    prompt = take_conversation(row, name, source)
    fields = response_fields(row, mapping)
    if not fields:
        raise DataError(
            f"it has no responses: `responses` of the mapping names their fields; it has {_names(row)}"
        )
    if len(fields) == 1 and isinstance(row.get(fields[0]), list):
        return Shown(prompt, *_take_list(row[fields[0]], fields[0]))
    return Shown(prompt, tuple(take_text(row, key) for key in fields), tuple(fields))


def response_fields(row: Fields, mapping: FileMap) -> tuple[str, ...]:
    """The fields of a row's responses in order, or the one that holds a list of them; none if it has none."""
    fields = mapping.responses or tuple(sorted(key for key in row if _NUMBERED.fullmatch(key)))
    return fields or tuple(key for key in LISTS if isinstance(row.get(key), list))[:1]


def understand(said: Said, shown: Shown, mapping: FileMap) -> tuple[Answer, list[str]]:
    """A labeller's answers in our terms, and the tool's questions that the mapping does not name.

    Raises:
        DataError: An answer does not fit its question; names both.
    """
    parts: dict[int, dict[str, Any]] = {}
    rankings: dict[RankQuestion, tuple[int, ...]] = {}
    unmapped: list[str] = []
    for name, value in said.answers.items():
        question = mapping.questions.get(name) or (None if mapping.questions else _default_question(name))
        if question is None:
            unmapped.append(name)
        elif question.asks in ("helpfulness", "harmlessness", "single"):
            rankings[question.asks] = _take_ranks(name, value, question, shown)
        else:
            if question.response >= len(shown.responses):
                raise DataError(f"`{name}` is about response {question.response} of {len(shown.responses)}")
            parts.setdefault(question.response, {})[question.asks] = _take_part(name, value, question)
    verdicts = {position: _verdict(position, found) for position, found in sorted(parts.items())}
    return Answer(said.labeller, verdicts, rankings, said.at), unmapped


def _default_question(name: str) -> QuestionMap | None:
    found = _DEFAULT.fullmatch(name)
    return QuestionMap.model_validate({"asks": found[1] or found[2], "response": found[3] or 0}) if found else None


def _take_ranks(name: str, value: Any, question: QuestionMap, shown: Shown) -> tuple[int, ...]:
    """Ranks from a chosen side, or from the responses' names in order, the best first."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]  # a choice of one; a ranking has two names at least
    if isinstance(value, str | int):
        side = (question.values or _CHOICES).get(str(value))
        if len(shown.responses) != 2 or side not in (0, 1, "tie"):
            known = ", ".join(question.values or _CHOICES)
            raise DataError(f"`{name}` is {value!r}: with {len(shown.responses)} responses not one of {known}")
        return (0, 0) if side == "tie" else (0, 1) if side == 0 else (1, 0)
    ranked = _ranked_names(name, value)
    numbers = {**{response: n for n, response in enumerate(shown.names)}, **question.values}
    if sorted(numbers.get(response, -1) for response in ranked) != list(range(len(shown.names))):
        raise DataError(f"`{name}` ranks {list(ranked)}, not each of {', '.join(shown.names)} once")
    by_number = {numbers[response]: rank for response, rank in ranked.items()}
    steps = sorted(set(by_number.values()))  # 1, 1, 3 → 0, 0, 1: ranks are dense
    return tuple(steps.index(by_number[n]) for n in range(len(shown.names)))


def _ranked_names(name: str, value: Any) -> dict[str, int]:
    """Name → rank: from a list in order, or from a list of {value, rank}."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return {one: rank for rank, one in enumerate(value)}
    if isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("value"), str) for one in value
    ):
        ranks = [one.get("rank", n) for n, one in enumerate(value)]
        if all(isinstance(rank, int) for rank in ranks):
            return {one["value"]: rank for one, rank in zip(value, ranks, strict=True)}
    raise DataError(f"`{name}` is {value!r}, no choice and no ranking")


def _take_part(name: str, value: Any, question: QuestionMap) -> Any:
    single = value[0] if isinstance(value, list) and len(value) == 1 else value
    if question.asks == "categories":
        names = [value] if isinstance(value, str) else value
        return tuple(str(question.values.get(one, one)) for one in take_categories({name: names}, name))
    if question.asks == "severity":
        return take_severity({name: question.values.get(str(single), single)}, name)
    known = question.values or (_VERDICTS if question.asks == "safety" else {})
    meant = known.get(str(single), single)
    if question.asks == "safety":
        flag = take_flag({name: meant}, name)
        if flag is None:
            raise DataError(f"`{name}` is empty")
        return flag
    if meant not in REFUSALS:
        raise DataError(f"`{name}` is {single!r}, not none, partial or full")
    return meant


def _verdict(position: int, parts: Mapping[str, Any]) -> Verdict:
    if "safety" not in parts and "refusal" not in parts:
        raise DataError(f"it names {', '.join(parts)} of response {position}, but not whether it is safe")
    return Verdict(
        is_safe=parts.get("safety"),
        categories=parts.get("categories", ()),
        severity=parts.get("severity"),
        refusal=parts.get("refusal"),
    )


def take_conversation(row: Fields, name: str, source: str) -> Prompt:
    """A prompt from a text, or from a list of turns with `role` and `content`.

    Raises:
        DataError: It is neither, or empty; names the field.
    """
    value = row.get(name)
    if not isinstance(value, list):
        text = take_text(row, name)
        if not text.strip():
            raise DataError(f"`{name}` is empty")
        return Prompt.from_text(text, source=source)
    if not all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in value):
        raise DataError(f"`{name}` is a list, but not of turns with `role` and `content`")
    messages = tuple(Message.model_validate({key: turn[key] for key in ("role", "content")}) for turn in value)
    return Prompt(messages=messages, source=source)


def _take_list(values: Sequence[Any], name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts and their names: a list of texts, or of objects with `id` and `body` (Label Studio's lists)."""
    if all(isinstance(one, dict) for one in values):
        texts = tuple(take_text(one, "body") for one in values)
        return texts, tuple(str(one.get("id", n)) for n, one in enumerate(values))
    wrong = next((one for one in values if not isinstance(one, str)), None)
    if wrong is not None:
        raise DataError(f"`{name}` holds {wrong!r} ({type(wrong).__name__}), not text")
    return tuple(values), tuple(f"{name}_{n}" for n in range(len(values)))


def _names(row: Fields) -> str:
    return ", ".join(row) or "nothing"
