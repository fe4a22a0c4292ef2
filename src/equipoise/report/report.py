"""The `report` stage: a finished evaluation and what led to it → one self-contained HTML file.

No network, no scripts; every text of a model or a data file is escaped. Writes report.html. Left out: the numbers
themselves (`evaluate`), their figures (`figures`) and their wording (`headline`, `changes`).
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from equipoise.artefact import Manifest, finish, start, write_text
from equipoise.config import hash_tree
from equipoise.data.jsonl import read_records
from equipoise.errors import EvaluationError
from equipoise.evaluate.evaluate import Sample
from equipoise.evaluate.summary import policy_front, read_evaluation
from equipoise.report import figures, history, samples, wording
from equipoise.report.changes import by_pair, earlier, lines
from equipoise.report.config import ReportConfig, ReportRound
from equipoise.report.headline import headline
from equipoise.report.limits import judged_by, limits
from equipoise.report.pairwise import matrices

PAGE = "report.html"
MOST_BYTES = 1_000_000
_MOST_SETTINGS = 200_000  # bytes
_QUESTIONS = {
    "helpfulness": "helpfulness",
    "harmlessness": "harmlessness",
    "single_dimension": "one mixed question",
    "safety": "safety",
}


def report(config: ReportConfig) -> Path:
    """Write the page.

    Returns:
        The directory, of kind "report".

    Raises:
        ArtefactError: An input is missing or unfinished, or `out` holds another run.
        EvaluationError: The page would exceed 1 MB.
    """
    build = start(config.out, "report", config, _inputs(config))
    if build.is_finished:
        return config.out
    page = render(config)
    if len(page.encode()) > MOST_BYTES:
        raise EvaluationError(
            f"The page would have {len(page.encode()):,} bytes; it must stay below {MOST_BYTES:,}.",
            fix="Evaluate with fewer sample_prompts, or report fewer rounds.",
        )
    write_text(config.out / PAGE, page)
    finish(build, {"bytes": len(page.encode())})
    return config.out


def render(config: ReportConfig) -> str:
    """The page as text."""
    evaluation = read_evaluation(config.evaluation)
    policies = evaluation.policies
    if not policies:
        raise EvaluationError("The evaluation has no policies.", where=str(config.evaluation))
    made = history.lineage(config.evaluation, config.rounds)
    names = wording.short_names([policy.name for policy in policies])
    models = history.read_models(config.models) if config.models else None
    before, tests = earlier(policies), by_pair(evaluation.tests)
    shown = samples.arrange(read_records(config.evaluation / "samples.jsonl", Sample))
    return (
        _environment(names, shown.longest)
        .get_template("report.html.j2")
        .render(
            title=config.title,
            notes=config.notes,
            headline=headline(policies, names, tests),
            judged=judged_by(evaluation, made),
            evaluation=evaluation,
            policies=policies,
            full_names=wording.full_names(names),
            earlier=before,
            changes=lines(before, policies[-1], tests),
            figures=figures.overview(policies, names),
            front=figures.harm_against_help(evaluation.front or policy_front(policies), names),
            categories=figures.by_category(policies, names),
            attacks=figures.by_attack(policies, names),
            matrices=matrices(evaluation.comparisons, list(names), figures.ELOS),
            arenas=figures.ELOS,
            curves=figures.training(config.rounds),
            clouds=figures.clouds(config.clouds),
            samples=shown,
            questions=_QUESTIONS,
            agreements=[(r.name, history.agreement(r.labels)) for r in config.rounds if r.labels],
            accuracies=_accuracies(config.rounds),
            models=models,
            reliability=figures.reliability(models.models) if models else [],
            gate=history.certificate(config.gate) if config.gate else None,
            made=made,
            contents={name: hash_tree(manifest.files) for name, manifest in made},
            settings=_settings(made),
            limits=limits(evaluation, made),
        )
    )


def _environment(names: Mapping[str, str], longest: int) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("equipoise.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": wording.percent,
        "interval": wording.interval,
        "points": wording.points,
        "points_interval": wording.points_interval,
        "cut": partial(samples.cut, longest=longest),
        "signed": wording.signed,
        "short": lambda name: names.get(name, name),
        "words": lambda text: text.replace("_", " ").replace(",", ", "),
        "count": lambda number: f"{number:,}",
    }
    return environment


def _inputs(config: ReportConfig) -> dict[str, Path]:
    rounds = {
        f"{one.name} {key}": path
        for one in config.rounds
        for key in ("ppo_lag", "labels", "reward", "cost")
        if (path := getattr(one, key)) is not None
    }
    single = {"gate": config.gate, "models": config.models}
    given = {name: path for name, path in single.items() if path is not None}
    return {
        "evaluation": config.evaluation,
        **given,
        **rounds,
        **{f"cloud {k}": v for k, v in config.clouds.items()},
    }


def _accuracies(rounds: Sequence[ReportRound]) -> list[tuple[str, str, history.ModelAccuracy]]:
    """(Round, kind, accuracy) of every preference model, those of one kind together."""
    kinds = ("reward", "cost")
    paths = [(r.name, kind, getattr(r, kind)) for kind in kinds for r in rounds]
    return [(name, kind, history.accuracy(name, path)) for name, kind, path in paths if path]


def _settings(made: Sequence[tuple[str, Manifest]]) -> list[tuple[str, str]]:
    """(Directory, its settings as JSON); none at all where they would fill the page."""
    texts = [(name, _pretty(manifest.config)) for name, manifest in made]
    return texts if sum(len(text.encode()) for _, text in texts) <= _MOST_SETTINGS else []


def _pretty(tree: Any) -> str:
    return json.dumps(tree, indent=1, ensure_ascii=False)
