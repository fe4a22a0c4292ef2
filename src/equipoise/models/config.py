"""Settings of merging, without torch."""

import math
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from equipoise.config import Config


class MergeConfig(Config):
    """Policies of one architecture → a policy whose weights are a weighted mean of theirs."""

    out: Path = Field(description="Directory to write.")
    policies: tuple[Path, ...] = Field(min_length=2, description="Directories of the policies.")
    weights: tuple[float, ...] = Field((), description="One number per policy; together 1. Unset: see points.")
    points: int | None = Field(
        None,
        ge=2,
        le=101,
        description="Instead of weights, of two policies: so many evenly spaced merges, ends included, each in a "
        "directory point-W inside out, where W is the weight of the second.",
    )
    extrapolate: bool = Field(
        False, description="Allow weights below 0 or above 1, which go on beyond the policies themselves."
    )

    @model_validator(mode="after")
    def _says_how_much_of_each(self) -> Self:
        if bool(self.weights) == (self.points is not None):
            raise ValueError("give either weights or points")
        if self.points is not None:
            if len(self.policies) != 2:
                raise ValueError(f"points lie between two policies, not {len(self.policies)}")
            if self.extrapolate:
                raise ValueError("points lie between the policies: for merges beyond them give weights")
            return self
        if len(self.weights) != len(self.policies):
            raise ValueError(f"{len(self.policies)} policies need as many weights, not {len(self.weights)}")
        if not math.isclose(sum(self.weights), 1.0, abs_tol=1e-6):
            raise ValueError(f"weights must add up to 1, not {sum(self.weights):g}")
        if not self.extrapolate and not all(0 <= weight <= 1 for weight in self.weights):
            raise ValueError("a weight is not between 0 and 1; extrapolate = true allows that")
        return self
