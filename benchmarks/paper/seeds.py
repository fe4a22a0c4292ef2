"""The policies of the paper's study by name, and what their training left behind."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from studies.read import SFT, Seed

from equipoise.artefact import read_manifest
from equipoise.evaluate.elo import Elo

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


def elo_of(seed: Seed, name: str) -> Elo:
    """A variant's helpful Elo on harmless requests and look-alikes, against SFT alone."""
    tree = json.loads((seed.out / "evaluations" / name / "summary.json").read_text(encoding="utf-8"))
    (found,) = (policy["helpful_elo"] for policy in tree["policies"] if policy["name"] == name)
    return Elo.model_validate(found)


def training_of(seed: Seed, name: str) -> Training | None:
    """How a policy was trained; None for those without RL."""
    if name in (SFT, SAFE_SFT):
        return None
    manifest = read_manifest(seed.out / "policies" / name, ("policy",))
    return Training(manifest.facts.get("cost_limit"), manifest.facts["lambda"], manifest.seconds)
