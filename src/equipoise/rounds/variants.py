"""The variants of a study: what makes each policy, from what all of them share.

RL with other settings, imitation of some of the first policy's answers, direct preference training, the offline
dual methods, and steering of what is trained already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from equipoise.config import merge
from equipoise.models.config import MergeConfig
from equipoise.rollout.config import BestOf
from equipoise.rollout.stored_config import PairsConfig, ScoreConfig, SelectConfig
from equipoise.rounds.config import (
    SFT,
    BestOfVariant,
    CDpoVariant,
    DirectVariant,
    MergeVariant,
    MocanVariant,
    PpoLagVariant,
    RejectionVariant,
    RoundConfig,
    SafeSftVariant,
    ScoredPairsVariant,
    StudyConfig,
    Tree,
    Variant,
)
from equipoise.rounds.plan import (
    PPO_LAG,
    RESPOND,
    TRAIN_SFT,
    Data,
    Plan,
    Sources,
    Stage,
    file_source,
    wire_ppo_lag,
)
from equipoise.train.direct_config import DirectConfig

MERGE = Stage("equipoise.models.merge:merge", MergeConfig)
DIRECT = Stage("equipoise.train.direct:train_direct", DirectConfig)
MAKE_PAIRS = Stage("equipoise.rollout.pairs:make_pairs", PairsConfig)
SCORE = Stage("equipoise.train.rescore:score_stored", ScoreConfig)
SELECT = Stage("equipoise.rollout.select:select", SelectConfig)
OWN = ""
"""Name of the run's own reward and cost model among the others."""
SCORED, SAFE = "shared/scored", "shared/safe"
"""The first policy's answers with scores, and those of its labelled answers that are safe, with costs."""


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

    def policy(self, name: str) -> tuple[Path, Sequence[str]]:
        """A variant's policy or the first one, and the steps that make it."""
        step = f"policies/{name}"
        return (self.start, self.made_by) if name == SFT else (self.plan.path(step), (step,))

    def scorer(self, kind: Literal["reward", "cost"], name: str) -> str:
        """The step that makes a reward or cost model."""
        return f"{kind}s/{name}" if name else f"shared/{kind}"


def answer_variant(shared: Shared, variant: Variant) -> None:
    """Make the policy of a variant, and let it answer the held-out prompts."""
    match variant:
        case BestOfVariant():
            best_of = variant.model_dump(include=set(BestOf.model_fields))
            answer(shared, variant.name, *shared.policy(variant.policy), {"best_of": best_of})
            return
        case PpoLagVariant():
            _play(shared, variant)
        case SafeSftVariant():
            _imitate(shared, variant, {"type": "labelled_safe", "labels": shared.safety}, shared.labelled)
        case RejectionVariant():
            keep = {"type": "best_scored", **_scored(shared), "cost_limit": variant.cost_limit}
            _imitate(shared, variant, keep, [SCORED])
        case DirectVariant():
            _train_directly(shared, variant)
        case MocanVariant():
            limit, after = _limit(shared, variant)
            _prefer(shared, variant, "", {"type": "found", "beta": variant.beta, **limit}, after)
        case CDpoVariant():
            _descend(shared, variant)
        case MergeVariant():
            _merge(shared, variant)
    answer(shared, variant.name, *shared.policy(variant.name))


def answer(
    shared: Shared, name: str, policy: Path, made_by: Sequence[str], settings: Mapping[str, Any] | None = None
) -> None:
    """Held-out answers of one policy, scored by the run's own reward and cost model."""
    plan = shared.plan
    judges = _scored_by(shared)
    wired = {
        "policy": policy,
        "prompts": shared.data.held_out,
        "name": name,
        "reward": {"type": "model", "path": plan.path(judges[0])},
        "cost": {"type": "model", "path": plan.path(judges[1])},
    }
    tree = merge([shared.config.held_out_respond, settings or {}, wired])
    plan.add(f"answers/{name}", RESPOND, tree, [*made_by, *judges, *shared.data.after])


def _play(shared: Shared, variant: PpoLagVariant) -> Path:
    """PPO-Lag from the first policy."""
    plan, config, data = shared.plan, shared.config, shared.data
    reward, cost = shared.scorer("reward", variant.reward), shared.scorer("cost", variant.cost)
    labels = shared.safety if (variant.limit_from or config.limit_from) == "labels" else None
    tree = wire_ppo_lag(
        merge([config.ppo_lag, shared.round.ppo_lag, variant.ppo_lag]),
        data,
        shared.start,
        reward=plan.path(reward),
        cost=plan.path(cost),
        prompts=data.prompts,
        limit_from=labels,
    )
    return plan.add(f"policies/{variant.name}", PPO_LAG, tree, [*shared.made_by, reward, cost])


def _imitate(shared: Shared, variant: SafeSftVariant | RejectionVariant, keep: Tree, after: Sequence[str]) -> Path:
    """The first policy, trained further on some of its own answers."""
    plan, step = shared.plan, f"policies/{variant.name}-answers"
    answers = plan.add(step, SELECT, {"keep": keep}, after)
    wired = {"model": shared.start, "demonstrations": [file_source(answers, "demonstrations.jsonl")]}
    tree = merge([shared.config.sft, variant.sft, wired])
    return plan.add(f"policies/{variant.name}", TRAIN_SFT, tree, [step, *shared.made_by])


def _train_directly(shared: Shared, variant: DirectVariant) -> Path:
    """The first policy or an earlier variant, trained on the shared pairs."""
    start, made_by = shared.policy(variant.start)
    tree = merge([shared.config.direct, variant.direct, {"policy": start, "pairs": shared.pairs}])
    method, after = _with_own_scorer(shared, tree.get("method", {}))
    tree["method"] = method
    return shared.plan.add(f"policies/{variant.name}", DIRECT, tree, [*made_by, *shared.labelled, *after])


def _with_own_scorer(shared: Shared, method: Tree) -> tuple[Tree, list[str]]:
    """A direct method, if it is MODPO without a scorer, with the run's own; and the step that makes that."""
    if method.get("type") != "modpo" or "other" in method:
        return method, []
    step = shared.scorer("reward" if method.get("by") == "harmlessness" else "cost", OWN)
    return {**method, "other": {"type": "model", "path": shared.plan.path(step)}}, [step]


def _merge(shared: Shared, variant: MergeVariant) -> Path:
    """A weighted mean of policies that are made before."""
    policies, steps = zip(*(shared.policy(name) for name in variant.of), strict=True)
    tree = {"policies": policies, "weights": list(variant.of.values()), "extrapolate": variant.extrapolate}
    return shared.plan.add(f"policies/{variant.name}", MERGE, tree, [step for some in steps for step in some])


def _prefer(shared: Shared, variant: ScoredPairsVariant, suffix: str, lam: Tree, after: Sequence[str]) -> Path:
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


def _limit(shared: Shared, variant: ScoredPairsVariant) -> tuple[Tree, list[str]]:
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
