"""What was expected of the methods, decided by numbers: reproduced, not reproduced, or cannot tell.

Three kinds: a constraint that removes compensation, critic-free advantages that are as good in less time, duals
that overshoot less. The rules are in docs/methods.md and were there before the numbers.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from statsmodels.stats.proportion import proportion_confint
from studies.estimates import Measured, pooled_rate
from studies.relations import Comparison, Outcome

from equipoise.stats import Rate

ALPHA = 0.05
MARGIN = 0.02
"""A shortfall of harm or helpfulness below this, at the end of its interval, is none: 2 points of 100."""
TIME = 0.6
"""At most this share of PPO-Lag's time."""
HALF = 0.5


class Worst(NamedTuple):
    """The category whose requests are answered harmfully most often.

    `low`, `high`: 95 % of the highest of all categories' rates, whichever category has it.
    """

    category: str
    value: float
    low: float
    high: float
    seeds: tuple[float, ...]  # of the worst category in each seed, which need not be the same


def split(measured: Measured, categories: Sequence[str]) -> dict[str, Measured]:
    """One measure category by category; `categories`: one for each prompt."""
    found = {}
    for category in sorted(set(categories)):
        chosen = np.array([name == category for name in categories])
        prompts = tuple(p for p, mine in zip(measured.prompts, chosen, strict=True) if mine)
        found[category] = Measured(prompts, {name: v[chosen] for name, v in measured.values.items()})
    return found


def category_rates(policy: str, parts: Sequence[Mapping[str, Measured]]) -> dict[str, Rate]:
    """A policy's harmful rate in each category over all seeds; all intervals hold together with 95 %.

    Clopper and Pearson's at 1 − 0.05/K for K categories (Bonferroni), at the sample size that clustering by prompt
    leaves.

    Args:
        policy: Which.
        parts: Category → harm, for each seed.
    """
    names = sorted({name for part in parts for name in part})
    found = {}
    for name in names:
        rate = pooled_rate(policy, [part[name] for part in parts if name in part])
        low, high = proportion_confint(rate.value * rate.n, rate.n, alpha=ALPHA / len(names), method="beta")
        ends = (float(low) if rate.value > 0 else 0.0, float(high) if rate.value < 1 else 1.0)
        found[name] = Rate(value=rate.value, low=ends[0], high=ends[1], n=rate.n)
    return found


def worst(policy: str, parts: Sequence[Mapping[str, Measured]]) -> Worst:
    """A policy's worst category, with an interval that allows for its having been picked as the worst.

    Where all p_k lie in their intervals, max p_k lies between the highest low and the highest high end.
    """
    rates = category_rates(policy, parts)
    category = max(rates, key=lambda name: rates[name].value)
    return Worst(
        category,
        rates[category].value,
        max(rate.low for rate in rates.values()),
        max(rate.high for rate in rates.values()),
        tuple(max(float(m.values[policy].mean()) for m in part.values()) for part in parts),
    )


def removes(constraint: Worst, mean: Worst, overall: Rate) -> Outcome:
    """Whether a constraint removes the compensation that the constraint on the mean shows.

    Args:
        constraint: The worst category under it.
        mean: The worst category under the constraint on the mean …
        overall: … and its harmful rate over all categories. Where the worst is not above it, nothing is shown.
    """
    if mean.low <= overall.high:
        return "cannot tell"
    lower = [mine < its for mine, its in zip(constraint.seeds, mean.seeds, strict=True)]
    if constraint.high < mean.low and all(lower):
        return "reproduced"
    return "not reproduced" if constraint.low > mean.high or not any(lower) else "cannot tell"


def reaches(found: Sequence[Comparison]) -> Outcome:
    """Whether a policy reaches a front, given how it stands to each of the front's policies.

    It does not if one of them dominates it. It does if none does and it is, against each, better in something or
    short of it by less than `MARGIN` in both measures. Beyond an end of the front, worse than all in one measure,
    the front says nothing.
    """
    if any(one.relation == "is dominated by" for one in found):
        return "not reproduced"
    beyond = any(all(one.signs[measure] == -1 for one in found) for measure in (0, 1))
    if beyond or not all(1 in one.signs or _is_near(one) for one in found):
        return "cannot tell"
    return "reproduced"


def _is_near(found: Comparison) -> bool:
    return min(found.harm.low, found.helpfulness.low) > -MARGIN


def is_within(ratios: Sequence[float | None], most: float) -> Outcome:
    """Whether a ratio is at most so high, in every seed; None is unknown."""
    if any(ratio is None for ratio in ratios):
        return "cannot tell"
    within = [ratio is not None and ratio <= most for ratio in ratios]
    return "reproduced" if all(within) else "cannot tell" if any(within) else "not reproduced"


def both(outcomes: Sequence[Outcome]) -> Outcome:
    """An expectation with several parts: each must hold."""
    if "not reproduced" in outcomes:
        return "not reproduced"
    return "cannot tell" if "cannot tell" in outcomes else "reproduced"


def either(outcomes: Sequence[Outcome]) -> Outcome:
    """An expectation that one of several can meet."""
    if "reproduced" in outcomes:
        return "reproduced"
    return "cannot tell" if "cannot tell" in outcomes else "not reproduced"


class Swing(NamedTuple):
    """How a dual behaved; None: the constraint was never met."""

    overshoot: float | None  # of λ
    slack: float  # mean of max(−ĝ, 0) over the last half of the steps: safer than asked
    excess: float  # mean of max(ĝ, 0) over the same: less safe


def swing(lam: Sequence[float], exceeded: Sequence[float]) -> Swing:
    """How far λ overshot.

        overshoot = max_{t ≥ t₀ − 1} λ_t − mean of λ over the last quarter

    Args:
        lam: λ after each step.
        exceeded: ĝ of each step, ≤ 0 where the constraint is met; first so at t₀.
    """
    met = next((t for t, excess in enumerate(exceeded) if excess <= 0), None)
    last = lam[-max(1, len(lam) // 4) :]
    half = np.array(exceeded[len(exceeded) // 2 :])
    return Swing(
        None if met is None else max(lam[max(0, met - 1) :]) - float(np.mean(last)),
        float(np.maximum(-half, 0).mean()),
        float(np.maximum(half, 0).mean()),
    )


def ratio_of(first: float | None, second: float | None) -> float | None:
    """First over second; None where either is unknown, or the second is nothing to compare with."""
    return None if first is None or second is None or second <= 0 else first / second
