"""Losses that turn preferences into scores: Bradley–Terry for reward, with a zero of its own for cost.

Sign: cost > 0 is unsafe, cost < 0 is safe, 0 is the boundary. Scores are raw head outputs, in float32.
Letters: M pairs, N single responses, K harm categories. Source: Safe RLHF, arXiv 2310.12773, eqs. 5 and 6.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class RankingStats(NamedTuple):
    """Sums over pairs; ranking accuracy is correct / pairs."""

    pairs: Tensor
    correct: Tensor  # pairs with winner > loser; a tie is wrong
    margin: Tensor  # Σ (winner − loser)


class SignStats(NamedTuple):
    """Sums over responses; safety accuracy is correct / responses."""

    responses: Tensor
    correct: Tensor  # responses with s·c > 0; a cost of exactly 0 is wrong
    cost: Tensor  # Σ c


class CategoryStats(NamedTuple):
    """Counts of responses, (K,) int64 each; accuracy is correct / responses, recall is found / named."""

    responses: Tensor
    correct: Tensor  # s·c > 0; a cost of exactly 0 is wrong
    named: Tensor  # s = +1
    found: Tensor  # of these, c > 0


class CostStats(NamedTuple):
    """Sums over pairs and over their 2M responses: the fields of RankingStats, then those of SignStats."""

    pairs: Tensor
    correct: Tensor
    margin: Tensor
    responses: Tensor
    sign_correct: Tensor
    cost: Tensor


def reward_loss(
    winners: Tensor, losers: Tensor, regularization: float, denominator: float
) -> tuple[Tensor, RankingStats]:
    """Score the more helpful response above the other.

    L_R = [ Σ −ln σ(r_w − r_l) + μ·Σ (r_w² + r_l²)/2 ] / denominator        (eq. 5; μ-term from the original code)

    Args:
        winners: (M,) reward of the preferred response of each pair.
        losers: (M,) reward of the other.
        regularization: μ ≥ 0, holds the scores near 0, which the ranking alone leaves free.
        denominator: Number of pairs in the whole batch.

    Returns:
        0-d loss, sums over pairs.
    """
    ranking = -F.logsigmoid(winners - losers).sum()
    squares = (winners.square() + losers.square()).sum() / 2
    return (ranking + regularization * squares) / denominator, _ranking_stats(winners, losers)


def cost_loss(
    winners: Tensor,
    losers: Tensor,
    winner_signs: Tensor,
    loser_signs: Tensor,
    regularization: float,
    denominator: float,
) -> tuple[Tensor, CostStats]:
    """Score the more harmful response above the other, and each on the side of 0 that its safety label says.

    L_C = [ Σ −ln σ(c_w − c_l) − ln σ(s_w·c_w) − ln σ(s_l·c_l) + μ·Σ (c_w² + c_l²)/2 ] / denominator        (eq. 6)

    The sign terms are Bradley–Terry against a virtual response of cost 0, less harmful than any unsafe response
    and more harmful than any safe one. They fix the zero, so costs may later be scaled but never shifted.

    Args:
        winners: (M,) cost of the more harmful response of each pair.
        losers: (M,) cost of the other.
        winner_signs: (M,) +1 unsafe, −1 safe.
        loser_signs: (M,) +1 unsafe, −1 safe.
        regularization: μ ≥ 0.
        denominator: Number of pairs in the whole batch.

    Returns:
        0-d loss, sums over pairs and responses.
    """
    ranking, ranking_stats = reward_loss(winners, losers, regularization, denominator)
    winner_sign, winner_stats = sign_loss(winners, winner_signs, 0.0, denominator)
    loser_sign, loser_stats = sign_loss(losers, loser_signs, 0.0, denominator)
    sign_stats = (a + b for a, b in zip(winner_stats, loser_stats, strict=True))
    return ranking + winner_sign + loser_sign, CostStats(*ranking_stats, *sign_stats)


def sign_loss(costs: Tensor, signs: Tensor, regularization: float, denominator: float) -> tuple[Tensor, SignStats]:
    """Put single labelled responses on their side of 0: the sign terms of eq. 6 without a pair.

    L_S = [ Σ −ln σ(s·c) + μ·Σ c² ] / denominator

    Args:
        costs: (N,).
        signs: (N,) +1 unsafe, −1 safe.
        regularization: μ ≥ 0.
        denominator: Number of responses in the whole batch.

    Returns:
        0-d loss, sums over responses.
    """
    signed = signs * costs
    loss = (regularization * costs.square() - F.logsigmoid(signed)).sum() / denominator
    signed, costs = signed.detach(), costs.detach()
    return loss, SignStats(costs.new_tensor(costs.numel()), (signed > 0).sum(), costs.sum())


def category_loss(
    costs: Tensor, signs: Tensor, regularization: float, denominator: float
) -> tuple[Tensor, CategoryStats]:
    """Put each category's cost of single labelled responses on its side of 0: the sum of their sign losses.

    L_K = [ Σ_n Σ_k −ln σ(s_nk·c_nk) + μ·c_nk² ] / denominator

    Args:
        costs: (N, K) a cost per response and category.
        signs: (N, K) +1 harmful in this way, −1 not.
        regularization: μ ≥ 0.
        denominator: Number of responses in the whole batch.

    Returns:
        0-d loss, counts over responses.
    """
    loss, _ = sign_loss(costs, signs, regularization, denominator)
    return loss, category_stats(costs, signs)


def category_stats(costs: Tensor, signs: Tensor) -> CategoryStats:
    """What is right about (N, K) costs by category against signs of +1 harmful in this way, −1 not."""
    right, named = signs * costs.detach() > 0, signs > 0
    return CategoryStats(*(of.sum(dim=0) for of in (torch.ones_like(right), right, named, right & named)))


def _ranking_stats(winners: Tensor, losers: Tensor) -> RankingStats:
    margin = (winners - losers).detach()
    return RankingStats(margin.new_tensor(margin.numel()), (margin > 0).sum(), margin.sum())
