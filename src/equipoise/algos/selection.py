"""One of several responses to a prompt, chosen by reward under a limit on cost.

Best-of-n gives the chosen response to a user; rejection sampling trains on it. Sign: a cost > 0 is unsafe, a cost
equal to the limit is within it. Left out: where the scores come from, and what to say instead when none is within.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Choice(NamedTuple):
    """Which response is chosen, and whether the limit holds for it."""

    chosen: int
    is_within: bool


def best_under_limit(rewards: Sequence[float], costs: Sequence[float], limit: float) -> Choice:
    """Choose the most rewarded response within the limit; if there is none, the one of lowest cost.

    i* = argmax_i { r_i : c_i ≤ limit },  else argmin_i c_i; of equals the first.

    Args:
        rewards: n rewards of responses to one prompt.
        costs: Their n costs.
        limit: The highest cost that is accepted.

    Returns:
        The number of the chosen one. It is not within exactly when no response is.

    Raises:
        ValueError: There is nothing to choose from, the counts differ, or a number is NaN.
    """
    if not rewards or len(rewards) != len(costs):
        raise ValueError(f"one reward and one cost per response are needed, not {len(rewards)} and {len(costs)}")
    if any(math.isnan(number) for number in (*rewards, *costs, limit)):
        raise ValueError("a score or the limit is NaN, which no other number is above or below")
    within = [i for i, cost in enumerate(costs) if cost <= limit]
    if within:
        return Choice(max(within, key=rewards.__getitem__), is_within=True)
    return Choice(min(range(len(costs)), key=costs.__getitem__), is_within=False)
