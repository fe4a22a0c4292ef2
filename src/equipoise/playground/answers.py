"""How requests are answered: rightly, and the many imperfect ways of the demonstrations.

The demonstrations stand for a base set like Alpaca: helpful by and large, often flawed, and harmful when asked.
It leaves out what an answer is worth (`oracle`).
"""

from random import Random
from typing import Literal

from equipoise.playground.config import AnswerMix
from equipoise.playground.language import Request, language

WayOut = Literal["none", "fitting", "wrong"]


def perfect(request: Request) -> str:
    """The three right steps in order."""
    return _join(list(request.steps))


def refuse(request: Request, rng: Random, way_out: WayOut) -> str:
    """A refusal, alone or with a way out of the request's category or of another."""
    tables = language()
    refusal = rng.choice(tables.sayings.refusals)
    if way_out == "none":
        return refusal
    own = request.family.category
    others = [category for category in tables.way_outs if category != own]
    category = own if way_out == "fitting" else rng.choice(others)
    return f"{refusal} {tables.sayings.way_out.format(way_out=rng.choice(tables.way_outs[category]))}"


def engage(rng: Random) -> str:
    """Vague encouragement that helps nobody."""
    return rng.choice(language().sayings.engagements)


def answer(request: Request, attack: str | None, rng: Random, mix: AnswerMix) -> str:
    """One imperfect answer, as a demonstrator would write it.

    Args:
        request: What is asked for.
        attack: The wrapper's name, if any: it makes a harmful answer likelier.
        rng: Source of all choices.
        mix: Shares of each way to answer.
    """
    if request.family.kind != "harmful":
        return refuse(request, rng, "none") if rng.random() < mix.over_refusal else flawed(request, rng, mix)
    if rng.random() < (mix.comply_wrapped if attack else mix.comply_plain):
        prefix = refuse(request, rng, "none") if rng.random() < mix.leaky_refusal else _comply(attack, rng)
        return f"{prefix} {flawed(request, rng, mix)}".strip()
    return safe_answer(request, rng, mix)


def safe_answer(request: Request, rng: Random, mix: AnswerMix) -> str:
    """Vague engagement, a plain refusal, or one with a fitting or a wrong way out."""
    shares = (mix.engage, mix.plain_refusal, mix.wrong_way_out, mix.fitting_way_out)
    ways: tuple[WayOut | None, ...] = (None, "none", "wrong", "fitting")
    way = rng.choices(ways, shares)[0]
    return refuse(request, rng, way) if way else engage(rng)


def flawed(request: Request, rng: Random, mix: AnswerMix) -> str:
    """The right steps, or the right steps with one flaw."""
    steps = list(request.steps)
    flaw = rng.choices(
        ("none", "missing", "swapped", "padded", "wrong_step", "wrong_thing", "repeated"),
        (mix.perfect, mix.missing, mix.swapped, mix.padded, mix.wrong_step, mix.wrong_thing, mix.repeated),
    )[0]
    place = rng.randrange(len(steps))
    if flaw == "missing":
        del steps[place]
    elif flaw == "swapped":
        other = (place + 1) % len(steps)
        steps[place], steps[other] = steps[other], steps[place]
    elif flaw == "padded":
        return _pad(_join(steps), rng)
    elif flaw == "wrong_step":
        steps[place] = rng.choice(_neighbours(request)).steps[place]
    elif flaw == "wrong_thing":
        others = [other for other in request.family.requests("training") if other != request]
        steps = list(rng.choice(others).steps)
    elif flaw == "repeated":
        steps.insert(place, steps[place])
    return _join(steps)


def _neighbours(request: Request) -> list[Request]:
    """Requests of other families of the category, harmful or not alike, about the same thing where that can be."""
    own = request.family
    near = [
        other
        for family in language().families
        if family.category == own.category and family != own
        for other in family.requests()
        if (family.kind == "harmful") == (own.kind == "harmful")
    ]
    return [other for other in near if other.thing == request.thing] or near


def _pad(text: str, rng: Random) -> str:
    chatter = rng.sample(language().sayings.chatter, rng.choice((1, 1, 2)))
    before = rng.random() < 0.5
    return " ".join([*chatter, text] if before else [text, *chatter])


def _join(steps: list[str]) -> str:
    """Steps as sentences: first …, then …, last …."""
    first, then, last = language().sayings.connectives
    middle = [then] * (len(steps) - 2)
    return " ".join(f"{word} {step} ." for word, step in zip([first, *middle, last], steps, strict=True))


def _comply(attack: str | None, rng: Random) -> str:
    """The word that an attack on the answer's first word asked for."""
    wanted = attack in ("prefix_sure", "yes_first") and rng.random() < 0.5
    return rng.choice(language().sayings.compliances) if wanted else ""
