"""The model card: README.md with metadata as the hub reads it, numbers with intervals, and what is unknown.

Metadata and its validity are `huggingface_hub`'s; the words are in `templates/card.md.j2`. Text from outside is
escaped, so that a name can be neither markup nor a table cell.
"""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from equipoise import __version__
from equipoise.artefact import Manifest
from equipoise.config import hash_tree
from equipoise.evaluate.elo import Elo
from equipoise.evaluate.harm import PolicySummary
from equipoise.evaluate.summary import Evaluation
from equipoise.report import wording
from equipoise.report.changes import MEASURES, by_pair
from equipoise.report.headline import headline
from equipoise.report.limits import judged_by, limits
from equipoise.ship.config import UNKNOWN, ShipConfig
from equipoise.ship.proof import Gate, Trial
from equipoise.stats import Rate


class Subject(NamedTuple):
    """All that a card tells of."""

    name: str  # of the model
    policy: str  # its name in the evaluation
    evaluation: Evaluation
    made: Sequence[tuple[str, Manifest]]  # the policy's manifest, and the evaluation's last
    gate: Gate | None
    trial: Trial


def write_card(config: ShipConfig, subject: Subject) -> ModelCard:
    """The card, as `ModelCard.load` reads it back."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("equipoise.ship"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, int) else _plain(str(value)),
    )
    policies = {p.name: p for p in subject.evaluation.policies}
    shipped, first = policies[subject.policy], subject.evaluation.policies[0]
    compared = [shipped] if first is shipped else [first, shipped]
    body = environment.get_template("card.md.j2").render(
        config=config,
        subject=subject,
        headline=headline(compared, tests=by_pair(subject.evaluation.tests)),
        compared=compared,
        rows=_rows(compared),
        judged=judged_by(subject.evaluation, subject.made),
        limits=limits(subject.evaluation, subject.made),
        contents={name: hash_tree(manifest.files) for name, manifest in subject.made},
        version=__version__,
        unknown=UNKNOWN,
    )
    return ModelCard(f"---\n{_metadata(config, subject, shipped).to_yaml()}\n---\n\n{body}")


def _metadata(config: ShipConfig, subject: Subject, shipped: PolicySummary) -> ModelCardData:
    return ModelCardData(
        language=list(config.language) or None,
        license=config.license or UNKNOWN,
        license_name=config.license_name,
        license_link=config.license_link,
        base_model=config.base_model,
        datasets=[one.dataset for one in config.data.values() if one.dataset] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["safe-rlhf", "equipoise"],
        model_name=subject.name,
        eval_results=_results(subject, shipped) or None,
    )


def _results(subject: Subject, shipped: PolicySummary) -> list[EvalResult]:
    """One result per number that was measured and is finite."""
    prompts, fingerprint = subject.evaluation.prompts, subject.made[-1][1].fingerprint
    counts = ", ".join(f"{n:,} {kind.replace('_', '-')}" for kind, n in prompts.items())
    measured = [(m, m.get(shipped)) for m in MEASURES if not m.part]
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Text generation",
            dataset_type="held-out-prompts",
            dataset_name=f"Held-out prompts ({counts})",
            dataset_revision=fingerprint,
            metric_type=measure.field,
            metric_name=measure.name,
            metric_value=found.value,
            metric_args=_arguments(found),
        )
        for measure, found in measured
        if found is not None and found.value is not None and not _is_anchor(found)
    ]


def _arguments(found: Rate | Elo) -> dict[str, Any]:
    return {"interval_95": [found.low, found.high], "n": found.n}


def _is_anchor(found: Rate | Elo) -> bool:
    return isinstance(found, Elo) and found.status == "anchor"


def _rows(compared: Sequence[PolicySummary]) -> list[tuple[str, list[str]]]:
    """(Number, its value with interval for each policy), of those that any has."""
    found = [(m.name, [m.get(policy) for policy in compared]) for m in MEASURES]
    return [(name, [_text(one) for one in values]) for name, values in found if any(v is not None for v in values)]


def _text(found: Rate | Elo | None) -> str:
    if found is None:
        return wording.NOT_MEASURED
    if isinstance(found, Rate):
        return f"{wording.percent(found)} ({wording.interval(found)}, n = {found.n:,})"
    return f"{wording.points(found)} ({wording.points_interval(found)})"


def _plain(text: str) -> str:
    """Text that Markdown leaves alone: one line, no markup, no cell."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~$" else letter for letter in escaped)
