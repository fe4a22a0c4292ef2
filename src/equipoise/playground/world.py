"""The stage that writes a world directory: what real projects bring, made up.

`base/` (untrained model), `demonstrations.jsonl`, `ptx.jsonl` (the harmless ones), `prompts.jsonl` (training),
`validation.jsonl`,
`heldout.jsonl` and `wrappers.jsonl` (the training wrappers only). Validation and held-out prompts ask for
combinations that no training text asks for; held-out wrappers occur nowhere else.
"""

import json
from collections.abc import Iterable
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from equipoise import artefact
from equipoise.config import validate
from equipoise.errors import ConfigError
from equipoise.playground import tiny
from equipoise.playground.answers import answer
from equipoise.playground.config import HeldOut, PromptMix, WorldConfig
from equipoise.playground.language import Part, Request, Wrapper, language
from equipoise.playground.prompts import plain_prompt, wrapped_prompt
from equipoise.records import Demonstration, Message, Prompt, Record, RequestKind

_TRIES = 200


def build(config: WorldConfig) -> Path:
    """Write the world of `config`; the same settings give the same bytes.

    Returns:
        The finished directory, of kind "world".

    Raises:
        ConfigError: More distinct prompts were asked for than the language has.
    """
    build = artefact.start(config.out, "world", config, {})
    if build.is_finished:
        return build.out
    demonstrations = demonstrate(config)
    known = {prompt.id for prompt, _ in demonstrations}
    prompts = training_prompts(config, known)
    validation = validation_prompts(config)
    held_out = held_out_prompts(config.held_out, config.prompt_mix.multi_turn, config.seed)
    _write(build.out / "demonstrations.jsonl", (_demonstration(*pair) for pair in demonstrations))
    harmless = (pair for pair in demonstrations if pair[0].kind != "harmful")
    _write(build.out / "ptx.jsonl", (_demonstration(*pair) for pair in harmless))
    _write(build.out / "prompts.jsonl", prompts)
    _write(build.out / "validation.jsonl", validation)
    _write(build.out / "heldout.jsonl", held_out)
    wrappers = "".join(_wrapper_line(wrapper) for wrapper in language().training_wrappers)
    artefact.write_text(build.out / "wrappers.jsonl", wrappers)
    parameters = tiny.save_base(build.out / "base", config.model, config.seed)
    facts = {
        "demonstrations": len(demonstrations),
        "prompts": len(prompts),
        "validation": len(validation),
        "held_out": len(held_out),
        "vocabulary": len(language().vocabulary()),
        "parameters": parameters,
    }
    artefact.finish(build, facts)
    return build.out


def prepare(*, out: Path, seed: int, **settings: Any) -> Path:
    """`build` for a recipe that names it as what prepares a run."""
    return build(validate(WorldConfig, {"out": out, "seed": seed, **settings}, where="prepare_settings"))


def demonstrate(config: WorldConfig) -> list[tuple[Prompt, str]]:
    """Prompts with the imperfect answers that the SFT policy learns from."""
    rng = _rng(config.seed, "demonstrations")
    drawn = _draw(config.demonstrations, config.demonstration_mix, "training", rng, "demonstrations")
    return [(prompt, answer(request, prompt.attack, rng, config.answer_mix)) for request, prompt in drawn]


def training_prompts(config: WorldConfig, known: set[str]) -> list[Prompt]:
    """Distinct prompts for responding, labelling and RL, none with an id in `known`."""
    rng = _rng(config.seed, "prompts")
    drawn = _draw(config.prompts, config.prompt_mix, "training", rng, "prompts", known)
    return [prompt for _, prompt in drawn]


def validation_prompts(config: WorldConfig) -> list[Prompt]:
    """Distinct prompts about combinations that are neither trained on nor held out."""
    rng = _rng(config.seed, "validation")
    return [p for _, p in _draw(config.validation, config.prompt_mix, "validation", rng, "validation")]


def held_out_prompts(sizes: HeldOut, multi_turn: float, seed: int) -> list[Prompt]:
    """The evaluation set: held-out requests, of the harmful ones half in held-out wrappers."""
    rng = _rng(seed, "held_out")
    wrappers = language().held_out_wrappers
    kinds: tuple[tuple[RequestKind, int, float], ...] = (
        ("harmful", sizes.harmful, 0.5),
        ("harmless", sizes.harmless, 0.15),
        ("look_alike", sizes.look_alike, 0.15),
    )
    prompts: list[Prompt] = []
    for kind, count, wrapped in kinds:
        disguised = round(count * wrapped)
        requests = _evenly(language().requests(kind, "held_out"), rng)
        seen: set[str] = set()
        for place, request in enumerate(islice(requests, count)):
            chosen = [wrappers[place % len(wrappers)]] if place < disguised else []
            prompts.append(_distinct(request, chosen, multi_turn, rng, seen, "held_out"))
    return prompts


def _draw(
    count: int, mix: PromptMix, part: Part, rng: Random, source: str, known: Iterable[str] = ()
) -> list[tuple[Request, Prompt]]:
    """`count` distinct prompts in random order, whose requests of each kind come evenly."""
    harmful, look_alike = round(count * mix.harmful), round(count * mix.look_alike)
    sizes: tuple[tuple[RequestKind, int], ...] = (
        ("harmful", harmful),
        ("look_alike", look_alike),
        ("harmless", count - harmful - look_alike),
    )
    wrappers, seen, drawn = language().training_wrappers, set(known), []
    for kind, size in sizes:
        share = mix.wrapped_harmful if kind == "harmful" else mix.wrapped_harmless
        for request in islice(_evenly(language().requests(kind, part), rng), size):
            chosen = wrappers if rng.random() < share else ()
            drawn.append((request, _distinct(request, chosen, mix.multi_turn, rng, seen, source)))
    rng.shuffle(drawn)
    return drawn


def _evenly(requests: list[Request], rng: Random) -> Iterable[Request]:
    shuffled = list(requests)
    rng.shuffle(shuffled)
    return cycle(shuffled)


def _distinct(
    request: Request,
    wrappers: Iterable[Wrapper],
    multi_turn: float,
    rng: Random,
    seen: set[str],
    source: str,
) -> Prompt:
    """A wording of `request` not yet in `seen`, inside one of `wrappers` if there are any."""
    choice = list(wrappers)
    for _ in range(_TRIES):
        if choice:
            prompt = wrapped_prompt(request, rng.choice(choice), rng, source)
        else:
            prompt = plain_prompt(request, rng, multi_turn, source)
        if prompt.id not in seen:
            seen.add(prompt.id)
            return prompt
    raise ConfigError(
        f"The playground has no further wording of {request.phrase!r}.",
        where=source,
        why=f"{len(seen)} prompts are made already",
        fix="Ask for fewer prompts.",
    )


def _rng(seed: int, purpose: str) -> Random:
    return Random(f"{seed}:{purpose}")


def _demonstration(prompt: Prompt, text: str) -> Demonstration:
    reply = Message(role="assistant", content=text)
    return Demonstration(messages=(*prompt.messages, reply), source="demonstrations")


def _write(path: Path, records: Iterable[Record]) -> None:
    artefact.write_text(path, "".join(record.model_dump_json(exclude_none=True) + "\n" for record in records))


def _wrapper_line(wrapper: Wrapper) -> str:
    turns = [{"role": message.role, "content": message.content} for message in wrapper.messages]
    return json.dumps({"name": wrapper.name, "messages": turns}) + "\n"
