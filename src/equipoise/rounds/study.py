"""A study: one round played in several variants from one shared beginning.

The first policy, its answers and their labels are made once, and so is each reward and cost model. Each variant is
trained from the same first policy, answers the same held-out prompts and is compared with it. The run's own reward
and cost model score all answers, whatever a variant was trained on. Of the recipe's rounds the first is played.
Left out: what the numbers mean together, which depends on what was varied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from equipoise.artefact import write_json
from equipoise.config import merge
from equipoise.errors import ConfigError
from equipoise.report.history import read_evaluation
from equipoise.rollout.stored_config import PairsConfig, ScoreConfig, SelectConfig
from equipoise.rounds.config import (
    CDpoVariant,
    MocanVariant,
    PpoLagVariant,
    RejectionVariant,
    RewardVariant,
    RoundConfig,
    SafeSftVariant,
    StudyConfig,
    Tree,
    Variant,
)
from equipoise.rounds.plan import (
    AGGREGATE,
    COST,
    EVALUATE,
    PPO_LAG,
    RESPOND,
    REWARD,
    SFT,
    TRAIN_SFT,
    Data,
    Plan,
    Sources,
    Stage,
    Step,
    file_source,
    find_data,
    first_policy,
    label_answers,
)
from equipoise.rounds.run import SUMMARY, run_steps
from equipoise.train.direct_config import DirectConfig

DIRECT = Stage("equipoise.train.direct:train_direct", DirectConfig)
MAKE_PAIRS = Stage("equipoise.rollout.pairs:make_pairs", PairsConfig)
SCORE = Stage("equipoise.train.rescore:score_stored", ScoreConfig)
SELECT = Stage("equipoise.rollout.select:select", SelectConfig)
OWN = ""
"""Name of the run's own reward and cost model among the others."""
SCORED, SAFE = "shared/scored", "shared/safe"
"""The first policy's answers with scores, and those of its labelled answers that are safe, with costs."""


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
    _answer(shared, SFT, start, made_by)
    for variant in config.variants:
        policy = _train(shared, variant)
        _answer(shared, variant.name, policy, [f"policies/{variant.name}"])
        _compare(shared, variant.name)
    return plan.steps


@dataclass(frozen=True)
class Shared:
    """What all variants begin with."""

    plan: Plan
    config: StudyConfig
    data: Data
    start: Path  # the first policy
    made_by: tuple[str, ...]  # the steps that make it
    pairs: Sources  # its answers in pairs, labelled …
    safety: Sources  # … and one by one
    labelled: tuple[str, ...]  # the step that makes both, if people did not

    @property
    def round(self) -> RoundConfig:
        """The round that is played."""
        return self.config.rounds[0]

    def scorer(self, kind: Literal["reward", "cost"], name: str) -> str:
        """The step that makes a reward or cost model."""
        return f"{kind}s/{name}" if name else f"shared/{kind}"


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


def _train(shared: Shared, variant: Variant) -> Path:
    """The policy of a variant."""
    match variant:
        case PpoLagVariant():
            return _play(shared, variant)
        case SafeSftVariant():
            return _imitate(shared, variant, {"type": "labelled_safe", "labels": shared.safety}, shared.labelled)
        case RejectionVariant():
            keep = {"type": "best_scored", **_scored(shared), "cost_limit": variant.cost_limit}
            return _imitate(shared, variant, keep, [SCORED])
        case MocanVariant():
            limit, after = _limit(shared, variant)
            lam = {"type": "found", "beta": variant.beta, **limit}
            return _prefer(shared, variant, "", lam, after)
        case CDpoVariant():
            return _descend(shared, variant)


def _play(shared: Shared, variant: PpoLagVariant) -> Path:
    """PPO-Lag from the first policy."""
    plan, config, data = shared.plan, shared.config, shared.data
    steps = {"reward": shared.scorer("reward", variant.reward), "cost": shared.scorer("cost", variant.cost)}
    origin = variant.limit_from or config.limit_from
    wired = {
        "actor": shared.start,
        **{kind: {"type": "model", "path": plan.path(step)} for kind, step in steps.items()},
        "prompts": data.prompts,
        "ptx": data.ptx,
        **({"validation": {"prompts": data.validation}} if data.validation else {}),
        **({"limit_from": shared.safety} if origin == "labels" else {}),
    }
    tree = merge([config.ppo_lag, shared.round.ppo_lag, variant.ppo_lag, wired])
    return plan.add(f"policies/{variant.name}", PPO_LAG, tree, [*shared.made_by, *steps.values()])


def _imitate(shared: Shared, variant: SafeSftVariant | RejectionVariant, keep: Tree, after: Sequence[str]) -> Path:
    """The first policy, trained further on some of its own answers."""
    plan, step = shared.plan, f"policies/{variant.name}-answers"
    answers = plan.add(step, SELECT, {"keep": keep}, after)
    wired = {"model": shared.start, "demonstrations": [file_source(answers, "demonstrations.jsonl")]}
    tree = merge([shared.config.sft, variant.sft, wired])
    return plan.add(f"policies/{variant.name}", TRAIN_SFT, tree, [step, *shared.made_by])


def _prefer(
    shared: Shared, variant: MocanVariant | CDpoVariant, suffix: str, lam: Tree, after: Sequence[str]
) -> Path:
    """DPO from the first policy on pairs of its scored answers."""
    plan, name = shared.plan, f"policies/{variant.name}{suffix}"
    tree = merge([variant.pairs, _scored(shared), {"lam": lam}])
    pairs = plan.add(f"{name}-pairs", MAKE_PAIRS, tree, [*after, SCORED])
    wired = {
        "policy": shared.start,
        "pairs": [file_source(pairs, "pairs.jsonl")],
        "method": {"type": "dpo"},
        "beta": variant.beta,
    }
    tree = merge([shared.config.direct, variant.direct, wired])
    return plan.add(name, DIRECT, tree, [f"{name}-pairs", *shared.made_by])


def _descend(shared: Shared, variant: CDpoVariant) -> Path:
    """DPO in rounds: each policy answers the training prompts, and λ steps by what that costs."""
    plan = shared.plan
    limit, after = _limit(shared, variant)
    lam: Tree = {"type": "given", "value": variant.start}
    for k in range(1, variant.rounds):
        suffix = f"-{k}"
        policy = _prefer(shared, variant, suffix, lam, after)
        name = f"policies/{variant.name}{suffix}"
        once = {"samples_per_prompt": 1}
        answers = _answer_scored(shared, f"{name}-answers", policy, [name], once)
        step = {"before": plan.path(f"{name}-pairs"), "answers": [{"path": str(answers)}], "lr": variant.lr}
        lam, after = {"type": "stepped", **step, **limit}, [*after, f"{name}-pairs", f"{name}-answers"]
    return _prefer(shared, variant, "", lam, after)


def _scored(shared: Shared) -> Tree:
    """The first policy's scored answers to the training prompts; made when they are first asked for."""
    if SCORED not in [step.name for step in shared.plan.steps]:
        _answer_scored(shared, SCORED, shared.start, shared.made_by, {})
    return {"responses": [{"path": str(shared.plan.path(SCORED))}]}


def _answer_scored(shared: Shared, step: str, policy: Path, made_by: Sequence[str], settings: Tree) -> Path:
    """Answers of a policy to the training prompts, with the run's own rewards and costs."""
    config = shared.config
    wired = {"policy": policy, "prompts": shared.data.prompts, **_scorers(shared), **settings}
    tree = merge([config.respond, shared.round.respond, config.scored_respond, wired])
    return shared.plan.add(step, RESPOND, tree, [*made_by, *_scored_by(shared), *shared.data.after])


def _limit(shared: Shared, variant: MocanVariant | CDpoVariant) -> tuple[Tree, list[str]]:
    """A limit on the mean cost and the steps that it waits for: from cost 0, or from the answers labelled safe."""
    plan = shared.plan
    if (variant.limit_from or shared.config.limit_from) == "zero":
        return {"limit": variant.limit}, []
    if SAFE not in [step.name for step in plan.steps]:
        keep = {"type": "labelled_safe", "labels": shared.safety}
        safe = plan.add(f"{SAFE}-answers", SELECT, {"keep": keep}, shared.labelled)
        tree = {"responses": [{"path": str(safe)}], "cost": _scorers(shared)["cost"]}
        plan.add(SAFE, SCORE, tree, [f"{SAFE}-answers", *_scored_by(shared)])
    return {"limit": variant.limit, "limit_from": [{"path": str(plan.path(SAFE))}]}, [SAFE]


def _scored_by(shared: Shared) -> list[str]:
    return [shared.scorer("reward", OWN), shared.scorer("cost", OWN)]


def _scorers(shared: Shared) -> Tree:
    """The run's own reward and cost model as sources of scores, with the settings they have in RL."""
    rl = merge([shared.config.ppo_lag, shared.round.ppo_lag])
    return {
        kind: merge([rl.get(kind, {}), {"type": "model", "path": shared.plan.path(shared.scorer(kind, OWN))}])
        for kind in ("reward", "cost")
    }


def _answer(shared: Shared, name: str, policy: Path, made_by: Sequence[str]) -> None:
    """Held-out answers of one policy, scored by the run's own reward and cost model."""
    plan = shared.plan
    judges = [shared.scorer("reward", OWN), shared.scorer("cost", OWN)]
    wired = {
        "policy": policy,
        "prompts": shared.data.held_out,
        "name": name,
        "reward": {"type": "model", "path": plan.path(judges[0])},
        "cost": {"type": "model", "path": plan.path(judges[1])},
    }
    tree = merge([shared.config.held_out_respond, wired])
    plan.add(f"answers/{name}", RESPOND, tree, [*made_by, *judges, *shared.data.after])


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
