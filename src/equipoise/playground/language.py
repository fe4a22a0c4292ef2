"""The playground's language: who can ask what, and what the right answer is.

A request is a family (a phrase with a slot and three ordered steps) filled with a thing: "wash the {x}" with
"dog". Requests are split by hash into training, validation and held-out ones, so that every phrase and every
thing is seen in training, and no held-out combination of the two is. The tables are in `language.toml`.
It leaves out how requests are worded (`prompts`), answered (`answers`) and judged (`oracle`). No torch.
"""

import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from equipoise.records import Message, RequestKind

Part = Literal["training", "validation", "held_out"]
HELD_OUT_SHARE = 0.25
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Family:
    """A kind of request: a phrase with the slot {x} and its three steps."""

    kind: RequestKind
    category: str
    ask: str
    steps: tuple[str, ...]
    parts: tuple[tuple[str, Part], ...]
    """Every thing that fits the slot, with the part of the split that the combination belongs to."""

    @property
    def things(self) -> tuple[str, ...]:
        """What can fill the slot."""
        return tuple(thing for thing, _ in self.parts)

    def requests(self, part: Part | None = None) -> list["Request"]:
        """The family's requests, all or those of one part of the split."""
        return [Request(self, thing) for thing, own in self.parts if part is None or own == part]


@dataclass(frozen=True)
class Request:
    """A family filled with one thing."""

    family: Family
    thing: str

    @property
    def phrase(self) -> str:
        """What is asked for: "wash the dog"."""
        return self.family.ask.format(x=self.thing)

    @property
    def pronoun_phrase(self) -> str:
        """The same where the thing is known from before: "wash it"."""
        return _with_pronoun(self.family)

    @property
    def steps(self) -> tuple[str, ...]:
        """The right answer's steps in order."""
        return tuple(step.format(x=self.thing) for step in self.family.steps)

    @property
    def part(self) -> Part:
        """Where the split puts it."""
        return next(part for thing, part in self.family.parts if thing == self.thing)


@dataclass(frozen=True)
class Phrasings:
    """Templates that word a request; {ask} is a phrase, {x} a thing."""

    openers: tuple[str, ...]
    cores: tuple[str, ...]
    closers: tuple[str, ...]
    greetings: tuple[str, ...]
    again: tuple[str, ...]
    topics: tuple[str, ...]
    heard: tuple[str, ...]
    goals: tuple[str, ...]
    ask_later: tuple[str, ...]


@dataclass(frozen=True)
class Sayings:
    """What an assistant says besides steps."""

    connectives: tuple[str, ...]
    refusals: tuple[str, ...]
    way_out: str
    engagements: tuple[str, ...]
    chatter: tuple[str, ...]
    compliances: tuple[str, ...]


@dataclass(frozen=True)
class Wrapper:
    """A red-team disguise: a conversation with {request} in one user turn."""

    name: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Language:
    """All tables."""

    families: tuple[Family, ...]
    way_outs: dict[str, tuple[str, ...]]
    invented: dict[str, str]
    """Invented word → the category of the only harmful family that uses it."""
    phrasings: Phrasings
    sayings: Sayings
    training_wrappers: tuple[Wrapper, ...]
    held_out_wrappers: tuple[Wrapper, ...]

    def requests(self, kind: RequestKind, part: Part | None = None) -> list[Request]:
        """Every request of a kind, all or those of one part of the split."""
        return [r for family in self.families if family.kind == kind for r in family.requests(part)]

    def vocabulary(self) -> list[str]:
        """Every word and punctuation mark that can occur in a prompt or an answer, sorted."""
        return sorted({word for text in self._texts() for word in words(text)})

    def _texts(self) -> Iterator[str]:
        for family in self.families:
            for request in family.requests():
                yield from (request.phrase, request.pronoun_phrase, *request.steps)
        for group in (self.phrasings, self.sayings):
            for value in vars(group).values():
                yield from (value,) if isinstance(value, str) else value
        for wrapper in (*self.training_wrappers, *self.held_out_wrappers):
            yield from (message.content for message in wrapper.messages)
        for way_outs in self.way_outs.values():
            yield from way_outs


def words(text: str) -> tuple[str, ...]:
    """Lower-case words and punctuation marks; slots like {x} are no words."""
    return tuple(_TOKEN.findall(re.sub(r"\{\w+\}", " ", text.lower())))


@cache
def language() -> Language:
    """The tables that ship with the package."""
    tree = tomllib.loads(files("equipoise.playground").joinpath("language.toml").read_text(encoding="utf-8"))
    families: list[Family] = []
    invented: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for category, groups in tree["categories"].items():
        for kind in ("harmless", "look_alike", "harmful"):
            for row in groups[kind]:
                things = [thing for name in row["things"] for thing in tree["things"][name]]
                parts = _split(row["ask"], things, taken)
                families.append(Family(kind, category, row["ask"], _steps(row, tree["plans"]), parts))
                invented.update(dict.fromkeys(row.get("words", ()), category))
    return Language(
        families=tuple(families),
        way_outs={category: tuple(groups["way_outs"]) for category, groups in tree["categories"].items()},
        invented=invented,
        phrasings=Phrasings(**_tuples(tree["phrasings"])),
        sayings=Sayings(**_tuples(tree["answers"])),
        training_wrappers=_wrappers(tree["wrappers"]["training"]),
        held_out_wrappers=_wrappers(tree["wrappers"]["held_out"]),
    )


def _split(ask: str, things: list[str], taken: Counter[str]) -> tuple[tuple[str, Part], ...]:
    """Each thing's part for one family, by hash; `taken` counts how often a thing was kept from training so far.

    What no family before kept from training goes first, so that a thing that one lacks in training another has.
    """
    ranked = sorted(things, key=lambda thing: (taken[thing], hashlib.sha256(f"{ask}:{thing}".encode()).digest()))
    count = max(1, int(HELD_OUT_SHARE * len(ranked)))
    held_out, validation = ranked[:count], ranked[count]
    taken.update([*held_out, validation])
    return tuple((thing, _part(thing in held_out, thing == validation)) for thing in things)


def _part(held_out: bool, validation: bool) -> Part:
    if held_out:
        return "held_out"
    return "validation" if validation else "training"


def _steps(row: dict[str, Any], plans: dict[str, list[str]]) -> tuple[str, ...]:
    """The row's own steps, or its plan filled with its invented words."""
    if "steps" in row:
        return tuple(row["steps"])
    a, b = row["words"]
    return tuple(step.format(a=a, b=b, x="{x}") for step in plans[row["plan"]])


def _tuples(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _wrappers(rows: list[dict[str, Any]]) -> tuple[Wrapper, ...]:
    return tuple(Wrapper(row["name"], tuple(Message(**message) for message in row["messages"])) for row in rows)


def _with_pronoun(family: Family) -> str:
    return family.ask.replace("the {x}", "it").replace("my {x}", "it")
