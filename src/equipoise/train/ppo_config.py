"""The settings of RL, without torch: one run of PPO-Lagrangian and its relatives.

Three axes are chosen apart: `advantage` (what a token is worth), `constraint` (what must not be exceeded) and
`dual` (how λ follows it). Defaults are those of Safe RLHF (METHOD §6).
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from equipoise.config import Config
from equipoise.data.source import DataSource
from equipoise.rollout.config import (
    ModelScore,
    NativeSettings,
    SamplerConfig,
    Sampling,
    ScoreSourceConfig,
    VllmServerSettings,
    VllmSettings,
)
from equipoise.train.config import OptimizerSettings, SharedLora, TrainConfig
from equipoise.train.constraints import CategoryCosts, Constraint, Limited, MeanCost, Unconstrained
from equipoise.train.duals import Dual, LogAscent


class Gae(Config):
    """Generalised advantage estimation with a critic for each stream (PPO)."""

    type: Literal["gae"] = "gae"
    gamma: float = Field(1.0, gt=0, le=1, description="Discount.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="GAE's λ.")
    clip_value: float = Field(5.0, gt=0, description="Range of the clipped value loss.")
    shared_trunk: bool = Field(
        False,
        description="One critic with two heads, from the cost critic's start: one network less, and one pass.",
    )


class GroupRelative(Config):
    """(score − mean)/deviation among the responses to a prompt (GRPO), each stream for itself; no critic."""

    type: Literal["group"] = "group"


class LeaveOneOut(Config):
    """Score − mean of the other responses to the same prompt (RLOO), each stream for itself; no critic."""

    type: Literal["rloo"] = "rloo"


Stream = Literal["reward", "cost"]
"""Each has its own scores, returns and advantages."""
Advantage = Annotated[Gae | GroupRelative | LeaveOneOut, Field(discriminator="type")]


class Validation(Config):
    """Held-out prompts that are answered at intervals during RL."""

    prompts: tuple[DataSource, ...] = Field(min_length=1, description="Files of prompts never trained on.")
    every: int = Field(20, ge=1, description="Steps between evaluations.")
    limit: int = Field(256, ge=1, description="Prompts per evaluation.")


class PpoLagConfig(TrainConfig):
    """One run of PPO-Lagrangian (METHOD §5)."""

    actor: Path = Field(description="Policy to start from.")
    ref: Path | None = Field(None, description="Frozen reference policy; unset: the actor's start.")
    reward: ScoreSourceConfig = Field(description="Where rewards come from.")
    cost: ScoreSourceConfig = Field(description="Where costs come from; cost > 0 is unsafe.")
    reward_critic: Path | None = Field(None, description="Scorer the reward critic starts from; unset: `reward`.")
    cost_critic: Path | None = Field(None, description="Scorer the cost critic starts from; unset: `cost`.")
    lora: SharedLora | None = Field(
        None,
        description="Train adapters on frozen weights that the roles share; unset: all weights.",
    )
    prompts: tuple[DataSource, ...] = Field(min_length=1, description="Files of prompts to answer.")
    ptx: tuple[DataSource, ...] = Field((), description="Demonstrations for the PTX term; none: no such term.")
    ptx_coef: float = Field(16.0, ge=0, description="γ_ptx: weight of the PTX loss.")
    validation: Validation | None = Field(None, description="Held-out prompts; unset: none.")
    keep: Literal["best_feasible", "last"] = Field(
        "best_feasible",
        description="Which policy is the result: the feasible one with the highest held-out reward, or the last.",
    )
    advantage: Advantage = Field(Gae(), description="What a token is worth.")
    constraint: Constraint = Field(MeanCost(), description="What must not be exceeded.")
    dual: Dual = Field(LogAscent(), description="How λ follows the constraint.")
    limit_from: tuple[DataSource, ...] = Field(
        (),
        description="Files of safety labels: the limits count from the mean cost of the answers that they call "
        "safe. Unset: from 0.",
    )
    sampling: Sampling = Field(Sampling(), description="How responses are sampled.")
    sampler: SamplerConfig = Field(NativeSettings(), description="What samples them.")
    sampler_weight_ceiling: float = Field(
        2.0,
        ge=1,
        description="C: the largest importance weight of a token. Only for samplers with weights of their own; "
        "the others draw from the actor itself.",
    )
    max_prompt_length: int = Field(256, ge=1, description="Longest prompt in tokens.")
    too_long: Literal["refuse", "drop"] = Field(
        "refuse", description="Longer prompts: stop and name them, or leave them out."
    )
    epochs: float = Field(1, gt=0, description="Passes over the prompts; `steps` overrides it.")
    steps: int | None = Field(None, ge=1, description="Rollout batches in all; unset: from `epochs`.")
    batch_size: int = Field(16, ge=1, description="Prompts per rollout batch, over all processes.")
    samples_per_prompt: int = Field(1, ge=1, description="G: responses to each prompt of a batch.")
    ptx_batch_size: int | None = Field(None, ge=1, description="Demonstrations per step; unset: batch_size.")
    update_iters: int = Field(1, ge=1, description="Passes over each rollout batch.")
    kl_coef: float = Field(0.01, ge=0, description="κ: weight of the KL term in each stream (β/2 of the paper).")
    clip_ratio: float = Field(0.2, gt=0, lt=1, description="ε of the clipped surrogate.")
    clip_score: float = Field(50.0, gt=0, description="Shaped rewards and costs are clamped to ± this.")
    unfinished_penalty: float = Field(0.0, ge=0, description="Taken off the reward of a response that never ends.")
    actor_optimizer: OptimizerSettings = Field(
        OptimizerSettings(lr=1e-5, weight_decay=0.01), description="Actor's optimizer."
    )
    critic_optimizer: OptimizerSettings = Field(
        OptimizerSettings(lr=5e-6, schedule="constant"), description="Both critics' optimizer."
    )

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its response."""
        return self.max_prompt_length + self.sampling.max_new_tokens

    @property
    def streams(self) -> tuple[Stream, ...]:
        """What advantages are computed from: costs only where they teach something."""
        return ("reward",) if isinstance(self.constraint, Unconstrained) else ("reward", "cost")

    @property
    def critics(self) -> dict[str, tuple[Stream, ...]]:
        """Name of each critic → the streams whose values it gives; none where advantages need none."""
        if not isinstance(self.advantage, Gae):
            return {}
        if self.advantage.shared_trunk:
            return {"critic": self.streams[::-1]}
        return {f"{stream}_critic": (stream,) for stream in self.streams}

    @property
    def critic_starts(self) -> dict[str, Path]:
        """Name of each critic → the scorer that it starts from; of one for both streams, that of the costs."""
        found = {}
        for name, (stream, *_) in self.critics.items():
            source: ScoreSourceConfig = getattr(self, stream)
            start = getattr(self, f"{stream}_critic") or (source.path if isinstance(source, ModelScore) else None)
            if start is not None:
                found[name] = start
        return found

    @model_validator(mode="after")
    def _is_runnable(self) -> Self:
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature 0 leaves nothing to learn from: one answer has probability 1")
        if self.hardware.shard and isinstance(self.sampler, VllmSettings | VllmServerSettings):
            raise ValueError("vLLM is given whole networks: set hardware.shard = false, or take sampler native")
        if self.hardware.shard and self.lora is not None:
            raise ValueError(
                "hardware.shard and lora exclude each other here: the roles share one frozen base, which is in "
                "memory once. Leave shard off: several processes then add up the gradients of the adapters"
            )
        return self

    @model_validator(mode="after")
    def _critics_fit(self) -> Self:
        for name, streams in self.critics.items():
            if name not in self.critic_starts:
                raise ValueError(
                    f"{streams[0]} is not a model: say which scorer the critic starts from in {streams[0]}_critic"
                )
        wanted = {stream for streams in self.critics.values() for stream in streams[:1]}
        for stream in ("reward", "cost"):
            if getattr(self, f"{stream}_critic") is not None and stream not in wanted:
                raise ValueError(
                    f"{stream}_critic is set, but advantage {self.advantage.type!r} with constraint "
                    f"{self.constraint.type!r} has no critic that starts there: leave it out"
                )
        if isinstance(self.advantage, Gae):
            if self.advantage.shared_trunk and len(self.streams) == 1:
                raise ValueError("advantage.shared_trunk is of two critics, and without a constraint there is one")
        elif self.samples_per_prompt == 1:
            raise ValueError(
                f"advantage {self.advantage.type!r} compares the responses to one prompt, and "
                "samples_per_prompt is 1: set it to 4 or more, or take advantage gae"
            )
        return self

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.limit_from and not isinstance(self.constraint, Limited):
            raise ValueError(
                f"constraint {self.constraint.type!r} has no limit, so there is nothing to count from limit_from"
            )
        if isinstance(self.constraint, CategoryCosts) and not isinstance(self.cost, ModelScore):
            raise ValueError("constraint 'categories' needs a cost model with an output for each category")
        return self
