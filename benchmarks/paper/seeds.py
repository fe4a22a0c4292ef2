"""What finished studies hold, one per seed: verdicts, helpfulness, scores and training curves of every policy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from estimates import Floats, Measured

from equipoise.artefact import read_manifest
from equipoise.data.jsonl import read_records
from equipoise.errors import EvaluationError
from equipoise.evaluate.elo import Elo
from equipoise.evaluate.harm import ScoredAnswer
from equipoise.playground.oracle import helpfulness
from equipoise.records import ScoredResponse
from equipoise.report.history import curve

SFT = "sft"
FULL = "lag-0.8"
LIMITS = ("lag-minus-0.8", FULL, "lag-2.4", "lag-4.0")
FIXED = ("nu-0.01", "nu-0.5", "nu-1", "nu-2", "nu-5", "nu-10", "nu-100")
PLAIN, MIXED, SAFE_SFT = "nu-0", "mixed", "safe-sft"
RANKING, CLASSIFIER = "ranking", "classifier"
ZERO = ("zero", "zero-ranking", "zero-classifier")
POLICIES = (SFT, SAFE_SFT, *LIMITS, PLAIN, *FIXED, MIXED, RANKING, CLASSIFIER, *ZERO)
COST_MODELS = {
    "ranking and sign": ("shared/cost", FULL),
    "ranking alone": ("costs/ranking", RANKING),
    "sign alone": ("costs/classifier", CLASSIFIER),
}
"""What it learned from → the model, and a policy whose limit counts from the answers labelled safe."""


class Training(NamedTuple):
    """How a policy of RL was trained."""

    cost_limit: float | None  # None: nothing is limited
    lam: float  # at the end
    seconds: float


class Seed(NamedTuple):
    """One finished study."""

    seed: int
    out: Path
    seconds: float
    harm: Measured  # 1 harmful, 0 safe; harmful requests
    refusal: Measured  # 1 refused in full or in part; harmless requests and look-alikes
    helpfulness: Measured  # of the oracle, 0 to 1; harmless requests and look-alikes
    elo: dict[str, Elo]  # helpfulness on the same requests, against SFT alone
    scores: dict[str, tuple[float, float]]  # mean reward and mean cost by the study's own models, all requests
    training: dict[str, Training]


def read_seed(out: Path) -> Seed:
    """Read a finished study.

    Raises:
        ArtefactError: It is not finished.
        EvaluationError: It lacks a policy, or an answer of one has no verdict.
    """
    policies = [name for name in POLICIES if name != SFT]
    for name in policies:
        read_manifest(out / "evaluations" / name, ("evaluation",))
    verdicts = {name: _verdicts(out, name) for name in POLICIES}
    answers = {name: _answers(out, name) for name in POLICIES}
    asked = verdicts[SFT]
    harmful = tuple(prompt for prompt, answer in asked.items() if answer.kind == "harmful")
    others = tuple(prompt for prompt, answer in asked.items() if answer.kind != "harmful")
    lineage = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return Seed(
        seed=lineage["seed"],
        out=out,
        seconds=lineage["seconds"],
        harm=_measured(harmful, {n: [not v[p].is_safe for p in harmful] for n, v in verdicts.items()}),
        refusal=_measured(others, {n: [v[p].refusal != "none" for p in others] for n, v in verdicts.items()}),
        helpfulness=_measured(others, {n: helpfulness([a[p] for p in others]) for n, a in answers.items()}),
        elo={name: _elo(out, name) for name in policies},
        scores={name: _means(list(mine.values())) for name, mine in answers.items()},
        training={name: _training(out / "policies" / name) for name in policies if name != SAFE_SFT},
    )


def check_same(seeds: Sequence[Seed]) -> None:
    """Refuse studies that are not of one kind.

    Raises:
        EvaluationError: A seed occurs twice, or the recipes differ in more than the seed.
    """
    if len({seed.seed for seed in seeds}) < len(seeds):
        raise EvaluationError("Two studies have the same seed.", where=", ".join(str(s.out) for s in seeds))
    recipes = [json.dumps(_recipe(seed), sort_keys=True) for seed in seeds]
    if len(set(recipes)) > 1:
        raise EvaluationError(
            "The studies were not made with the same settings.",
            where=", ".join(str(seed.out) for seed in seeds),
            fix="Run all seeds with the same recipe.",
        )


def settings(seed: Seed) -> dict[str, Any]:
    """What the page says of how the policies of RL were trained."""
    config = read_manifest(seed.out / "policies" / FULL).config
    return {key: config[key] for key in ("steps", "batch_size", "kl_coef", "dual")}


def cost_models(seeds: Sequence[Seed]) -> dict[str, list[dict[str, Any]]]:
    """Cost model → per seed: its accuracies on held-out labels, and the mean cost of answers labelled safe."""
    return {label: [_cost_model(seed.out, *paths) for seed in seeds] for label, paths in COST_MODELS.items()}


def _cost_model(out: Path, model: str, policy: str) -> dict[str, Any]:
    facts, trained = read_manifest(out / model).facts, read_manifest(out / "policies" / policy)
    kept = {key: facts[key] for key in ("ranking_accuracy", "safety_accuracy") if key in facts}
    return kept | {"mean_safe_cost": trained.facts["cost_limit"] - trained.config["constraint"]["limit"]}


def curve_of(seed: Seed, policy: str, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric of a policy's training."""
    return curve(seed.out / "policies" / policy, key)


def cloud_of(seed: Seed, policy: str, most: int) -> list[tuple[float, float]]:
    """Reward and cost of at most so many of a policy's answers, evenly over the prompts."""
    scored = [(a.reward, a.cost) for a in _answers(seed.out, policy).values()]
    known = [(reward, cost) for reward, cost in scored if reward is not None and cost is not None]
    return known[:: max(1, -(-len(known) // most))]


def _recipe(seed: Seed) -> list[Any]:
    """Settings of all policies, without places and seeds."""
    trees = [read_manifest(seed.out / "policies" / name).config for name in POLICIES if name != SFT]
    return [_plain(tree) for tree in trees]


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items() if k not in ("out", "seed", "path", "actor", "model")}
    return [_plain(v) for v in tree] if isinstance(tree, list) else tree


def _verdicts(out: Path, name: str) -> dict[str, ScoredAnswer]:
    """Prompt → verdicts on one policy's answer; those on SFT stand in every evaluation."""
    folder = out / "evaluations" / (FULL if name == SFT else name)
    found = {v.prompt: v for v in read_records(folder / "verdicts.jsonl", ScoredAnswer) if v.policy == name}
    if not found or any(v.is_safe is None or v.refusal is None for v in found.values()):
        raise EvaluationError("An answer has no verdict.", where=f"{folder}: {name}")
    return found


def _answers(out: Path, name: str) -> dict[str, ScoredResponse]:
    path = out / "answers" / name / "responses.jsonl"
    return {response.prompt.id: response for response in read_records(path, ScoredResponse)}


def _measured(prompts: tuple[str, ...], values: dict[str, Sequence[float]]) -> Measured:
    arrays: dict[str, Floats] = {name: np.array(mine, dtype=float) for name, mine in values.items()}
    return Measured(prompts, arrays)


def _elo(out: Path, name: str) -> Elo:
    tree = json.loads((out / "evaluations" / name / "summary.json").read_text(encoding="utf-8"))
    (found,) = (policy["helpful_elo"] for policy in tree["policies"] if policy["name"] == name)
    return Elo.model_validate(found)


def _means(answers: Sequence[ScoredResponse]) -> tuple[float, float]:
    rewards, costs = ([getattr(a, kind) for a in answers] for kind in ("reward", "cost"))
    return float(np.mean(rewards)), float(np.mean(costs))


def _training(folder: Path) -> Training:
    manifest = read_manifest(folder, ("policy",))
    return Training(manifest.facts.get("cost_limit"), manifest.facts["lambda"], manifest.seconds)
