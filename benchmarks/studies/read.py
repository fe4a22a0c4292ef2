"""What finished studies hold, one per seed: verdicts, helpfulness, scores and training curves of every policy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from studies.estimates import Floats, Measured

from equipoise.artefact import read_manifest
from equipoise.data.jsonl import read_records
from equipoise.errors import EvaluationError
from equipoise.evaluate.harm import ScoredAnswer
from equipoise.playground.oracle import helpfulness
from equipoise.records import ScoredResponse
from equipoise.report.history import curve

SFT = "sft"
PLACES = ("out", "seed", "path", "actor", "model", "policy", "policies", "ref", "before")
"""Settings that say where something is, or which seed it is."""


class Seed(NamedTuple):
    """One finished study."""

    seed: int
    out: Path
    seconds: float
    harm: Measured  # 1 harmful, 0 safe; harmful requests
    refusal: Measured  # 1 refused in full or in part; harmless requests and look-alikes
    helpfulness: Measured  # of the oracle, 0 to 1; harmless requests and look-alikes
    categories: tuple[str, ...]  # of the harmful requests, in their order
    scores: dict[str, tuple[float, float]]  # mean reward and mean cost by the study's own models, all requests


def read_seed(out: Path, policies: Sequence[str]) -> Seed:
    """Read a finished study.

    Args:
        out: Its directory.
        policies: SFT and the variants to read.

    Raises:
        ArtefactError: It is not finished.
        EvaluationError: It lacks a policy, an answer of one has no verdict, or a harmful request no category.
    """
    variants = [name for name in policies if name != SFT]
    for name in variants:
        read_manifest(out / "evaluations" / name, ("evaluation",))
    verdicts = {name: _verdicts(out, name, name if name != SFT else variants[0]) for name in policies}
    answers = {name: _answers(out, name) for name in policies}
    asked = verdicts[SFT]
    harmful = tuple(prompt for prompt, answer in asked.items() if answer.kind == "harmful")
    others = tuple(prompt for prompt, answer in asked.items() if answer.kind != "harmful")
    lineage = lineage_of(out)
    return Seed(
        seed=lineage["seed"],
        out=out,
        seconds=lineage["seconds"],
        harm=_measured(harmful, {n: [not v[p].is_safe for p in harmful] for n, v in verdicts.items()}),
        refusal=_measured(others, {n: [v[p].refusal != "none" for p in others] for n, v in verdicts.items()}),
        helpfulness=_measured(others, {n: helpfulness([a[p] for p in others]) for n, a in answers.items()}),
        categories=tuple(_category(asked[prompt], out) for prompt in harmful),
        scores={name: _means(list(mine.values())) for name, mine in answers.items()},
    )


def lineage_of(out: Path) -> dict[str, Any]:
    """What the study took, as a whole and step by step."""
    tree: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return tree


def check_same(seeds: Sequence[Seed], policies: Sequence[str]) -> None:
    """Refuse studies that are not of one kind.

    Raises:
        EvaluationError: A seed occurs twice, or the recipes differ in more than the seed.
    """
    if len({seed.seed for seed in seeds}) < len(seeds):
        raise EvaluationError("Two studies have the same seed.", where=", ".join(str(s.out) for s in seeds))
    recipes = [json.dumps(_recipe(seed.out, policies), sort_keys=True) for seed in seeds]
    if len(set(recipes)) > 1:
        raise EvaluationError(
            "The studies were not made with the same settings.",
            where=", ".join(str(seed.out) for seed in seeds),
            fix="Run all seeds with the same recipe.",
        )


def curve_of(seed: Seed, policy: str, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric of a policy's training."""
    return curve(seed.out / "policies" / policy, key)


def cloud_of(seed: Seed, policy: str, most: int) -> list[tuple[float, float]]:
    """Reward and cost of at most so many of a policy's answers, evenly over the prompts."""
    scored = [(a.reward, a.cost) for a in _answers(seed.out, policy).values()]
    known = [(reward, cost) for reward, cost in scored if reward is not None and cost is not None]
    return known[:: max(1, -(-len(known) // most))]


def _recipe(out: Path, policies: Sequence[str]) -> list[Any]:
    """Settings of all policies and of their answers, without places and seeds."""
    folders = [out / kind / name for name in policies if name != SFT for kind in ("policies", "answers")]
    made = [folder for folder in folders if folder.exists()]  # best of n has answers alone
    return [_plain(read_manifest(folder).config) for folder in made]


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items() if k not in PLACES}
    return [_plain(v) for v in tree] if isinstance(tree, list) else tree


def _verdicts(out: Path, name: str, evaluation: str) -> dict[str, ScoredAnswer]:
    """Prompt → verdicts on one policy's answer; those on SFT stand in every evaluation."""
    folder = out / "evaluations" / evaluation
    found = {v.prompt: v for v in read_records(folder / "verdicts.jsonl", ScoredAnswer) if v.policy == name}
    if not found or any(v.is_safe is None or v.refusal is None for v in found.values()):
        raise EvaluationError("An answer has no verdict.", where=f"{folder}: {name}")
    return found


def _category(answer: ScoredAnswer, out: Path) -> str:
    if answer.category is None:
        raise EvaluationError("A harmful request has no category.", where=f"{out}: prompt {answer.prompt}")
    return answer.category


def _answers(out: Path, name: str) -> dict[str, ScoredResponse]:
    path = out / "answers" / name / "responses.jsonl"
    return {response.prompt.id: response for response in read_records(path, ScoredResponse)}


def _measured(prompts: tuple[str, ...], values: dict[str, Sequence[float]]) -> Measured:
    arrays: dict[str, Floats] = {name: np.array(mine, dtype=float) for name, mine in values.items()}
    return Measured(prompts, arrays)


def _means(answers: Sequence[ScoredResponse]) -> tuple[float, float]:
    rewards, costs = ([getattr(a, kind) for a in answers] for kind in ("reward", "cost"))
    return float(np.mean(rewards)), float(np.mean(costs))
