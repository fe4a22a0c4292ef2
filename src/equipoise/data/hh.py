"""Anthropic HH: two transcripts, `chosen` and `rejected`, that share a conversation and differ in its last answer.

Consecutive turns of one speaker are joined first. What then differs before the last turn is refused: the two
answers would not belong to one prompt. The set has no safety meta-labels and one preference, whose meaning depends
on the subset (harmless-base, helpful-base) and is a setting of the source.
"""

import re

from equipoise.data.conversations import join_turns
from equipoise.data.fields import Fields, Origin, Parsed, take_text
from equipoise.errors import DataError
from equipoise.records import Message, PreferencePair, Prompt

NEEDS = ("chosen", "rejected")
JOINED = "conversations with joined turns"
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def matches(row: Fields) -> bool:
    """Whether the row has the fields of this format."""
    return all(name in row for name in NEEDS)


def parse(row: Fields, origin: Origin) -> Parsed:
    """One pair; response 0 is the chosen one.

    Raises:
        DataError: A transcript is missing, no conversation, or parts from the other before the last turn.
    """
    chosen, chosen_joined = _turns(row, "chosen")
    rejected, rejected_joined = _turns(row, "rejected")
    if chosen[:-1] != rejected[:-1]:
        where = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
        where = min(len(chosen), len(rejected)) if where is None else where
        raise DataError(f"`chosen` and `rejected` part before the last turn (at turn {where + 1})")
    if not chosen[-2].content:
        raise DataError("the last Human turn of `chosen` is empty")
    pair = PreferencePair(
        prompt=Prompt(messages=chosen[:-1], kind=origin.request_kind, source=origin.name),
        responses=(chosen[-1].content, rejected[-1].content),
        more_helpful=0 if origin.hh_preference == "more_helpful" else None,
        safer=0 if origin.hh_preference == "safer" else None,
        source=origin.name,
    )
    return Parsed((pair,), (JOINED,) if chosen_joined or rejected_joined else ())


def _turns(row: Fields, name: str) -> tuple[tuple[Message, ...], bool]:
    """The turns of a transcript, and whether some had to be joined."""
    before, *parts = _SPEAKER.split(take_text(row, name))
    if before.strip() or not parts:
        raise DataError(f"`{name}` is no transcript: it does not start with 'Human:'")
    said = [
        Message(role="user" if speaker == "Human" else "assistant", content=text.strip())
        for speaker, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    turns = join_turns(said)
    if len(turns) < 2 or turns[0].role != "user" or turns[-1].role != "assistant":
        raise DataError(f"`{name}` does not go from a Human turn to an Assistant turn")
    return turns, len(turns) < len(said)
