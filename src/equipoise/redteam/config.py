"""Settings of the `redteam` stage, without torch."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from equipoise.config import Config
from equipoise.data.source import DataSource
from equipoise.rollout.config import Device, NativeSettings, Precision, SamplerConfig, Sampling, ScoreSourceConfig


class RedteamConfig(Config):
    """A search for prompts that a policy answers unsafely."""

    out: Path = Field(description="Directory to write.")
    policy: Path = Field(description="Directory of the policy under attack.")
    cost: ScoreSourceConfig = Field(description="Who says how harmful an answer is; cost > 0 is unsafe.")
    prompts: tuple[DataSource, ...] = Field(
        min_length=1, description="Seed prompts; those known to be harmless or look-alikes are skipped."
    )
    exclude: tuple[DataSource, ...] = Field(
        (), description="Evaluation sets: what overlaps with their prompts is never attacked, nor returned."
    )
    wrappers: Path | None = Field(
        None, description="Attack wrappers, JSON Lines of {name, messages}; unset: those that ship."
    )
    generations: int = Field(4, ge=1, description="Rounds of the search; the first wraps, later ones mutate.")
    samples: int = Field(2, ge=1, description="Answers drawn to each attack; the costliest one counts.")
    budget: int = Field(4000, ge=1, description="Answers of the policy to spend in all.")
    threshold: float = Field(0.0, description="An answer that costs more than this is a hit.")
    keep: float = Field(
        0.5, gt=0, le=1, description="Share of the unbroken seeds, the costliest ones, that mutate further."
    )
    max_wrappers: int = Field(3, ge=1, description="Most wrappers and affixes in one attack.")
    max_seeds: int | None = Field(
        None, ge=1, description="Attack this many seeds, spread over categories; unset: all."
    )
    max_hits: int | None = Field(
        None, ge=1, description="Return this many hits, spread over categories; unset: all."
    )
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="Hits of one attack whose seeds share more of their word pairs are one."
    )
    sampling: Sampling = Field(Sampling(), description="How answers are drawn.")
    sampler: SamplerConfig = Field(NativeSettings(), description="What draws them.")
    max_prompt_length: int = Field(512, ge=1, description="Longer attacks, in tokens, are left out and counted.")
    batch_size: int = Field(64, ge=1, description="Answers per batch.")
    seed: int = Field(42, ge=0, description="Seed of the search and of the sampling.")
    device: Device = Field("auto", description="auto takes cuda, then mps, then cpu.")
    precision: Precision = Field("float32", description="Precision of the policy.")

    @model_validator(mode="after")
    def _one_attack_fits(self) -> Self:
        if self.samples > min(self.batch_size, self.budget):
            raise ValueError("samples is the price of one attack: neither batch_size nor budget may be below it")
        return self
