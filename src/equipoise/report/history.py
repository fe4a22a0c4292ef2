"""What the rounds left behind, read back: preference models' accuracies, labellers' agreement, curves, lineage.

`summarise_run` puts these beside an evaluation's numbers into the summary of a whole run (docs/evaluation.md).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from equipoise.annotate.agreement import Agreement, Raw
from equipoise.artefact import Manifest, read_manifest
from equipoise.errors import DataError, EvaluationError
from equipoise.evaluate.certificate import Certificate
from equipoise.evaluate.preference.run import ModelsSummary
from equipoise.evaluate.summary import read_evaluation
from equipoise.records import Record
from equipoise.report.config import ReportRound
from equipoise.runlog import METRICS
from equipoise.stats import Rate

QUESTIONS = ("helpfulness", "harmlessness", "single_dimension", "safety")
"""What labellers may be asked, by the names of agreement.json."""


class ModelAccuracy(Record):
    """A preference model's accuracies on prompts it did not train on; None where the stage did not measure it."""

    name: str
    ranking_accuracy: Rate | None
    safety_accuracy: Rate | None


class Usage(NamedTuple):
    """What a run took and what it was."""

    seconds: float
    peak_memory_bytes: int
    seed: int
    config_hash: str


def certificate(path: Path) -> Certificate:
    """What a gate wrote.

    Raises:
        DataError: There is no such file, or it is no certificate.
    """
    if not path.is_file():
        raise DataError(
            "There is no such certificate.", where=str(path), fix="Write it with `equipoise gate --json FILE`."
        )
    try:
        return Certificate.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise DataError(
            "This is no certificate of a gate.",
            where=str(path),
            why=f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}",
            fix="Write one with `equipoise gate --json FILE`.",
        ) from error


def read_models(path: Path) -> ModelsSummary:
    """What was measured of the preference models.

    Raises:
        ArtefactError: The directory is unfinished or of another kind.
    """
    read_manifest(path, ("model-evaluation",))
    return ModelsSummary.model_validate_json((path / "summary.json").read_text(encoding="utf-8"))


def accuracy(name: str, path: Path) -> ModelAccuracy:
    """The accuracies in the manifest of a finished reward or cost model.

    Raises:
        ArtefactError: The directory is unfinished or of another kind.
    """
    facts = read_manifest(path, ("reward", "cost")).facts
    return ModelAccuracy(
        name=name,
        ranking_accuracy=_rate(facts.get("ranking_accuracy")),
        safety_accuracy=_rate(facts.get("safety_accuracy")),
    )


def _rate(tree: Any) -> Rate | None:
    """The four numbers of a rate, whatever else stands beside them; None where the value is missing."""
    known = isinstance(tree, dict) and tree.get("value") is not None
    return Rate.model_validate({key: tree[key] for key in Rate.model_fields}) if known else None


def agreement(path: Path) -> dict[str, Agreement]:
    """Question → agreement of the labellers whose labels were aggregated there.

    Raises:
        ArtefactError: The directory is unfinished or of another kind.
        DataError: It has no agreement.json.
    """
    read_manifest(path, ("preferences",))
    file = path / "agreement.json"
    if not file.exists():
        raise DataError("The labels come without agreement.json.", where=str(path), fix="Aggregate them again.")
    tree = json.loads(file.read_text(encoding="utf-8"))
    return {question: Agreement.model_validate(one) for question, one in tree.items()}


def pooled(agreements: Sequence[dict[str, Agreement]]) -> dict[str, Raw | None]:
    """Question → share of agreeing pairs of labellers over all rounds; None where no pair judged it."""
    return {name: _pool([a[name].raw for a in agreements if name in a]) for name in QUESTIONS}


def _pool(parts: Sequence[Raw]) -> Raw | None:
    n = sum(part.n for part in parts)
    return Raw(value=sum(part.n * (part.value or 0.0) for part in parts) / n, n=n) if n else None


def curve(path: Path, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric of a finished run; empty where it was not logged."""
    file = path / METRICS
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    known = [(float(line["step"]), float(line[key])) for line in lines if math.isfinite(line.get(key, math.nan))]
    return [step for step, _ in known], [value for _, value in known]


def lineage(evaluation: Path, rounds: Sequence[ReportRound]) -> list[tuple[str, Manifest]]:
    """What each finished directory is and comes from, in the order in which they were made."""
    made: list[tuple[str, Manifest]] = []
    for one in rounds:
        paths = {"labels": one.labels, "reward": one.reward, "cost": one.cost, "ppo-lag": one.ppo_lag}
        made += [(f"{one.name}: {stage}", read_manifest(path)) for stage, path in paths.items() if path]
    return [*made, ("evaluation", read_manifest(evaluation))]


def summarise_run(evaluation: Path, rounds: Sequence[ReportRound], usage: Usage) -> dict[str, Any]:
    """The summary of a whole run, as JSON values.

    Args:
        evaluation: The finished evaluation of all its policies.
        rounds: What each round left behind.
        usage: Time, memory, seed and configuration of the run.

    Returns:
        policies, reward_models, cost_models, agreement, seconds, peak_memory_bytes, seed, config_hash.

    Raises:
        ArtefactError: One of the directories is unfinished or of another kind.
        EvaluationError: The evaluation has no policies.
    """
    policies = read_evaluation(evaluation).policies
    if not policies:
        raise EvaluationError("The evaluation has no policies.", where=str(evaluation))
    shares = pooled([agreement(r.labels) for r in rounds if r.labels])
    return {
        "policies": [policy.model_dump(mode="json") for policy in policies],
        "reward_models": [accuracy(r.name, r.reward).model_dump(mode="json") for r in rounds if r.reward],
        "cost_models": [accuracy(r.name, r.cost).model_dump(mode="json") for r in rounds if r.cost],
        "agreement": {name: share.model_dump(mode="json") if share else None for name, share in shares.items()},
        **usage._asdict(),
    }
