"""Conversations inside records: the prompt of any record, its responses, and a plain-text view of it."""

from collections.abc import Iterable

from pydantic import ValidationError

from equipoise.data.fields import explain_validation
from equipoise.errors import DataError
from equipoise.records import (
    Comparison,
    Demonstration,
    Message,
    PreferencePair,
    Prompt,
    Record,
    RefusalLabel,
    Response,
    SafetyLabel,
)

TRAINED = ">>> "
PLAIN = "    "


def prompt_of(record: Record) -> Prompt:
    """The conversation before the answer; of a demonstration, before its last turn.

    Raises:
        DataError: The record carries no prompt.
    """
    match record:
        case Prompt():
            return record
        case Demonstration():
            try:
                return Prompt(messages=record.messages[:-1], source=record.source)
            except ValidationError as error:
                raise DataError(explain_validation(Prompt, error)) from None
        case Response() | SafetyLabel() | PreferencePair() | RefusalLabel() | Comparison():
            return record.prompt
    raise DataError(f"a {type(record).__name__} carries no prompt")


def responses_of(record: Record) -> tuple[str, ...]:
    """The answers a record holds: none for a prompt, the last turn of a demonstration."""
    match record:
        case Demonstration():
            return (record.messages[-1].content,)
        case Response():
            return (record.text,)
        case SafetyLabel() | RefusalLabel():
            return (record.response,)
        case PreferencePair() | Comparison():
            return record.responses
    return ()


def join_turns(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The conversation with one speaker's consecutive turns joined by a blank line, so that speakers alternate."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            content = f"{joined.pop().content}\n\n{message.content}"
            message = Message(role=message.role, content=content)
        joined.append(message)
    return tuple(joined)


def to_transcript(record: Record) -> str:
    """A record as plain text; lines that are trained on or scored start with `>>> `.

    Every assistant turn of a demonstration is trained on; of records with a prompt and responses, the responses
    are what a model is scored on.
    """
    match record:
        case Demonstration():
            turns = [_turn(m.role, m.content, m.role == "assistant") for m in record.messages]
        case _:
            turns = [_turn(m.role, m.content, False) for m in prompt_of(record).messages]
            answers = responses_of(record)
            names = ["assistant"] if len(answers) == 1 else [f"response {i}" for i in range(len(answers))]
            remarks = [_remarks(record, i) for i in range(len(answers))]
            turns += [
                _turn(f"{name}{remark}", answer, True)
                for name, remark, answer in zip(names, remarks, answers, strict=True)
            ]
    return "\n".join(turns)


def _turn(speaker: str, content: str, is_trained: bool) -> str:
    mark = TRAINED if is_trained else PLAIN
    first, *rest = content.split("\n")
    return "\n".join([f"{mark}{speaker}: {first}", *(f"{mark}  {line}" for line in rest)])


def _remarks(record: Record, side: int) -> str:
    """The labels of one response, in brackets."""
    match record:
        case PreferencePair():
            remarks = [
                "more helpful" if record.more_helpful == side else "",
                "safer" if record.safer == side else "",
                {True: "safe", False: "unsafe", None: ""}[record.is_safe[side]],
            ]
        case SafetyLabel():
            remarks = ["safe" if record.is_safe else "unsafe", *record.categories]
        case RefusalLabel():
            remarks = [f"refusal: {record.refusal or 'unresolved'}"]
        case Comparison():
            remarks = [record.policies[side], f"{sum(vote == side for vote in record.votes)} vote(s)"]
        case Response():
            remarks = [record.policy]
        case _:
            remarks = []
    said = ", ".join(remark for remark in remarks if remark)
    return f" [{said}]" if said else ""
