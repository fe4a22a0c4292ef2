"""Settings of a run of several rounds: what stays the same, and what each stage is told.

A stage's table holds its own settings; what the plan wires (directories, seeds) is not among them. Settings of a
round lie over those of all rounds.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from equipoise.config import Config
from equipoise.data.source import DataSource
from equipoise.rollout.config import BestOf

Tree = dict[str, Any]
SFT = "sft"
"""What the first policy is called."""
LimitOrigin = Literal["zero", "labels"]


class PrepareConfig(Config):
    """A function of somebody else's that makes the run's data."""

    out: Path = Field(description="Directory that it writes.")
    seed: int = Field(0, ge=0, description="Passed on.")
    function: str = Field(description="package.module:function, called with out, seed and the settings.")
    settings: Tree = Field({}, description="Further arguments.")


class GatherConfig(Config):
    """The prompts of one round."""

    out: Path = Field(description="Directory to write.")
    prompts: tuple[DataSource, ...] = Field(min_length=1, description="Prompts of every round.")
    attacks: tuple[Path, ...] = Field((), description="Finished red-team directories of earlier rounds.")


class RoundConfig(Config):
    """What differs from round to round; each table is merged over the run's table of the same name."""

    respond: Tree = Field({}, description="Settings of `respond`: answers to be labelled.")
    simulate: Tree = Field({}, description="Settings of `annotate simulate`.")
    reward: Tree = Field({}, description="Settings of `reward`.")
    cost: Tree = Field({}, description="Settings of `cost`.")
    ppo_lag: Tree = Field({}, description="Settings of `ppo-lag`.")
    redteam: Tree = Field({}, description="Settings of `redteam`, against the policy of this round.")
    preferences: tuple[DataSource, ...] = Field(
        (), description="Pairs that people labelled for this round, instead of simulated labels."
    )


class RunConfig(Config):
    """Rounds of Safe RLHF from one recipe."""

    out: Path = Field(Path("runs/run"), description="Directory of the run; each stage gets one inside it.")
    seed: int = Field(0, ge=0, description="Seed of every stage.")
    jobs: int = Field(1, ge=1, description="Processes: one for each of the stages that may run at once.")
    spread: tuple[Literal["sft", "reward", "cost", "ppo_lag"], ...] = Field(
        (), description="Training stages that take all processes at once, data-parallel: on several GPUs or cores."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of each stage; unset: all cores.")
    title: str = Field("Safe RLHF report", description="Heading of the report.")
    notes: tuple[str, ...] = Field((), description="What the report's reader must know.")
    limit_from: LimitOrigin = Field(
        "zero",
        description="Where the limits of `ppo_lag.constraint` count from: cost 0, or the mean cost of the answers "
        "that were labelled safe in the same round.",
    )
    go_on: bool = Field(
        False,
        description="From round 2 on, train the reward and cost models of the round before on all labels so far, "
        "instead of starting from `sft` again: fewer epochs do.",
    )
    prepare: str | None = Field(
        None, description="package.module:function that makes the data first; called with out and seed."
    )
    prepare_settings: Tree = Field({}, description="Further arguments of `prepare`.")
    model: Path | None = Field(None, description="Base model; unset: `base` of what `prepare` made.")
    policy: Path | None = Field(None, description="Policy to start from, instead of `sft` on a base model.")
    demonstrations: tuple[DataSource, ...] = Field((), description="Demonstrations for SFT.")
    ptx: tuple[DataSource, ...] = Field((), description="Demonstrations for the PTX term of RL.")
    prompts: tuple[DataSource, ...] = Field((), description="Prompts to label and to train on.")
    validation: tuple[DataSource, ...] = Field((), description="Prompts to evaluate on during RL.")
    held_out: tuple[DataSource, ...] = Field((), description="Prompts of the final evaluation, never trained on.")
    wrappers: Path | None = Field(None, description="Red-team wrappers; unset: the ones that ship.")
    sft: Tree = Field({}, description="Settings of `sft`.")
    respond: Tree = Field({}, description="Settings of `respond` in every round.")
    simulate: Tree = Field({}, description="Settings of `annotate simulate` in every round.")
    reward: Tree = Field({}, description="Settings of `reward` in every round.")
    cost: Tree = Field({}, description="Settings of `cost` in every round.")
    ppo_lag: Tree = Field({}, description="Settings of `ppo-lag` in every round.")
    redteam: Tree = Field({}, description="Settings of `redteam` in every round.")
    held_out_respond: Tree = Field({}, description="Settings of `respond` on the held-out prompts.")
    evaluate: Tree = Field({}, description="Settings of `evaluate`.")
    rounds: tuple[RoundConfig, ...] = Field((RoundConfig(),), min_length=1, description="The rounds, in order.")


class RewardVariant(Config):
    """Another reward model than the run's own."""

    question: Literal["helpfulness", "single"] = Field(
        "helpfulness",
        description="What the labels answer; single: the one mixed question, which every item must be asked "
        "(simulate.single_share = 1).",
    )
    settings: Tree = Field({}, description="Laid over the run's settings of `reward`.")


class NamedVariant(Config):
    """What every variant has."""

    name: str = Field(pattern=r"^[\w.-]+$", description="Name of the policy, and of its directories.")


class PpoLagVariant(NamedVariant):
    """A policy trained by PPO-Lag with other settings or other scorers."""

    type: Literal["ppo_lag"] = "ppo_lag"
    reward: str = Field("", description="Which of `rewards` it is trained on; empty: the run's own reward model.")
    cost: str = Field("", description="Which of `costs` constrains it; empty: the run's own cost model.")
    limit_from: LimitOrigin | None = Field(
        None, description="Where its limits count from; unset: as the run says."
    )
    ppo_lag: Tree = Field({}, description="Laid over the settings of `ppo-lag`.")


class SafeSftVariant(NamedVariant):
    """The first policy, fine-tuned further on its own answers that labellers called safe."""

    type: Literal["safe_sft"] = "safe_sft"
    sft: Tree = Field({}, description="Laid over the settings of `sft`.")


class MergeVariant(NamedVariant):
    """A weighted mean of policies of the study."""

    type: Literal["merge"] = "merge"
    of: dict[str, float] = Field(
        min_length=2, description="Earlier variant, or sft for the first policy → its weight; together 1."
    )
    extrapolate: bool = Field(False, description="Allow weights below 0 or above 1.")


class BestOfVariant(NamedVariant, BestOf):
    """Another variant's policy, or the first one, that gives the best of n answers by the run's own scores."""

    type: Literal["best_of"] = "best_of"
    policy: str = Field(SFT, description="An earlier variant, or sft for the first policy.")


class DirectVariant(NamedVariant):
    """A policy trained on the shared pairs without RL."""

    type: Literal["direct"] = "direct"
    start: str = Field(
        SFT, description="Earlier variant whose policy is start and reference, or sft for the first policy."
    )
    direct: Tree = Field(
        {},
        description="Laid over the run's settings of `direct`; modpo without `other` takes the run's own cost "
        "model, or by harmlessness its reward model.",
    )


class ScoredPairsVariant(NamedVariant):
    """DPO on pairs by r − λc of the first policy's scored answers."""

    beta: float = Field(gt=0, description="β of DPO, and of the dual where there is one.")
    limit: float = Field(0.0, description="Limit on the mean cost.")
    limit_from: LimitOrigin | None = Field(None, description="Where it counts from; unset: as the run says.")
    pairs: Tree = Field({}, description="Settings of `data pairs`.")
    direct: Tree = Field({}, description="Laid over the settings of `direct`.")


class MocanVariant(ScoredPairsVariant):
    """DPO on such pairs, with λ found from the scores."""

    type: Literal["mocan"] = "mocan"


class CDpoVariant(ScoredPairsVariant):
    """DPO on such pairs again and again, each time from the first policy; λ follows what the last policy costs."""

    type: Literal["c_dpo"] = "c_dpo"
    rounds: int = Field(4, ge=2, description="Policies to train; the last one counts.")
    start: float = Field(0.0, ge=0, description="λ of the first of them.")
    lr: float = Field(0.1, gt=0, description="α: step of λ per unit of cost above the limit.")


class RejectionVariant(NamedVariant):
    """The first policy, fine-tuned on the best of its own scored answers within the cost limit."""

    type: Literal["rejection"] = "rejection"
    cost_limit: float = Field(0.0, description="Highest cost of an answer that is imitated.")
    sft: Tree = Field({}, description="Laid over the settings of `sft`.")


Variant = Annotated[
    PpoLagVariant
    | SafeSftVariant
    | DirectVariant
    | MocanVariant
    | CDpoVariant
    | RejectionVariant
    | MergeVariant
    | BestOfVariant,
    Field(discriminator="type"),
]


class StudyConfig(RunConfig):
    """The first of a recipe's rounds, played in several variants that share all they can."""

    rewards: dict[str, RewardVariant] = Field({}, description="Further reward models, by name.")
    costs: dict[str, Tree] = Field(
        {}, description="Further cost models: name → settings laid over the run's settings of `cost`."
    )
    direct: Tree = Field({}, description="Settings of `direct` in every variant.")
    scored_respond: Tree = Field(
        {},
        description="Laid over the settings of `respond` for scored answers, which methods without RL learn from.",
    )
    variants: tuple[Variant, ...] = Field(
        min_length=1, description="The policies to train, each from the same first policy."
    )

    @model_validator(mode="after")
    def _names_are_known_and_differ(self) -> Self:
        names = [variant.name for variant in self.variants]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two variants have the same name: {', '.join(sorted(twice))}")
        for variant in self.variants:
            if isinstance(variant, PpoLagVariant):
                for kind, wanted, known in (
                    ("reward", variant.reward, self.rewards),
                    ("cost", variant.cost, self.costs),
                ):
                    if wanted and wanted not in known:
                        raise ValueError(f"variant {variant.name}: there is no {kind} model {wanted!r} in {kind}s")
        return self

    @model_validator(mode="after")
    def _what_is_needed_comes_first(self) -> Self:
        made = {SFT}
        for variant in self.variants:
            needed: set[str] = set()
            match variant:
                case MergeVariant():
                    needed = set(variant.of)
                case BestOfVariant():
                    needed = {variant.policy}
                case DirectVariant():
                    needed = {variant.start}
            if missing := sorted(needed - made):
                raise ValueError(
                    f"variant {variant.name}: {missing[0]!r} is no policy that stands before it; these do: "
                    + ", ".join(sorted(made))
                )
            if not isinstance(variant, BestOfVariant):  # which has no weights of its own
                made.add(variant.name)
        return self
