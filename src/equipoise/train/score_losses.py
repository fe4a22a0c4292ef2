"""What reward and cost models learn from a batch, and what is counted of it.

One function per loss; which of them trains a cost model is its config's `loss`. Left out: the terms themselves
(`algos.preference`), the loop (`score_model`) and categories on held-out prompts (`categories`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from equipoise.algos.preference import (
    RankingStats,
    SignStats,
    category_loss,
    cost_loss,
    reward_loss,
    sign_loss,
)
from equipoise.tokens.batches import CostBatch, RewardBatch
from equipoise.train.config import CostLoss


class Counts(NamedTuple):
    """Sums that accuracies are made of."""

    pairs: float = 0
    ranked: float = 0  # pairs in the right order
    signed: float = 0  # labels that say safe or unsafe
    right: float = 0  # of these, scored on the right side of 0
    known: float = 0  # responses and categories of which a label says whether they go together
    agreed: float = 0  # of these, the category's cost is on the right side of 0
    named: float = 0  # of the known, those that do go together
    found: float = 0  # of these, the category's cost is above 0


Loss = Callable[[Tensor, Any, float, float], tuple[Tensor, Counts]]
"""(what the network says of the batch's responses, batch, μ, denominator) → loss, counts."""


def choose_cost_loss(name: CostLoss) -> Loss:
    """The loss that a cost model's settings name."""
    match name:
        case "ranking+sign":
            return ranking_and_sign
        case "ranking":
            return ranking_alone
        case "sign":
            return sign_alone


def with_categories(loss: Loss, weight: float) -> Loss:
    """L + weight · L_K: a loss of the cost, and that of the categories of all responses whose label says them.

    Args:
        loss: Of the cost, the first of a network's outputs.
        weight: Of the categories, the other outputs. A response counts once, in however many pairs it stands.
    """

    def both(outputs: Tensor, batch: CostBatch, mu: float, denominator: float) -> tuple[Tensor, Counts]:
        cost, counts = loss(outputs[:, 0], batch, mu, denominator)
        known = batch.category_known
        categories, stats = category_loss(outputs[known, 1:], batch.category_signs[known], mu, denominator)
        sums = [float(one.sum()) for one in stats]
        return cost + weight * categories, counts._replace(
            **dict(zip(("known", "agreed", "named", "found"), sums, strict=True))
        )

    return both


def helpfulness(scores: Tensor, batch: RewardBatch, mu: float, denominator: float) -> tuple[Tensor, Counts]:
    """L_R over the pairs of a batch."""
    loss, stats = reward_loss(scores[batch.winners], scores[batch.losers], mu, denominator)
    return loss, Counts(pairs=float(stats.pairs), ranked=float(stats.correct))


def ranking_and_sign(scores: Tensor, batch: CostBatch, mu: float, denominator: float) -> tuple[Tensor, Counts]:
    """L_C over the pairs and the single labels of a batch."""
    winners, losers, singles = batch.winners, batch.losers, batch.singles
    pair_loss, stats = cost_loss(
        scores[winners], scores[losers], batch.signs[winners], batch.signs[losers], mu, denominator
    )
    single_loss, single = sign_loss(scores[singles], batch.signs[singles], mu, denominator)
    return pair_loss + single_loss, Counts(
        pairs=float(stats.pairs),
        ranked=float(stats.correct),
        signed=float(stats.responses + single.responses),
        right=float(stats.sign_correct + single.correct),
    )


def ranking_alone(scores: Tensor, batch: CostBatch, mu: float, denominator: float) -> tuple[Tensor, Counts]:
    """L_C without its sign terms: the harm preferences of the pairs; the zero is wherever it falls."""
    loss, ranking = reward_loss(scores[batch.winners], scores[batch.losers], mu, denominator)
    return loss, _counted(ranking, *_signs(scores, batch, mu, denominator)[1])


def sign_alone(scores: Tensor, batch: CostBatch, mu: float, denominator: float) -> tuple[Tensor, Counts]:
    """L_C without its ranking term: a classifier of safe and unsafe, its logit the cost."""
    loss, signs = _signs(scores, batch, mu, denominator)
    ranking = reward_loss(scores[batch.winners], scores[batch.losers], mu, denominator)[1]
    return loss, _counted(ranking, *signs)


def _signs(scores: Tensor, batch: CostBatch, mu: float, denominator: float) -> tuple[Tensor, list[SignStats]]:
    """The sign terms of both sides of the pairs, which share one μ-term as in L_C, and of the single labels."""
    sides = ((batch.winners, mu / 2), (batch.losers, mu / 2), (batch.singles, mu))
    found = [sign_loss(scores[rows], batch.signs[rows], weight, denominator) for rows, weight in sides]
    return sum((loss for loss, _ in found), start=scores.new_zeros(())), [stats for _, stats in found]


def _counted(ranking: RankingStats, *signs: SignStats) -> Counts:
    return Counts(
        pairs=float(ranking.pairs),
        ranked=float(ranking.correct),
        signed=float(sum(one.responses for one in signs)),
        right=float(sum(one.correct for one in signs)),
    )
