"""λ from stored responses with scores, before any training: the dual of the constrained problem in closed form.

    max_π E[r] − β·KL(π‖π_ref)  s.t.  E[c] ≤ limit        has the solution        π ∝ π_ref·exp((r − λc)/β)
    λ = argmin_{λ≥0} D(λ),        D(λ) = E_x[β·ln mean_{y~π_ref} exp((r − λ(c − limit))/β)]

D is convex with D′(λ) = limit − E[c] under that solution, so λ is where the expected cost meets the limit: MoCAN.
With r = β·ln π_R/π_ref and c = −β·ln π_S/π_ref of two policies trained on preferences, and a limit that lies a
margin below the mean cost, D/β is E_x[ln mean exp(ℓ_R + λℓ_S)] + λ·(KL(π_ref‖π_S) − margin/β): PeCAN.
Left out: a policy that learns the solution (any preference method does, from pairs labelled by r − λc), and
gradients: this is NumPy in float64, so that no model needs to be at hand. The step of C-DPO is `projected_step` of
`lagrange`. Letters: N responses, those of a prompt one after the other; P prompts. Source: Huang et al. 2024,
arXiv 2405.19544.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit

from equipoise.errors import EvaluationError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Scores(NamedTuple):
    """The scores of stored responses."""

    rewards: Floats  # (N,)
    costs: Floats  # (N,); > 0 is unsafe
    starts: Ints  # (P,) ascending from 0: where the responses of each prompt begin


class Tilted(NamedTuple):
    """What the responses say of π ∝ π_ref·exp((r − λc)/β): one number per prompt, but for the first two."""

    dual: float  # D(λ), in units of reward
    slope: float  # d E[c] / dλ ≤ 0
    rewards: Floats  # (P,) E[r]
    costs: Floats  # (P,) E[c]
    kl: Floats  # (P,) KL(π‖π_ref) in nats, at most ln of the number of responses
    effective: Floats  # (P,) effective number of responses, 1/Σw²: near 1, one response stands for the policy


def tilt(scores: Scores, lam: float, beta: float, limit: float) -> Tilted:
    """Reweigh each prompt's responses to the policy that is optimal at λ: w ∝ exp((r − λc)/β).

        D(λ) = E[r] − λ·(E[c] − limit) − β·KL        dE[c]/dλ = −E_x[Var_w(c)]/β

    Args:
        scores: Of responses drawn from π_ref itself.
        lam: λ ≥ 0.
        beta: β > 0, the strength of the KL term, in units of reward.
        limit: The bound on the mean cost.

    Returns:
        Expectations under that policy, estimated from the stored responses.
    """
    rewards, costs, starts = scores
    counts = np.diff([*starts, len(rewards)])
    logits = (rewards - lam * costs) / beta
    highest = np.repeat(np.maximum.reduceat(logits, starts), counts)
    raised = np.exp(logits - highest)
    weights = raised / np.repeat(np.add.reduceat(raised, starts), counts)

    def expected(values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(weights * values, starts))

    log_means = np.maximum.reduceat(logits, starts) + np.log(np.add.reduceat(raised, starts) / counts)
    mean_costs = expected(costs)
    return Tilted(
        dual=float(beta * log_means.mean() + lam * limit),
        slope=-float(expected((costs - np.repeat(mean_costs, counts)) ** 2).mean()) / beta,
        rewards=expected(rewards),
        costs=mean_costs,
        kl=expected(logits) - log_means,
        effective=1.0 / np.add.reduceat(weights**2, starts),
    )


def solve_lam(scores: Scores, beta: float, limit: float) -> float:
    """The λ ≥ 0 that minimises D: 0 where the limit holds without it, else the one that makes E[c] = limit.

    Args:
        scores: Of responses drawn from π_ref itself.
        beta: β > 0.
        limit: The bound on the mean cost.

    Returns:
        λ, in units of reward per unit of cost.

    Raises:
        EvaluationError: No finite λ holds the limit: on average, even a prompt's cheapest response costs more.
    """

    def excess(lam: float) -> float:
        return float(tilt(scores, lam, beta, limit).costs.mean()) - limit

    if excess(0.0) <= 0.0:
        return 0.0
    cheapest = float(np.minimum.reduceat(scores.costs, scores.starts).mean())
    bracket = next((lam for lam in 2.0 ** np.arange(64) if excess(lam) <= 0.0), None) if cheapest < limit else None
    if bracket is None:
        raise EvaluationError(
            f"No finite λ holds the mean cost at {limit:g}.",
            why=f"even the cheapest response of a prompt costs {cheapest:g}, over {len(scores.starts)} prompts",
            fix="Raise the limit, draw more responses per prompt, or begin with a safer policy.",
        )
    return float(brentq(excess, 0.0, bracket, xtol=1e-12, rtol=1e-14))


def first_wins(first: Floats, second: Floats) -> Floats:
    """How likely the first of two responses is preferred, by Bradley–Terry: σ(s_first − s_second).

    Args:
        first: (M,) s = r − λc.
        second: (M,).

    Returns:
        (M,) in [0, 1]. A policy that learns from labels drawn so tends to π ∝ π_ref·exp(s/β).
    """
    return np.asarray(expit(first - second))
