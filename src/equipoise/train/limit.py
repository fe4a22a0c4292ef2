"""Where the cost limit counts from: cost 0, or the answers that labellers called safe.

The unit of a cost is that of its cost model, so a number that suits one does not suit the next. What labellers
called safe is the same in every unit. Left out: how λ follows the limit (`duals`).
"""

import math
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from equipoise import artefact
from equipoise.data.load import load_safety_labels
from equipoise.data.source import DataSource
from equipoise.errors import ConfigError, DataError
from equipoise.models.score_head import read_head_settings
from equipoise.records import Response
from equipoise.rollout.config import ModelScore
from equipoise.rollout.score import ModelSource, ScoreSource
from equipoise.train.constraints import CategoryCosts, ChanceOfCost, Constraint, Costs, Limited, shifted
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.processes import process_sums, share
from equipoise.train.sharded import WholeSource


def load_safe_answers(sources: Sequence[DataSource]) -> list[Response]:
    """The answers that were labelled safe.

    Raises:
        DataError: A source is unusable or holds no safety label; or no answer of any source is safe.
    """
    labels = [label for source in sources for label in load_safety_labels(source)]
    safe = [Response(prompt=label.prompt, text=label.response) for label in labels if label.is_safe]
    if labels and not safe:
        raise DataError(
            "No answer is labelled safe, so the limit has nothing to count from.",
            where=", ".join(source.path for source in sources),
            why=f"all {len(labels)} labels say unsafe",
            fix="Label answers of a safer policy, or leave limit_from empty and count the limit from 0.",
        )
    return safe


def check_costs(config: PpoLagConfig) -> tuple[str, ...]:
    """Find out before anything loads whether the costs of a run can carry its constraint.

    Returns:
        The harm categories of its cost model, where the constraint is on them.

    Raises:
        ConfigError: Costs by category are wanted of a model without; or a probability of unsafe responses from
            costs whose zero means nothing.
        ModelError: The directory holds no cost model.
    """
    if not isinstance(config.cost, ModelScore):
        return ()
    path, constraint = config.cost.path, config.constraint
    categories = read_head_settings(path).categories if isinstance(constraint, CategoryCosts) else ()
    if isinstance(constraint, CategoryCosts) and not categories:
        raise ConfigError(
            "constraint 'categories' limits the cost of each harm category, and the cost model has one for all.",
            where=f"cost.path = {path}",
            fix="Train it with `equipoise cost --categories …`; or take constraint 'groups', which limits the "
            "cost of the prompts of each category.",
        )
    if isinstance(constraint, ChanceOfCost) and not config.limit_from and learned_by(path) == "ranking":
        raise ConfigError(
            "constraint 'chance' counts the responses whose cost is above the limit, and this cost model's zero "
            "means nothing.",
            where=f"cost.path = {path}",
            why="it was trained with loss = 'ranking', which orders responses and does not say which are unsafe",
            fix="Train it with loss = 'ranking+sign'; or count the limit from answers labelled safe (limit_from).",
        )
    return categories


def learned_by(path: Path) -> str | None:
    """The loss that a cost model was trained with; None where nobody wrote it down."""
    manifest = path / artefact.MANIFEST
    loss: str | None = artefact.read_manifest(path).config.get("loss") if manifest.exists() else None
    return loss


def costs_of(responses: Sequence[Response], source: ScoreSource, constraint: Constraint) -> Costs:
    """The cost of each response, and by category where the constraint asks for it."""
    if isinstance(constraint, CategoryCosts):
        assert isinstance(source, ModelSource | WholeSource)  # PpoLagConfig refuses others
        overall, rows = source.score_with_categories(responses)
        return Costs(overall, {name: [row[k] for row in rows] for k, name in enumerate(source.categories)})
    return Costs(source.score(responses), {})


def count_limit_from(
    safe: Sequence[Response], config: PpoLagConfig, cost: ScoreSource, accelerator: Accelerator
) -> PpoLagConfig:
    """The settings with limits that count from cost 0: limit + mean C(y, x) over the safe answers.

    Args:
        safe: Answers labelled safe; none: the settings come back as they are.
        config: The limits of its constraint count from the mean cost of those answers.
        cost: What gives the costs of the run.
        accelerator: Each process scores its share of the answers.
    """
    if not safe:
        return config
    assert isinstance(config.constraint, Limited)  # PpoLagConfig refuses others
    costs = costs_of(share(safe, accelerator), cost, config.constraint)
    sums = {"": math.fsum(costs.overall), **{name: math.fsum(one) for name, one in costs.by_category.items()}}
    means = {name: total / len(safe) for name, total in process_sums(sums, accelerator).items()}
    return config.model_copy(update={"constraint": shifted(config.constraint, means.pop(""), means)})
