"""Numbers with intervals, and the only door to statsmodels.

A rate over nothing is an error, never 0.0: for a harm rate, 0.0 would read as perfect safety. Left out: what is
counted (`evaluate.harm`) and how comparisons become strengths (`evaluate.elo`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, linprog
from scipy.stats import norm
from scipy.stats import t as student_t
from statsmodels.genmod.families import Binomial  # type: ignore[import-untyped]
from statsmodels.genmod.generalized_linear_model import GLM  # type: ignore[import-untyped]
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_test  # type: ignore[import-untyped]
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]
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


class Estimate(Record):
    """A number with its 95 % interval, over n items; unlike a `Rate` it need not lie within [0, 1]."""

    value: float
    low: float
    high: float
    n: int


class LogisticFit(NamedTuple):
    """Coefficients (k,) in log-odds and their cluster-robust covariance (k, k)."""

    coefficients: Floats
    covariance: Floats


class Calibrated(Record):
    """A mean of people's labels sharpened by predictions, with its interval; nothing keeps a share within [0, 1].

    `n` labels and `n_predicted` further predictions; `power` is λ: 0 uses no prediction, 1 trusts them fully.
    """

    value: float
    low: float
    high: float
    n: int
    n_predicted: int
    power: float


def wilson(hits: float, n: int, *, of: str = "items", confidence: float = 0.95) -> Rate:
    """The share hits/n with its Wilson score interval (Wilson 1927).

    (p̂ + z²/2n ± z·√(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n)

    Args:
        hits: How many of the n items count; an item may count in part.
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


def upper_bound(hits: int, n: int, *, confidence: float = 0.95) -> float:
    """The one-sided exact (Clopper–Pearson) upper bound of a share: the p at which P(X ≤ hits) = 1 − confidence.

    Args:
        hits: 0 ≤ hits ≤ n.
        n: Items that were scored.
        confidence: One-sided coverage, at least this whatever the share is.

    Raises:
        EvaluationError: n is 0.

    Clopper & Pearson 1934.
    """
    if n == 0:
        raise EvaluationError("There is no bound over zero items.")
    return float(proportion_confint(hits, n, alpha=2 * (1 - confidence), method="beta")[1]) if hits < n else 1.0


def lower_bound(hits: int, n: int, *, confidence: float = 0.95) -> float:
    """The one-sided exact (Clopper–Pearson) lower bound of a share: the p at which P(X ≥ hits) = 1 − confidence.

    Args and errors as for `upper_bound`; the one is the other, seen from the items that do not count.
    """
    return 1 - upper_bound(n - hits, n, confidence=confidence)


def mean_excess_p(values: Floats, limit: float, high: float, *, repeats: float = 1.0) -> float:
    """How well values so low fit a mean of `limit` or more: a sure p, whatever the distribution up to `high`.

        K = Σ_j w_j·Π_i (1 − c_j + c_j·(high − x_i)/(high − limit));    p = min(1, 1/K)
        c_j = 2^(−j/2), j = 0 … 24;    w_j = c_j/Σc

    Proof: no factor is negative, and under a mean ≥ limit each has an expectation of at most 1, so E K ≤ 1 by
    independence. Then P(p ≤ α) = P(K ≥ 1/α) ≤ α·E K ≤ α for α < 1, by Markov's inequality.

    K is the final capital of bets against such a mean, c the share that is staked on every value. The prior over
    the shares is close to an even one over (0, 1), and depends on no data. It weighs the stakes for every n; which
    one was best need not be known. Every factor grows with `limit`, and so does K.

    Args:
        values: (n,) independent values with one mean, none above `high`.
        limit: The mean in question, below `high`.
        high: The largest value that can occur, known before the values were seen.
        repeats: How often each value stands: what p would be if further values looked like these.

    Returns:
        p; under any mean ≥ limit it is at most α with probability at most α.

    Raises:
        EvaluationError: There are no values, one is not finite, or they or `limit` lie above `high`.

    Cover 1991, "Universal portfolios"; Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables
    by betting"; Orabona & Jun 2024.
    """
    room = _room(values, high)
    if not limit < high:
        raise EvaluationError(
            "There is no sure bound on this mean.",
            why=f"the limit {limit:g} is not below the range's end {high:g}",
        )
    return min(1.0, math.exp(-max(0.0, _log_capital(room, high - limit, repeats))))


def mean_upper_bound(values: Floats, high: float, *, confidence: float = 0.95) -> float:
    """The one-sided sure upper bound of a mean: the limit at which `mean_excess_p` is 1 − confidence.

    Args and errors as for `mean_excess_p`. The lower bound of a mean is −mean_upper_bound(−values, −low).
    """
    room = _room(values, high)
    seen = float(room.mean())

    def won(mean_room: float) -> float:
        return _log_capital(room, mean_room, 1.0) + math.log(1 - confidence)

    least = 1e-9 * seen  # so near to `high` the bound is `high`
    if seen == 0 or won(least) < 0:
        return high
    return high - float(brentq(won, least, seen, xtol=1e-10 * seen))  # K ≤ 1 at the mean seen: Σ log u_i ≤ 0


def _room(values: Floats, high: float) -> Floats:
    """How far each value lies below `high`."""
    if len(values) == 0 or not (np.isfinite(values).all() and np.max(values) <= high):
        raise EvaluationError(
            "There is no sure bound on this mean.",
            why=f"it needs at least one value, and all of them finite and no higher than {high:g}",
        )
    return high - values


def _log_capital(room: Floats, mean_room: float, repeats: float) -> float:
    """The logarithm of K of `mean_excess_p`, for a mean that lies `mean_room` below the end of the range."""
    stakes = 2.0 ** (-np.arange(25) / 2)
    with np.errstate(divide="ignore"):  # a value at `high` takes the whole stake: log 0 for c = 1
        logs = np.log1p(np.multiply.outer(stakes, room / mean_room - 1)).sum(axis=1)
    return float(np.logaddexp.reduce(repeats * logs + np.log(stakes / stakes.sum())))


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar's test that two shares over the same items are equal.

    Args:
        only_first: Items that count for the first and not for the second.
        only_second: The reverse; the items on which both agree say nothing.

    Returns:
        p in [0, 1]; 1 where they agree on every item.

    McNemar 1947.
    """
    table = [[0, only_first], [only_second, 0]]
    return float(mcnemar_test(table, exact=True).pvalue) if only_first + only_second else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for being several (Holm 1979): below α, with family-wise error α."""
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []


def paired_difference(both: int, only_first: int, only_second: int, neither: int) -> Estimate:
    """How much larger the second of two shares over the same items is, with its 95 % interval.

        d = p₂ − p₁;    low = d − √(u₁² − 2φ·u₁·l₂ + l₂²),    high = d + √(l₁² − 2φ·l₁·u₂ + u₂²)

    lᵢ and uᵢ are the lengths of the lower and upper arm of the Wilson interval of pᵢ; φ is the correlation of the
    four counts, a positive numerator ad − bc lessened by n/2, but not below 0.

    Args:
        both: Items that count for both.
        only_first: Items that count for the first and not for the second.
        only_second: The reverse.
        neither: Items that count for neither.

    Raises:
        EvaluationError: There are no items.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", method 10.
    """
    n = both + only_first + only_second + neither
    first = wilson(both + only_first, n, of="items that were scored for both")
    second = wilson(both + only_second, n)
    product = both * neither - only_first * only_second
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    correlation = (max(product - n / 2, 0) if product > 0 else product) / np.sqrt(margins) if margins else 0.0

    def arm(one: float, other: float) -> float:
        return float(np.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0)))

    difference = (only_second - only_first) / n
    return Estimate(
        value=difference,
        low=difference - arm(first.high - first.value, second.value - second.low),
        high=difference + arm(first.value - first.low, second.high - second.value),
        n=n,
    )


def mean(values: Floats) -> Estimate:
    """The mean of independent numbers with its 95 % interval by Student's t.

    Raises:
        EvaluationError: Fewer than two numbers, or one is not finite.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        raise EvaluationError(
            "There is no mean with an interval.", why=f"{np.isfinite(values).sum()} of {len(values)} are finite"
        )
    value = float(values.mean())
    half = float(student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(value=value, low=value - half, high=value + half, n=len(values))


def mean_t_bound(values: Sequence[float], *, confidence: float = 0.95) -> float:
    """The one-sided upper bound of a mean by Student's t: x̄ + t_{confidence, n−1}·s/√n.

    Exact for normal numbers only; `mean_upper_bound` is sure whatever they are. At least two numbers.
    """
    found = np.asarray(values, dtype=float)
    arm = student_t.ppf(confidence, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean() + arm)


def ppi_mean(labels: Floats, predictions: Floats, unlabelled: Floats, *, confidence: float = 0.95) -> Calibrated:
    """The mean of people's labels, sharpened by a judge's: prediction-powered inference with power tuning.

        θ̂ = mean(y) + λ·(mean(f̃) − mean(f));    se² = Var(y − λf)/n + λ²·Var(f̃)/N
        λ = Cov(y, f) / ((1 + n/N)·Var(f, f̃)), held within [0, 1]

    Unbiased however wrong the judge is, as long as the labelled units are a random sample of all; with useless
    predictions λ → 0 and it is the classical mean of the labels.

    Args:
        labels: (n,) people's values y.
        predictions: (n,) the judge's values f for the same units.
        unlabelled: (N,) the judge's values f̃ for the units without people's labels.
        confidence: Two-sided coverage of the normal interval.

    Raises:
        EvaluationError: Fewer than two labels, no further prediction, or labels without any spread.

    Angelopoulos et al. 2023, "Prediction-powered inference"; Angelopoulos, Duchi & Zrnic 2023, "PPI++".
    """
    n, n_predicted = len(labels), len(unlabelled)
    if n < 2 or n_predicted == 0 or np.ptp(labels) == 0:
        raise EvaluationError(
            "There is no calibrated mean.",
            why=f"there are {n} labels with {len(np.unique(labels))} different values and {n_predicted} further "
            "predictions; an interval needs labels that differ, and units that only the judge has seen",
            fix="Let people label a larger random part.",
        )
    spread = np.var(np.concatenate([predictions, unlabelled]), ddof=1)
    shared = np.mean((labels - labels.mean()) * (predictions - predictions.mean()))
    power = float(np.clip(shared / ((1 + n / n_predicted) * spread), 0, 1)) if spread > 0 else 0.0
    value = labels.mean() + power * (unlabelled.mean() - predictions.mean())
    further = np.var(unlabelled, ddof=1) / n_predicted if n_predicted > 1 else spread
    error = np.sqrt(np.var(labels - power * predictions, ddof=1) / n + power**2 * further)
    half = float(norm.ppf((1 + confidence) / 2) * error)
    return Calibrated(
        value=float(value),
        low=float(value) - half,
        high=float(value) + half,
        n=n,
        n_predicted=n_predicted,
        power=power,
    )


def has_finite_fit(design: Floats, outcomes: Floats) -> bool:
    """Whether a logistic regression without intercept has a finite and unique maximum.

    It has none where some combination of covariates separates the outcomes, or says nothing at all: where a
    direction w ≠ 0 has s·x·w ≥ 0 for every row x, s = ±1 its outcome (both for ½). Found by a linear program over
    the box |w| ≤ 1 (Albert & Anderson 1984; Konis 2007).

    Args:
        design: (n, k) covariates.
        outcomes: (n,) each 0, ½ or 1.
    """
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return False
    signed = np.concatenate([design[outcomes > 0], -design[outcomes < 1]])
    if not len(signed):
        return False
    found = linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1))
    return found.fun is not None and float(found.fun) > -1e-9


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
