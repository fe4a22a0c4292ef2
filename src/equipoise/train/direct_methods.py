"""What tells one direct method from another: which response of a pair wins, and the loss.

Left out: the losses themselves (`algos.direct`) and what frozen models say of a pair (`direct_frozen`).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from equipoise.algos.direct import DirectStats, dpo_loss, modpo_loss, rearranged, safe_dpo_loss
from equipoise.data.contradictions import settle
from equipoise.data.source import Contradictions
from equipoise.records import PreferencePair, Side
from equipoise.train.direct_config import Dpo, Method, Modpo, Preference, SafeDpo

Reason = Literal[
    "no_preference",  # the label is missing, or labellers did not agree on a winner
    "no_safety_label",
    "contradiction",  # between rank and safety labels, where the source's policy is to drop
    "both_unsafe",
    "same_response",  # twice the same text: h is 0 whatever the policy
    "too_long",  # one of the two does not fit in max_length
]
"""Why a pair cannot be used."""
Loss = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, DirectStats]]
"""(winners' and losers' ln(π_θ/π_ref), gaps, each (M,); denominator) → loss, stats."""


class Ranked(NamedTuple):
    """A pair with its winner."""

    winner: Side
    unsafe_gap: float  # u_l − u_w; 0 for methods that do not ask


def rank(pair: PreferencePair, method: Method, contradictions: Contradictions) -> Ranked | Reason:
    """Who wins a pair by a method, or why the pair is of no use to it.

    Args:
        pair: Any pair.
        method: The method.
        contradictions: The source's policy for pairs whose safer response is the one labelled unsafe; it applies
            where a method asks for safety.
    """
    if pair.responses[0] == pair.responses[1]:
        return "same_response"
    match method:
        case SafeDpo():
            return _rank_safe_first(pair, contradictions)
        case Dpo() | Modpo():
            return _rank_by(pair, method.by, contradictions)


def choose_loss(method: Method, beta: float) -> Loss:
    """The loss of a method; what its `gaps` are: u_l − u_w of SafeDPO, Δ_other of MODPO, nothing of DPO."""
    match method:
        case Dpo():
            return lambda winners, losers, _, denominator: dpo_loss(winners, losers, beta, denominator)
        case SafeDpo():
            return lambda winners, losers, gaps, denominator: safe_dpo_loss(
                winners, losers, gaps, beta, method.margin, denominator
            )
        case Modpo():
            return lambda winners, losers, gaps, denominator: modpo_loss(
                winners, losers, gaps, beta, method.weight, denominator
            )


def _rank_by(pair: PreferencePair, by: Preference, contradictions: Contradictions) -> Ranked | Reason:
    settled = settle(pair, contradictions) if by == "harmlessness" else pair
    if settled is None:
        return "contradiction"
    winner = settled.more_helpful if by == "helpfulness" else settled.safer
    return "no_preference" if winner is None else Ranked(winner, 0.0)


def _rank_safe_first(pair: PreferencePair, contradictions: Contradictions) -> Ranked | Reason:
    settled = settle(pair, contradictions)
    if settled is None:
        return "contradiction"
    if settled.more_helpful is None:
        return "no_preference"
    winner, loser = settled.more_helpful, _other(settled.more_helpful)
    winner_is_safe, loser_is_safe = settled.is_safe[winner], settled.is_safe[loser]
    if winner_is_safe is None or loser_is_safe is None:
        return "no_safety_label"
    unsafe_gap = float(winner_is_safe != loser_is_safe)  # u_w is 0 in every pair that is left
    match rearranged(winner_is_safe, loser_is_safe):
        case "keep":
            return Ranked(winner, unsafe_gap)
        case "swap":
            return Ranked(loser, unsafe_gap)
        case "drop":
            return "both_unsafe"


def _other(side: Side) -> Side:
    return 1 if side == 0 else 0
