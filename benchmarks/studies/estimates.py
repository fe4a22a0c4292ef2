"""Means over prompts and seeds, with two kinds of interval that answer two questions.

Over prompts, clustered by prompt: would other prompts say the same of these policies? Over seeds, Student's t of
the seeds' means: would policies trained from other seeds say the same? Three seeds make the second one wide.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from equipoise.stats import Z95, Estimate, Rate, mean, wilson

Floats = npt.NDArray[np.float64]


class Measured(NamedTuple):
    """One measure in one seed: a value per policy and prompt, all in the order of the prompts."""

    prompts: tuple[str, ...]
    values: Mapping[str, Floats]


class Contrast(NamedTuple):
    """A weighted sum of policies' means; of one policy, or of two a difference.

    `low` and `high`: 95 % over prompts; `p`: that it is 0, over prompts; `seeds`: one value for each seed;
    `over_seeds`: 95 % by Student's t, None for a single seed.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: tuple[float, ...]
    over_seeds: Estimate | None


def contrast(weights: Mapping[str, float], seeds: Sequence[Measured]) -> Contrast:
    """Σ_policy weight · mean value, averaged over seeds; policies are paired by prompt.

        se² = G/(G − 1) · Σ_prompt ( Σ_seed (d − d̄_seed)/(n_seed·S) )²        over G prompts and S seeds

    Args:
        weights: Policy → weight.
        seeds: The measure in each seed.
    """
    paired = [sum((w * seed.values[policy] for policy, w in weights.items()), start=0.0) for seed in seeds]
    means = np.array([d.mean() for d in paired])
    sums: dict[str, float] = {}
    for seed, d in zip(seeds, paired, strict=True):
        for prompt, part in zip(seed.prompts, (d - d.mean()) / (len(d) * len(seeds)), strict=True):
            sums[prompt] = sums.get(prompt, 0.0) + float(part)
    groups = len(sums)
    error = float(np.sqrt(groups / (groups - 1) * sum(part**2 for part in sums.values())))
    value = float(means.mean())
    return Contrast(
        value=value,
        low=value - Z95 * error,
        high=value + Z95 * error,
        p=_p_value(value, error),
        seeds=tuple(map(float, means)),
        over_seeds=mean(means) if len(means) > 1 else None,
    )


def pooled_rate(policy: str, seeds: Sequence[Measured]) -> Rate:
    """The share of a policy over all seeds, with Wilson's interval at the sample size that clustering leaves."""
    found = contrast({policy: 1.0}, seeds)
    error = (found.high - found.low) / (2 * Z95)
    n = len({prompt for seed in seeds for prompt in seed.prompts})
    if error > 0:
        n = min(n, round(found.value * (1 - found.value) / error**2) or 1)
    return wilson(found.value * n, n)


def _p_value(value: float, error: float) -> float:
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * norm.sf(abs(value) / error))
