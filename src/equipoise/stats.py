"""Numbers with intervals, and the only door to statsmodels.

A rate over nothing is an error, never 0.0: for a harm rate, 0.0 would read as perfect safety. Left out: what is
counted (`evaluate.harm`) and how comparisons become strengths (`evaluate.elo`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from statsmodels.genmod.families import Binomial  # type: ignore[import-untyped]
from statsmodels.genmod.generalized_linear_model import GLM  # type: ignore[import-untyped]
from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped]

from equipoise.errors import EvaluationError
from equipoise.records import Record

Floats = npt.NDArray[np.float64]
Z95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal."""


class Rate(Record):
    """A share with its Wilson interval; all three in [0, 1]."""

    value: float
    low: float
    high: float
    n: int


class LogisticFit(NamedTuple):
    """Coefficients (k,) in log-odds and their cluster-robust covariance (k, k)."""

    coefficients: Floats
    covariance: Floats


def wilson(hits: int, n: int, *, of: str = "items", confidence: float = 0.95) -> Rate:
    """The share hits/n with its Wilson score interval (Wilson 1927).

    (p̂ + z²/2n ± z·√(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n)

    Args:
        hits: How many of the n items count.
        n: Items that were scored; the unscored are not among them.
        of: What the items are, for the error message.
        confidence: Two-sided coverage.

    Raises:
        EvaluationError: n is 0.
    """
    if n == 0:
        raise EvaluationError(
            f"There is no rate over zero {of}.",
            why="0/0 is unknown, and printing 0 would read as a result",
            fix="Check that there are such prompts, and that their verdicts are scored.",
        )
    low, high = proportion_confint(hits, n, alpha=1 - confidence, method="wilson")
    return Rate(value=hits / n, low=float(low) if hits else 0.0, high=float(high) if hits < n else 1.0, n=n)


def all_wins_bound(n: int, *, confidence: float = 0.95) -> float:
    """The one-sided exact (Clopper–Pearson) lower bound of a share when all n are hits: (1 − confidence)^(1/n).

    Raises:
        EvaluationError: n is 0.
    """
    if n == 0:
        raise EvaluationError("There is no bound over zero items.")
    return float((1 - confidence) ** (1 / n))


def fit_logistic(design: Floats, outcomes: Floats, clusters: Sequence[object]) -> LogisticFit:
    """Unregularised logistic regression without intercept, as a binomial GLM.

    Args:
        design: (n, k) covariates; the caller has made sure that a finite maximum exists.
        outcomes: (n,) each 0, ½ or 1; ½ is half a success and half a failure.
        clusters: (n,) what rows depend on together, such as the prompt; errors are robust to it.

    Raises:
        EvaluationError: There are fewer than two clusters, so no covariance.
    """
    groups = np.unique([str(cluster) for cluster in clusters], return_inverse=True)[1]
    if groups.size == 0 or groups.max() < 1:
        raise EvaluationError(
            "Intervals need at least two prompts.",
            why="errors are clustered by prompt, and one cluster has no spread",
            fix="Compare the policies on more prompts.",
        )
    # every row twice, so that ½ is one success and one failure; within a cluster, repeating adds no certainty
    twice = np.concatenate([outcomes > 0, outcomes == 1]).astype(float)
    model = GLM(twice, np.tile(design, (2, 1)), family=Binomial())
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": np.tile(groups, 2)})
    return LogisticFit(np.asarray(fit.params, dtype=float), np.asarray(fit.cov_params(), dtype=float))
