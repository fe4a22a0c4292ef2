"""The settings of direct preference training, without torch."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from equipoise.config import Config
from equipoise.data.source import DataSource
from equipoise.rollout.config import GuardScore, ScoreSourceConfig
from equipoise.train.config import LoraSettings, OptimizerSettings, TrainConfig

Preference = Literal["helpfulness", "harmlessness"]


class Dpo(Config):
    """−ln σ(β·h): DPO by one of the two preferences."""

    type: Literal["dpo"] = "dpo"
    by: Preference = Field("helpfulness", description="Which of the two preferences says who wins.")


class SafeDpo(Config):
    """−ln σ(β·h − (u_l − u_w)·Δ) on helpfulness pairs in which no unsafe response wins."""

    type: Literal["safe_dpo"] = "safe_dpo"
    margin: float = Field(
        2.0, ge=0, description="Δ: by how much more a safe winner must lead an unsafe loser, in units of β·h."
    )


class Modpo(Config):
    """−ln σ((β·h − (1 − w)·Δ_other)/w): the pairs for one objective, frozen scores for the other."""

    type: Literal["modpo"] = "modpo"
    by: Preference = Field("helpfulness", description="Which of the two preferences says who wins.")
    other: ScoreSourceConfig = Field(
        description="Scores of the other objective: costs where the pairs are by helpfulness (they count "
        "negatively), rewards where they are by harmlessness."
    )
    weight: float = Field(0.5, gt=0, lt=1, description="w: weight of the pairs; the other objective has 1 − w.")

    @model_validator(mode="after")
    def _has_the_other(self) -> Self:
        if self.by == "harmlessness" and isinstance(self.other, GuardScore):
            raise ValueError(
                "method.other is a guard, whose scores are costs, and the pairs are by harmlessness, too: "
                "give rewards, or set method.by = 'helpfulness'"
            )
        return self


Method = Annotated[Dpo | SafeDpo | Modpo, Field(discriminator="type")]


class DirectConfig(TrainConfig):
    """A policy from preference pairs, without a reward model and without sampling."""

    policy: Path = Field(description="Policy to start from.")
    ref: Path | None = Field(None, description="Frozen reference policy; unset: the start.")
    pairs: tuple[DataSource, ...] = Field(min_length=1, description="Files of preference pairs.")
    method: Method = Field(description="Which response of a pair wins, and by how much.")
    beta: float = Field(0.1, gt=0, description="β: weight of the KL term; the smaller, the further from the ref.")
    micro_batch: int | None = Field(
        None, ge=1, description="Pairs per forward pass; unset: the whole batch. Never changes the gradient."
    )
    epochs: float = Field(1, gt=0, description="Passes over the pairs.")
    batch_size: int = Field(32, ge=1, description="Pairs per optimizer step, over all processes.")
    held_out: float = Field(0.1, ge=0, lt=1, description="Share of prompts kept to measure implicit accuracy.")
    lora: LoraSettings | None = Field(None, description="Train an adapter; unset: all weights.")
    optimizer: OptimizerSettings = Field(OptimizerSettings(lr=1e-6), description="Optimizer and schedule.")
