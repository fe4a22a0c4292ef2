"""The multiplier λ ≥ 0: how it moves with the cost, and how it mixes reward and cost.

    max_θ J_R(θ)  s.t.  J_C(θ) ≤ limit        ⇔        min_θ max_{λ≥0}  −J_R(θ) + λ·(J_C(θ) − limit)

A controller is a function `step(state, mean_cost, …) → state` on a frozen state, called once per rollout batch,
so the speed of λ does not depend on how a batch is cut. Which controller runs is the loop's choice.
Sign: mean cost above the limit raises λ, below lowers it. Source: Safe RLHF, arXiv 2310.12773.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from equipoise.errors import TrainingError


@dataclass(frozen=True)
class LagrangeState:
    """What a controller remembers; part of every checkpoint."""

    lam: float  # λ ≥ 0; 0 is plain PPO on the reward


def constant_step(state: LagrangeState, mean_cost: float) -> LagrangeState:  # noqa: ARG001
    """Leave λ as it is: reward shaping with a fixed coefficient, λ ← λ.

    Args:
        state: Before the step.
        mean_cost: Ĵ_C, without influence.

    Returns:
        The same state.
    """
    return state


def log_dual_step(
    state: LagrangeState, mean_cost: float, *, lr: float, cost_limit: float, floor: float, ceiling: float
) -> LagrangeState:
    """Move λ by gradient ascent on its logarithm: ln λ ← ln λ + α·λ·(Ĵ_C − cost_limit), floor ≤ λ ≤ ceiling.

    The step is proportional to λ, so without a floor a λ that once fell to 0 would never come back.

    Args:
        state: Before the step.
        mean_cost: Ĵ_C, mean raw cost, without KL, over the window of responses of all processes.
        lr: α > 0, per unit of cost.
        cost_limit: The bound on J_C; the paper's −d.
        floor: Smallest λ, > 0.
        ceiling: Largest λ, ≥ floor.

    Returns:
        After the step.

    Raises:
        ValueError: Not 0 < floor ≤ ceiling.
        TrainingError: The mean cost is not finite.
    """
    if not 0.0 < floor <= ceiling:
        raise ValueError(f"bounds of λ must satisfy 0 < floor <= ceiling, not {floor} and {ceiling}")
    if not math.isfinite(mean_cost):
        raise TrainingError(
            f"The mean cost of a rollout batch is {mean_cost}",
            why="λ cannot follow a cost that is not a finite number",
            fix="look for the first bad score in samples.jsonl; the cost source returned it",
        )
    step = lr * state.lam * (mean_cost - cost_limit)
    moved = state.lam * math.exp(min(step, 500.0))  # exp overflows above 709
    return LagrangeState(min(max(moved, floor), ceiling))


def slide_window(window: Sequence[float], costs: Sequence[float], size: int) -> tuple[float, ...]:
    """Append the costs of a rollout batch and keep the last `size`: the window that Ĵ_C is the mean of.

    Args:
        window: Costs so far, oldest first.
        costs: Raw costs of this batch, from all processes in a fixed order.
        size: W ≥ 1 responses.

    Returns:
        At most W costs, oldest first.

    Raises:
        ValueError: The size is below 1.
    """
    if size < 1:
        raise ValueError(f"a window holds at least one cost, not {size}")
    return (*window, *costs)[-size:]


def mix(reward_advantages: Tensor, cost_advantages: Tensor, lam: float) -> Tensor:
    """Weigh reward against cost: A = (A_R − λ·A_C)/(1 + λ).

    The division keeps the size of the update, and the strength of the KL penalty, independent of λ. (1 + λ)
    appears here and nowhere else.

    Args:
        reward_advantages: (B, R).
        cost_advantages: (B, R); > 0 means a token that raised the cost.
        lam: λ ≥ 0.

    Returns:
        (B, R).
    """
    return (reward_advantages - lam * cost_advantages) / (1.0 + lam)
