"""Strengths of policies out of pairwise judgements: Bradley–Terry, unregularised, on the Elo scale.

P(a beats b) = σ(θ_a − θ_b); a tie is half a win and half a loss. Fitted as a binomial GLM with errors clustered by
prompt. A finite maximum exists for exactly those policies that beat and are beaten, directly or through others
(Ford 1957); for the rest the maximum is infinite and is reported as such, never pulled in by a prior. Left out:
who asks and what (`compare`), position and length terms.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import breadth_first_order, connected_components

from equipoise.errors import EvaluationError
from equipoise.records import Record
from equipoise.stats import Z95, all_wins_bound, fit_logistic

SCALE = 400 / math.log(10)
"""Elo points per unit of log-odds: 400 points are odds of 10 to 1."""

Outcome = Literal[0, 1, "tie"]
Status = Literal["anchor", "estimated", "above_all_data", "below_all_data", "unconnected"]


class Game(NamedTuple):
    """One judged pair: `outcome` is the index of the winner among `policies`, or a tie."""

    policies: tuple[str, str]
    outcome: Outcome
    prompt: str


class Elo(Record):
    """A strength in Elo points relative to the anchor, with a 95 % interval.

    `above_all_data`: never lost to the anchor's group, so there is no finite value; `low` is a one-sided 95 %
    bound from its games against the anchor, if it had any, and `high` is open. `below_all_data`: the mirror image.
    `unconnected`: the games do not order it against the anchor at all. None stands for "no such number".
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    status: Status


def elo(games: Sequence[Game], policies: Sequence[str]) -> dict[str, Elo]:
    """Bradley–Terry strengths (Bradley & Terry 1952), the first policy anchored at 0.

    Args:
        games: Judged pairs among `policies`.
        policies: The policies in order; the first is the anchor.

    Returns:
        Policy → strength; `n` counts the policy's games.

    Raises:
        EvaluationError: No games, fewer than two policies, a policy that is not listed, or one prompt only.
    """
    _check(games, policies)
    index = {name: i for i, name in enumerate(policies)}
    beats = _beats(games, index)
    group = connected_components(beats, directed=True, connection="strong")[1]
    inside = [name for name in policies if group[index[name]] == group[0]]
    finite = _fit(games, inside)
    return {
        name: finite[name] if name in finite else _infinite(games, name, policies[0], beats, index)
        for name in policies
    }


def _check(games: Sequence[Game], policies: Sequence[str]) -> None:
    if len(policies) < 2:
        raise EvaluationError("Elo compares policies, and there is only one.", fix="Evaluate at least two.")
    if not games:
        raise EvaluationError(
            "There is no Elo over zero comparisons.", fix="Check that the judge's votes are scored."
        )
    unknown = {name for game in games for name in game.policies} - set(policies)
    if unknown:
        raise EvaluationError(f"Games of policies that are not evaluated: {', '.join(sorted(unknown))}.")


def _beats(games: Sequence[Game], index: dict[str, int]) -> npt.NDArray[np.int64]:
    """(k, k): 1 where the row's policy has won or tied against the column's."""
    beats = np.zeros((len(index), len(index)), dtype=np.int64)
    for game in games:
        first, second = index[game.policies[0]], index[game.policies[1]]
        if game.outcome in (0, "tie"):
            beats[first, second] = 1
        if game.outcome in (1, "tie"):
            beats[second, first] = 1
    return beats


def _fit(games: Sequence[Game], inside: Sequence[str]) -> dict[str, Elo]:
    """Strengths within the anchor's strongly connected group, where the maximum is finite.

    Games with policies outside the group do not move it: their likelihood tends to 1 whatever it is.
    """
    anchor = {inside[0]: Elo(value=0.0, low=0.0, high=0.0, n=_count(games, inside[0]), status="anchor")}
    if len(inside) == 1:
        return anchor
    column = {name: i - 1 for i, name in enumerate(inside)}  # the anchor's, −1, is the last and is dropped
    used = [game for game in games if set(game.policies) <= set(inside)]
    design = np.zeros((len(used), len(inside)))
    for row, game in enumerate(used):
        design[row, column[game.policies[0]]] += 1
        design[row, column[game.policies[1]]] -= 1
    outcomes = np.array([{0: 1.0, 1: 0.0, "tie": 0.5}[game.outcome] for game in used])
    fit = fit_logistic(design[:, :-1], outcomes, [game.prompt for game in used])
    errors = np.sqrt(np.diag(fit.covariance))
    return anchor | {
        name: _estimate(float(value), float(error), _count(games, name))
        for name, value, error in zip(inside[1:], fit.coefficients, errors, strict=True)
    }


def _estimate(value: float, error: float, n: int) -> Elo:
    low, high = SCALE * (value - Z95 * error), SCALE * (value + Z95 * error)
    return Elo(value=SCALE * value, low=low, high=high, n=n, status="estimated")


def _infinite(
    games: Sequence[Game], name: str, anchor: str, beats: npt.NDArray[np.int64], index: dict[str, int]
) -> Elo:
    """The strength of a policy outside the anchor's group."""
    is_above = _reaches(beats, index[name], index[anchor])
    is_below = _reaches(beats, index[anchor], index[name])
    if not is_above and not is_below:
        return Elo(value=None, low=None, high=None, n=_count(games, name), status="unconnected")
    direct = {game.prompt for game in games if set(game.policies) == {name, anchor}}
    share = all_wins_bound(len(direct)) if direct else None
    bound = SCALE * math.log(share / (1 - share)) if share else None
    if is_above:
        return Elo(value=None, low=bound, high=None, n=_count(games, name), status="above_all_data")
    return Elo(
        value=None,
        low=None,
        high=None if bound is None else -bound,
        n=_count(games, name),
        status="below_all_data",
    )


def _reaches(beats: npt.NDArray[np.int64], start: int, goal: int) -> bool:
    return goal in breadth_first_order(beats, start, directed=True, return_predecessors=False)


def _count(games: Sequence[Game], name: str) -> int:
    return sum(name in game.policies for game in games)
