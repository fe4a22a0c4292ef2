"""The multiplier λ ≥ 0: how it moves with the excess of a constraint, and how it mixes reward and cost.

    max_θ J_R(θ)  s.t.  g(θ) ≤ 0        ⇔        min_θ max_{λ≥0}  −J_R(θ) + λ·g(θ)

A controller is a function `step(state, excess, …) → state` on a frozen state, called once per rollout batch, so
the speed of λ does not depend on how a batch is cut. The excess ĝ is what `constraint` makes of a window of costs:
for the mean cost Ĵ_C − limit. Which controller runs is the loop's choice.
Sign: an excess above 0 breaks the constraint and raises λ. Source: Safe RLHF, arXiv 2310.12773; others at theirs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from equipoise.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

Number = TypeVar("Number")
_EXP = 500.0  # exp overflows above 709


@dataclass(frozen=True)
class LagrangeState:
    """What a controller remembers; part of every checkpoint."""

    lam: float  # λ ≥ 0; 0 is plain RL on the reward
    integral: float = 0.0  # PID: k_i·Σ ĝ, in units of λ
    last_excess: float | None = None  # PID and optimistic: ĝ of the step before; None before the first


def log_dual_step(
    state: LagrangeState, excess: float, *, lr: float, floor: float, ceiling: float
) -> LagrangeState:
    """Move λ by gradient ascent on its logarithm: ln λ ← ln λ + α·λ·ĝ, floor ≤ λ ≤ ceiling (the paper's).

    The step is proportional to λ, so without a floor a λ that once fell to 0 would never come back.

    Args:
        state: Before the step.
        excess: ĝ, in units of the constraint.
        lr: α > 0, per unit of ĝ.
        floor: Smallest λ, > 0.
        ceiling: Largest λ, ≥ floor.

    Returns:
        After the step.

    Raises:
        ValueError: Not 0 < floor ≤ ceiling.
        TrainingError: The excess is not finite.
    """
    if not floor > 0.0:
        raise ValueError(f"bounds of λ must satisfy 0 < floor <= ceiling, not {floor} and {ceiling}")
    moved = state.lam * math.exp(min(lr * state.lam * _finite(excess), _EXP))
    return LagrangeState(_between(moved, floor, ceiling))


def projected_step(
    state: LagrangeState, excess: float, *, lr: float, floor: float, ceiling: float
) -> LagrangeState:
    """Move λ by projected gradient ascent: λ ← clip(λ + α·ĝ, floor, ceiling).

    Its speed does not depend on λ, and it comes back from 0. Arguments and errors as in `log_dual_step`; the floor
    may be 0.
    """
    return LagrangeState(_between(state.lam + lr * _finite(excess), floor, ceiling))


def optimistic_step(
    state: LagrangeState, excess: float, *, lr: float, floor: float, ceiling: float
) -> LagrangeState:
    """Move λ by optimistic gradient ascent: λ ← clip(λ + α·(2·ĝ − ĝ₋₁), floor, ceiling).

    2·ĝ − ĝ₋₁ guesses the next excess from the trend of the last two, which damps the circling of two players who
    answer each other; on the first step ĝ₋₁ = ĝ. Arguments and errors as in `projected_step`.
    Source: optimistic primal-dual ascent, arXiv 2602.22146; Daskalakis et al., arXiv 1711.00141.
    """
    now = _finite(excess)
    before = now if state.last_excess is None else state.last_excess
    lam = _between(state.lam + lr * (2.0 * now - before), floor, ceiling)
    return LagrangeState(lam, last_excess=now)


def pid_step(
    state: LagrangeState, excess: float, *, kp: float, ki: float, kd: float, floor: float, ceiling: float
) -> LagrangeState:
    """Set λ by a PID controller: I ← I + k_i·ĝ, then λ = clip(k_p·ĝ + I + k_d·max(ĝ − ĝ₋₁, 0), floor, ceiling).

    The proportional term answers at once, the derivative one before the limit is crossed; it only ever raises λ.
    Anti-windup: I stays between floor and ceiling, and rests while λ is at the bound that ĝ would push it past.

    Args:
        state: Before the step; a new one has its integral at the first λ.
        excess: ĝ, in units of the constraint.
        kp: k_p ≥ 0, per unit of ĝ.
        ki: k_i ≥ 0, per unit of ĝ and step.
        kd: k_d ≥ 0, per unit of ĝ.
        floor: Smallest λ, ≥ 0.
        ceiling: Largest λ, ≥ floor.

    Returns:
        After the step.

    Raises:
        ValueError: Not 0 ≤ floor ≤ ceiling.
        TrainingError: The excess is not finite.

    Source: Stooke, Achiam, Abbeel 2020, arXiv 2007.03964, algorithm 2.
    """
    now = _finite(excess)
    before = now if state.last_excess is None else state.last_excess
    rise = kp * now + kd * max(now - before, 0.0)
    integral = _between(state.integral + ki * now, floor, ceiling)
    wanted = rise + integral
    if (now > 0.0 and wanted > ceiling) or (now < 0.0 and wanted < floor):
        integral = state.integral
    return LagrangeState(_between(rise + integral, floor, ceiling), integral, now)


def slide_window(window: Sequence[Number], newest: Sequence[Number], size: int) -> tuple[Number, ...]:
    """Append what a rollout batch brought and keep the last `size`: the window that ĝ is an estimate from.

    Args:
        window: Numbers so far, oldest first.
        newest: Those of this batch, from all processes in a fixed order.
        size: W ≥ 1 responses.

    Returns:
        At most W numbers, oldest first.

    Raises:
        ValueError: The size is below 1.
    """
    if size < 1:
        raise ValueError(f"a window holds at least one cost, not {size}")
    return (*window, *newest)[-size:]


def mix(reward_advantages: "Tensor", cost_advantages: "Tensor", lam: "Tensor | float") -> "Tensor":
    """Weigh reward against cost: A = (A_R − λ·A_C)/(1 + λ).

    The division keeps the size of the update, and the strength of the KL penalty, independent of λ. (1 + λ)
    appears here and nowhere else.

    Args:
        reward_advantages: (B, R).
        cost_advantages: (B, R); > 0 means a token that raised the cost.
        lam: λ ≥ 0, or (B, 1): one for each response.

    Returns:
        (B, R).
    """
    return (reward_advantages - lam * cost_advantages) / (1.0 + lam)


def _finite(excess: float) -> float:
    if not math.isfinite(excess):
        raise TrainingError(
            f"The constraint of a rollout batch is exceeded by {excess}",
            why="λ cannot follow a cost that is not a finite number",
            fix="look for the first bad score in samples.jsonl; the cost source returned it",
        )
    return excess


def _between(lam: float, floor: float, ceiling: float) -> float:
    if not 0.0 <= floor <= ceiling:
        raise ValueError(f"bounds of λ must satisfy 0 <= floor <= ceiling, not {floor} and {ceiling}")
    return min(max(lam, floor), ceiling)
