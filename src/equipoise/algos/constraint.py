"""What a constraint watches: a number per response, an estimate of its mean from a window, a bound.

    g(θ) = estimate{ w(C(y, x)) } − bound ≤ 0

w is the cost itself, its excess over the limit, or whether it is over the limit; the same w(C) is what the cost
stream of RL learns from, so that the gradient is that of the mean it bounds. With several constraints a response
has one multiplier, the sum of those that bear on it, and one watched cost, their mean weighted by them. No torch.
Sign: cost > 0 is unsafe.
"""

from collections.abc import Sequence
from math import fsum


def excess_cost(cost: float, limit: float) -> float:
    """w(C) = max(C − limit, 0): a response below the limit earns nothing that another could spend.

    Args:
        cost: C of a response.
        limit: In units of cost.

    Source: RePO, arXiv 2410.19933.
    """
    return max(cost - limit, 0.0)


def is_exceeded(cost: float, limit: float) -> float:
    """w(C) = 1[C > limit], whose mean is the probability of an unsafe response; arguments as in `excess_cost`."""
    return float(cost > limit)


def window_mean(watched: Sequence[float]) -> float:
    """The mean of w(C) over a window of responses: Ĵ_C where w is the cost itself."""
    return fsum(watched) / len(watched)


def scalarize(watched: Sequence[float], lams: Sequence[float]) -> tuple[float, float]:
    """Several constraints on one response as one: λ = Σ λ_k,   c = Σ λ_k·c_k / λ.

    With them (A_R − λ·A_C)/(1 + λ) is (A_R − Σ λ_k·A_k)/(1 + Σ λ_k) where advantages are linear in costs; those
    that are divided by their own deviation are not.

    Args:
        watched: w(C_k) of the response, K of them.
        lams: λ_k ≥ 0.

    Returns:
        c and λ; where λ is 0, c is the plain mean, and without a constraint 0.
    """
    lam = fsum(lams)
    if lam > 0.0:
        return fsum(a * b for a, b in zip(lams, watched, strict=True)) / lam, lam
    return (window_mean(watched) if watched else 0.0), 0.0
