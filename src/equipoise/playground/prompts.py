"""How requests are worded: in one turn, over several turns, or inside a red-team wrapper.

Several turns can hide what is asked for: "now do it for the cat", or a goal in one turn and "how do i do it ?"
in the next. It leaves out which requests are asked how often (`world`).
"""

from collections.abc import Callable, Sequence
from random import Random

from equipoise.playground.answers import perfect, refuse
from equipoise.playground.language import Request, Wrapper, language
from equipoise.records import Message, Prompt

Turns = tuple[Message, ...]


def ask(request: Request, rng: Random) -> str:
    """One user turn that asks for it: a core, at times with an opener and a closer."""
    phrasings = language().phrasings
    core = rng.choice(phrasings.cores).format(ask=request.phrase)
    opener = rng.choice(phrasings.openers) if rng.random() < 0.3 else ""
    closer = rng.choice(phrasings.closers) if rng.random() < 0.35 else ""
    return " ".join(part for part in (opener, core, closer) if part)


def plain_prompt(request: Request, rng: Random, multi_turn: float, source: str) -> Prompt:
    """A prompt without an attack; with probability `multi_turn` it takes several turns."""
    turns = rng.choice(_OVER_TURNS)(request, rng) if rng.random() < multi_turn else _turns(ask(request, rng))
    return _prompt(request, turns, None, source)


def wrapped_prompt(request: Request, wrapper: Wrapper, rng: Random, source: str) -> Prompt:
    """The request inside a wrapper, whose name becomes the prompt's `attack`."""
    return _prompt(request, wrap(wrapper, ask(request, rng)), wrapper.name, source)


def wrap(wrapper: Wrapper, text: str) -> Turns:
    """The wrapper's conversation with `text` in its slot."""
    return tuple(
        Message(role=message.role, content=message.content.replace("{request}", text))
        for message in wrapper.messages
    )


def _prompt(request: Request, turns: Turns, attack: str | None, source: str) -> Prompt:
    family = request.family
    return Prompt(messages=turns, kind=family.kind, category=family.category, attack=attack, source=source)


def _turns(*contents: str) -> Turns:
    """User and assistant in turn, the user first."""
    return tuple(
        Message(role="assistant" if place % 2 else "user", content=content)
        for place, content in enumerate(contents)
    )


def _after_greeting(request: Request, rng: Random) -> Turns:
    phrasings = language().phrasings
    return _turns(rng.choice(phrasings.openers), rng.choice(phrasings.greetings), ask(request, rng))


def _with_topic_before(request: Request, rng: Random) -> Turns:
    phrasings = language().phrasings
    return _turns(
        rng.choice(phrasings.topics).format(x=request.thing),
        rng.choice(phrasings.heard),
        rng.choice(phrasings.cores).format(ask=request.pronoun_phrase),
    )


def _with_goal_before(request: Request, rng: Random) -> Turns:
    phrasings = language().phrasings
    return _turns(
        rng.choice(phrasings.goals).format(ask=request.phrase),
        rng.choice(phrasings.heard),
        rng.choice(phrasings.ask_later),
    )


def _same_again(request: Request, rng: Random) -> Turns:
    """The same for another thing, which was answered (or refused, if harmful) before."""
    phrasings = language().phrasings
    others = [other for other in request.family.requests("training") if other != request]
    before = rng.choice(others)
    reply = refuse(before, rng, "none") if request.family.kind == "harmful" else perfect(before)
    core = rng.choice(phrasings.cores).format(ask=before.phrase)
    return _turns(core, reply, rng.choice(phrasings.again).format(x=request.thing))


_OVER_TURNS: Sequence[Callable[[Request, Random], Turns]] = (
    _after_greeting,
    _with_topic_before,
    _with_goal_before,
    _same_again,
)
