"""Demonstrations for supervised fine-tuning: Alpaca, chat messages, seed tasks, prompt and response.

A chat conversation that ends with a user turn is a prompt and is read as one.
"""

from typing import Any

from pydantic import ValidationError

from equipoise.data.conversations import join_turns
from equipoise.data.fields import Fields, Origin, Parsed, explain_validation, take_text, with_input
from equipoise.errors import DataError
from equipoise.records import Demonstration, Message, Prompt, Role

ALPACA = ("instruction", "output")
SEED_TASKS = ("instruction", "instances")
CHAT = ("messages",)
PROMPT_RESPONSE = ("prompt", "response")
JOINED = "conversations with joined turns"
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


def matches_alpaca(row: Fields) -> bool:
    """Whether the row has an instruction and an output."""
    return all(name in row for name in ALPACA)


def parse_alpaca(row: Fields, origin: Origin) -> Parsed:
    """One demonstration of one turn; a non-empty `input` follows the instruction after a blank line.

    Raises:
        DataError: Names the field that is missing or of the wrong type.
    """
    request = with_input(_request(row, "instruction"), _optional(row, "input"))
    return Parsed((_one_turn(request, _answer(row, "output"), origin),))


def matches_seed_tasks(row: Fields) -> bool:
    """Whether the row has an instruction with instances."""
    return all(name in row for name in SEED_TASKS)


def parse_seed_tasks(row: Fields, origin: Origin) -> Parsed:
    """One demonstration per instance of the task.

    Raises:
        DataError: Names the field that is missing or of the wrong type.
    """
    instruction, instances = _request(row, "instruction"), row["instances"]
    if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
        raise DataError("`instances` is not a list of objects")
    return Parsed(
        tuple(
            _one_turn(with_input(instruction, _optional(instance, "input")), _answer(instance, "output"), origin)
            for instance in instances
        )
    )


def matches_prompt_response(row: Fields) -> bool:
    """Whether the row has a prompt and a response or completion."""
    return "prompt" in row and ("response" in row or "completion" in row)


def parse_prompt_response(row: Fields, origin: Origin) -> Parsed:
    """One demonstration of one turn.

    Raises:
        DataError: Names the field that is missing or of the wrong type.
    """
    answer = "response" if "response" in row else "completion"
    return Parsed((_one_turn(_request(row, "prompt"), _answer(row, answer), origin),))


def matches_chat(row: Fields) -> bool:
    """Whether the row has `messages` or `conversations`."""
    return "messages" in row or "conversations" in row


def parse_chat(row: Fields, origin: Origin) -> Parsed:
    """One demonstration, or a prompt where the conversation ends with a user turn.

    Messages are `{"role", "content"}` or `{"from", "value"}`; human and gpt stand for user and assistant.
    Consecutive turns of one speaker are joined.

    Raises:
        DataError: Names the message and what is wrong with it.
    """
    name = "messages" if "messages" in row else "conversations"
    said = row.get(name)
    if not isinstance(said, list) or not said:
        raise DataError(f"`{name}` is not a list of messages")
    turns = [_message(message, f"{name}.{i}") for i, message in enumerate(said)]
    joined = join_turns(turns)
    notes = (JOINED,) if len(joined) < len(turns) else ()
    try:
        if joined[-1].role == "user":
            return Parsed((Prompt(messages=joined, kind=origin.request_kind, source=origin.name),), notes)
        return Parsed((Demonstration(messages=joined, source=origin.name),), notes)
    except ValidationError as error:
        raise DataError(explain_validation(Prompt, error)) from None


def _message(message: Any, name: str) -> Message:
    if not isinstance(message, dict):
        raise DataError(f"`{name}` is not a message with a role and content")
    speaker, content = ("from", "value") if "from" in message else ("role", "content")
    said = take_text(message, speaker)
    if said not in _ROLES:
        raise DataError(f"`{name}.{speaker}` is {said!r}, not one of {', '.join(_ROLES)}")
    return Message(role=_ROLES[said], content=take_text(message, content))


def _request(row: Fields, name: str) -> str:
    text = take_text(row, name)
    if not text.strip():
        raise DataError(f"`{name}` is empty")
    return text


def _answer(row: Fields, name: str) -> str:
    """The text to imitate. A blank one is refused: it would teach the model to say nothing."""
    return _request(row, name)


def _optional(row: Fields, name: str) -> str:
    return "" if row.get(name) is None else take_text(row, name)


def _one_turn(request: str, answer: str, origin: Origin) -> Demonstration:
    turns = (Message(role="user", content=request), Message(role="assistant", content=answer))
    return Demonstration(messages=turns, source=origin.name)
