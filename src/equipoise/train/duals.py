"""How a multiplier λ follows its constraint: the choices, and the one place that tells them apart.

Another controller is a class here, an arm in `move`, and its formula in `algos.lagrange` (docs/extending.md). No
torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from equipoise.algos import lagrange
from equipoise.algos.lagrange import LagrangeState
from equipoise.config import Config


class DualSettings(Config):
    """What all controllers share."""

    start: float = Field(
        1.0, ge=0, description="λ before the first step; of each constraint if there are several."
    )
    floor: float = Field(0.0, ge=0, description="λ never falls below.")
    ceiling: float = Field(5.0, gt=0, description="λ never rises above.")
    window: int | None = Field(
        None,
        ge=1,
        description="W: responses that the constraint is estimated from, all processes; unset: one rollout batch.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.floor <= self.start <= self.ceiling:
            raise ValueError("floor ≤ start ≤ ceiling must hold")
        return self


class LogAscent(DualSettings):
    """ln λ ← ln λ + α·λ·ĝ (Safe RLHF): slow where λ is small, fast where it is large."""

    type: Literal["log"] = "log"
    lr: float = Field(0.1, gt=0, description="α.")
    floor: float = Field(1e-3, gt=0, description="λ never falls below: from 0 it could not come back.")


class ProjectedAscent(DualSettings):
    """λ ← λ + α·ĝ, kept within floor and ceiling."""

    type: Literal["projected"] = "projected"
    lr: float = Field(0.1, gt=0, description="α.")


class Optimistic(DualSettings):
    """λ ← λ + α·(2·ĝ − ĝ₋₁): ascent that reckons with the trend."""

    type: Literal["optimistic"] = "optimistic"
    lr: float = Field(0.1, gt=0, description="α.")


class Pid(DualSettings):
    """λ from the excess, its sum and its rise (PID), with anti-windup."""

    type: Literal["pid"] = "pid"
    kp: float = Field(0.1, ge=0, description="k_p: weight of the excess.")
    ki: float = Field(0.05, ge=0, description="k_i: weight of its sum over steps, which starts at `start`.")
    kd: float = Field(0.1, ge=0, description="k_d: weight of its rise since the last step.")


Dual = Annotated[LogAscent | ProjectedAscent | Optimistic | Pid, Field(discriminator="type")]


def first_state(dual: Dual) -> LagrangeState:
    """λ before the first step."""
    return LagrangeState(dual.start, integral=dual.start if isinstance(dual, Pid) else 0.0)


def move(dual: Dual, state: LagrangeState, excess: float) -> LagrangeState:
    """λ after one rollout batch.

    Args:
        dual: The settings.
        state: Before it.
        excess: ĝ, > 0 where the constraint is broken.

    Raises:
        TrainingError: The excess is not finite.
    """
    bounds = {"floor": dual.floor, "ceiling": dual.ceiling}
    match dual:
        case LogAscent(lr=lr):
            return lagrange.log_dual_step(state, excess, lr=lr, **bounds)
        case ProjectedAscent(lr=lr):
            return lagrange.projected_step(state, excess, lr=lr, **bounds)
        case Optimistic(lr=lr):
            return lagrange.optimistic_step(state, excess, lr=lr, **bounds)
        case Pid(kp=kp, ki=ki, kd=kd):
            return lagrange.pid_step(state, excess, kp=kp, ki=ki, kd=kd, **bounds)
