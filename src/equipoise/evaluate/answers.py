"""What the policies answered: read from finished directories, or asked on the spot into `answers/`.

All policies must have answered the same prompts, each once. A prompt that an endpoint does not answer keeps its
place, with the reason. torch is imported only where a model answers. Left out: asking an endpoint (`endpoint`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from equipoise.artefact import STAGE, is_hub_name, read_manifest
from equipoise.data.jsonl import read_records, write_records
from equipoise.data.load import load_prompts
from equipoise.data.overlap import Excluded
from equipoise.data.source import DataSource
from equipoise.errors import ArtefactError, ConfigError, EvaluationError
from equipoise.evaluate.compare import Answers
from equipoise.evaluate.config import EndpointPolicy, EvaluateConfig, PromptSet
from equipoise.evaluate.endpoint import RESPONSES, UNANSWERED, Unanswered, ask_policy
from equipoise.evaluate.lineage import ANSWERS
from equipoise.records import Prompt, RequestKind, Response, ScoredResponse

PROMPTS = "prompts.jsonl"


class Collected(NamedTuple):
    """All answers, and why some are missing (policy → prompt id → reason): those have an empty text."""

    answers: Answers
    missing: Mapping[str, Mapping[str, str]]


class Gathered(NamedTuple):
    """The prompts of several sets, each once, and how many a later set repeated."""

    prompts: list[Prompt]
    repeated: int


def collect(config: EvaluateConfig, out: Path, prompts: Sequence[Prompt]) -> Collected:
    """Read the answers that there are and ask for the others; what an earlier run asked for is kept.

    Args:
        config: Settings of the evaluation.
        out: Its directory, which exists.
        prompts: What policies are asked that have not answered yet.

    Raises:
        EvaluationError: The policies answered different prompts, or one of them a prompt twice or none at all.
        ArtefactError: A directory is unfinished, or neither of responses nor of a policy.
        EndpointError: An endpoint leaves too many prompts without an answer; the same command goes on.
    """
    folder = out / ANSWERS
    asked = {name for name, given in config.policies.items() if not holds_responses(given)}
    if asked:
        folder.mkdir(exist_ok=True)
        write_records(folder / PROMPTS, prompts)
    answers, missing = {}, {}
    for name, given in config.policies.items():
        path = _ask(name, given, prompts, config, folder) if name in asked else given
        assert isinstance(path, Path)
        answers[name] = read_answers(name, path, config.unknown_kind)
        unanswered = read_records(path / UNANSWERED, Unanswered) if (path / UNANSWERED).exists() else []
        missing[name] = {line.prompt.id: line.why for line in unanswered}
        for line in unanswered:
            empty = Response(prompt=line.prompt, text="", policy=name, finished=False)
            answers[name][line.prompt.id] = empty
    return Collected(answers, missing)


def holds_responses(given: Path | EndpointPolicy) -> bool:
    """Whether a policy's answers lie there; if not, a policy that can be asked does.

    Raises:
        ArtefactError: Neither does.
    """
    if isinstance(given, EndpointPolicy):
        return False
    if (given / STAGE).exists():
        kind = json.loads((given / STAGE).read_text(encoding="utf-8"))["kind"]
        if kind == "responses":
            return True
        if kind == "policy":
            return False
        raise ArtefactError(
            f"The directory holds a {kind}, but responses or a policy are needed.", where=str(given)
        )
    if is_hub_name(given) or any((given / name).exists() for name in ("config.json", "adapter_config.json")):
        return False
    raise ArtefactError(
        "There are neither responses nor a policy.",
        where=str(given),
        why="a directory of responses comes from `respond`; a policy's has a config.json",
        fix="Check the path.",
    )


def check_policies(config: EvaluateConfig) -> None:
    """Find what is wrong with the policies before anything is asked.

    Raises:
        ArtefactError: A directory holds neither responses nor a policy, or there are no prompts to ask it.
        ConfigError: The name of a policy that is asked is no name for a folder.
    """
    for name, given in config.policies.items():
        if holds_responses(given):
            continue
        if not config.prompts:
            raise ArtefactError(
                "The directory holds a policy, and there are no prompts to ask it.",
                where=f"{name}: {given}",
                fix="Set prompts, or give the directory of its responses.",
            )
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise ConfigError(
                f"The policy {name!r} cannot be asked under that name.",
                why="its answers go into a folder of that name",
                fix="Use letters, digits, and . + - _ alone.",
            )


def gather_prompts(sets: Sequence[PromptSet], unknown_kind: RequestKind | None) -> Gathered:
    """The prompts of all sets, with what their set says of them where they do not say it.

    Raises:
        DataError: A set cannot be read.
        EvaluationError: Nobody says a prompt's kind, or two sets say different things of the same prompt.
    """
    found: dict[str, Prompt] = {}
    repeated = 0
    for one in sets:
        for prompt in load_prompts(one):
            own = {"category": prompt.category or one.category, "attack": prompt.attack or one.attack}
            labelled = _with_kind(one.path, prompt.model_copy(update=own), unknown_kind)
            known = found.setdefault(prompt.id, labelled)
            if known is labelled:
                continue
            repeated += 1
            differing = [
                name for name in ("kind", "category", "attack") if getattr(known, name) != getattr(labelled, name)
            ]
            if differing:
                raise EvaluationError(
                    f"Two prompt sets say different things of the same prompt: its {differing[0]}.",
                    where=f"{known.source} and {one.path}: {prompt.text[:80]!r}",
                    why=f"{getattr(known, differing[0])!r} against {getattr(labelled, differing[0])!r}",
                    fix="Take it out of one of them.",
                )
    return Gathered(list(found.values()), repeated)


def _ask(
    name: str, given: Path | EndpointPolicy, prompts: Sequence[Prompt], config: EvaluateConfig, folder: Path
) -> Path:
    out = folder / name
    if isinstance(given, EndpointPolicy):
        return ask_policy(name, given, prompts, config.respond, out)
    from equipoise.rollout.config import RespondConfig  # the model needs torch
    from equipoise.rollout.respond import respond

    source = DataSource(path=str(folder / PROMPTS), format="own")
    return respond(RespondConfig(out=out, policy=given, prompts=(source,), name=name, **dict(config.respond)))


def read_answers(name: str, path: Path, unknown_kind: RequestKind | None) -> dict[str, Response]:
    """Prompt id → response of one policy; every prompt has a kind.

    Raises:
        ArtefactError: The directory is unfinished or of another kind.
        EvaluationError: There are no responses, two to one prompt, or a prompt whose kind nobody says.
    """
    read_manifest(path, ("responses",))
    answers: dict[str, Response] = {}
    for response in read_records(path / RESPONSES, ScoredResponse):  # with or without scores
        key = response.prompt.id
        if key in answers:
            raise EvaluationError(
                "A prompt was answered twice.",
                where=f"{name}: {response.prompt.text[:80]!r} ({key})",
                why="rates count prompts, and answers to one prompt are not independent",
                fix="Give each prompt once, and take one sample of each.",
            )
        prompt = _with_kind(name, response.prompt, unknown_kind)
        answers[key] = response if prompt is response.prompt else response.model_copy(update={"prompt": prompt})
    if not answers:
        raise EvaluationError("There are no responses.", where=f"{name}: {path}")
    return answers


def _with_kind(where: str, prompt: Prompt, unknown_kind: RequestKind | None) -> Prompt:
    if prompt.kind is not None:
        return prompt
    if unknown_kind is None:
        raise EvaluationError(
            "A prompt does not say whether it is harmful, harmless or a look-alike.",
            where=f"{where}: {prompt.text[:80]!r}",
            why="harm is counted on harmful requests, over-refusal on the others",
            fix="Set unknown_kind to what such prompts are, or evaluate prompts that say it.",
        )
    return prompt.model_copy(update={"kind": unknown_kind})


def common_prompts(answers: Answers) -> list[Prompt]:
    """The prompts of the first policy, which every other one answered too, no more and no fewer.

    Raises:
        EvaluationError: Another policy answered others, or calls one of another kind.
    """
    anchor, *others = answers
    for name in others:
        missing, extra = (
            answers[anchor].keys() - answers[name].keys(),
            answers[name].keys() - answers[anchor].keys(),
        )
        if missing or extra:
            example = answers[anchor].get(min(missing, default="")) or answers[name][min(extra)]
            raise EvaluationError(
                f"{anchor!r} and {name!r} answered different prompts: "
                f"{len(missing)} only the first, {len(extra)} only the second.",
                where=f"for example {example.prompt.text[:80]!r}",
                why="policies are compared on the same prompts",
                fix="Run `respond` for all policies on the same prompts.",
            )
        for key, response in answers[anchor].items():
            kinds = response.prompt.kind, answers[name][key].prompt.kind
            if kinds[0] != kinds[1]:
                raise EvaluationError(
                    f"A prompt is {kinds[0]} for {anchor!r} and {kinds[1]} for {name!r}.",
                    where=repr(response.prompt.text[:80]),
                    why="the same prompt counts the same for all policies",
                    fix="Run `respond` for all policies on the same prompts.",
                )
    return [response.prompt for response in answers[anchor].values()]


def refuse_trained_on(prompts: Sequence[Prompt], sources: Sequence[DataSource]) -> None:
    """Refuse prompts that the policies learned from.

    Raises:
        EvaluationError: One of the sources holds one of them.
    """
    for source in sources if prompts else ():
        known = Excluded(tuple(load_prompts(source))).repeated_by(prompts)
        if known:
            raise EvaluationError(
                f"{len(known)} of the {len(prompts)} answered prompts were trained on, as they are or wrapped.",
                where=f"{source.path}: {known[0].text[:80]!r}",
                why="a policy is measured on prompts that it never learned from",
                fix="Take them out of the held-out set, or out of the training files, and train again.",
            )
