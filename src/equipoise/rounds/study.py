"""A study: one round played in several variants from one shared beginning.

The first policy, its answers and their labels are made once, and so is each reward and cost model. Each variant is
trained from that first policy, or made of policies before it; it answers the same held-out prompts and is compared
with the first. The run's own reward and cost model score all answers, whatever a variant was trained on. Of the
recipe's rounds the first is played. Left out: what the numbers mean together, which depends on what was varied.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.artefact import write_json
from equipoise.config import merge
from equipoise.errors import ConfigError
from equipoise.evaluate.summary import read_evaluation
from equipoise.rounds.config import SFT, RewardVariant, StudyConfig
from equipoise.rounds.plan import (
    AGGREGATE,
    COST,
    EVALUATE,
    REWARD,
    Data,
    Plan,
    Sources,
    Step,
    file_source,
    find_data,
    first_policy,
    label_answers,
)
from equipoise.rounds.run import SUMMARY, run_steps
from equipoise.rounds.variants import OWN, Shared, answer, answer_variant


def run_study(config: StudyConfig) -> Path:
    """Run a study.

    Args:
        config: The recipe, with its variants.

    Returns:
        `config.out`, with `summary.json`: an entry per policy as in an evaluation, the first policy on top.

    Raises:
        EquipoiseError: A setting is wrong (before anything runs), or a stage failed; what is finished stays.
    """
    usage = run_steps(make_study(config), config)
    compared = [read_evaluation(config.out / f"evaluations/{v.name}").policies for v in config.variants]
    policies = [compared[0][0], *(policy for _, policy in compared)]
    tree: dict[str, Any] = {"policies": [policy.model_dump(mode="json") for policy in policies]}
    write_json(config.out / SUMMARY, tree | usage._asdict())
    return config.out


def make_study(config: StudyConfig) -> list[Step]:
    """All steps of a study.

    Raises:
        ConfigError: A setting is wrong, a variant is called like the first policy, or data is missing.
    """
    if any(variant.name == SFT for variant in config.variants):
        raise ConfigError(f"A variant cannot be called {SFT!r}: the first policy is called so.")
    plan = Plan(config)
    data = find_data(config)
    start, made_by = first_policy(plan, data)
    shared = Shared(plan, config, data, start, tuple(made_by), *_label(plan, config, start, data, made_by))
    for name in (OWN, *config.rewards):
        _train_reward(shared, name)
    for name in (OWN, *config.costs):
        _train_cost(shared, name)
    answer(shared, SFT, start, made_by)
    for variant in config.variants:
        answer_variant(shared, variant)
        _compare(shared, variant.name)
    return plan.steps


def _label(
    plan: Plan, config: StudyConfig, start: Path, data: Data, made_by: Sequence[str]
) -> tuple[Sources, Sources, tuple[str, ...]]:
    """The first policy's answers with labels: those that people gave, or simulated ones."""
    first = config.rounds[0]
    if first.preferences:
        given: Sources = [source.model_dump() for source in first.preferences]
        return given, given, ()
    preferences = label_answers(plan, "shared", first, start, data.prompts, made_by)
    pairs, safety = ([file_source(preferences, name)] for name in ("pairs.jsonl", "safety.jsonl"))
    return pairs, safety, ("shared/preferences",)


def _train_reward(shared: Shared, name: str) -> None:
    plan, config = shared.plan, shared.config
    variant = config.rewards[name] if name else RewardVariant()
    pairs, after = shared.pairs, shared.labelled
    if variant.question == "single":
        if not shared.labelled:
            raise ConfigError(
                f"Reward model {name!r} is to learn from the mixed question, which people's pairs do not hold.",
                fix="Give pairs by that question to a study of their own, or let labellers be simulated.",
            )
        step = f"rewards/{name}-labels"
        mixed = {"labels": [plan.path("shared/labels")], "more_helpful_from": "single"}
        pairs = [file_source(plan.add(step, AGGREGATE, mixed, ["shared/labels"]), "pairs.jsonl")]
        after = (step,)
    tree = merge([config.reward, shared.round.reward, variant.settings, {"model": shared.start, "pairs": pairs}])
    plan.add(shared.scorer("reward", name), REWARD, tree, [*shared.made_by, *after])


def _train_cost(shared: Shared, name: str) -> None:
    config = shared.config
    settings = config.costs[name] if name else {}
    wired = {"model": shared.start, "pairs": shared.pairs}
    tree = merge([config.cost, shared.round.cost, settings, wired])
    shared.plan.add(shared.scorer("cost", name), COST, tree, [*shared.made_by, *shared.labelled])


def _compare(shared: Shared, name: str) -> None:
    """One variant against the first policy."""
    plan, data = shared.plan, shared.data
    given = [source.model_dump() for source in shared.round.preferences]
    wired = {
        "policies": {policy: plan.path(f"answers/{policy}") for policy in (SFT, name)},
        "trained_on": [*data.prompts, *data.demonstrations, *data.ptx, *data.validation, *given],
    }
    tree = merge([shared.config.evaluate, wired])
    plan.add(f"evaluations/{name}", EVALUATE, tree, [f"answers/{SFT}", f"answers/{name}"])
