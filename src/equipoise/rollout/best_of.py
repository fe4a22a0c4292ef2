"""Best-of-n under a cost limit: of n responses to a prompt one is given, chosen by reward and cost.

The policy stays as it is, so one policy serves as many limits as are asked for. Left out: the choice itself
(`algos.selection`), and the sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from equipoise.algos.selection import best_under_limit
from equipoise.records import Response, ScoredResponse
from equipoise.rollout.config import BestOf, ScoreSourceConfig
from equipoise.rollout.score import ScoreSource, open_score_source


@dataclass(frozen=True)
class Chooser:
    """What is chosen by, loaded and ready."""

    settings: BestOf
    reward: ScoreSource
    cost: ScoreSource


class Chosen(NamedTuple):
    """What is given in place of n candidates."""

    place: int  # of the chosen one among all candidates
    response: ScoredResponse  # the chosen one, or the refusal
    is_within: bool  # whether the chosen one is within the limit
    is_refusal: bool


def open_chooser(
    settings: BestOf, reward: ScoreSourceConfig | None, cost: ScoreSourceConfig | None, device: torch.device
) -> Chooser:
    """Load the score sources, both of which the settings' own check has seen.

    Raises:
        ModelError, ConfigError, EndpointError: See `open_score_source`.
    """
    assert reward is not None
    assert cost is not None
    return Chooser(settings, open_score_source(reward, device=device), open_score_source(cost, device=device))


def choose(chooser: Chooser, candidates: Sequence[Response], limit: float | None = None) -> list[Chosen]:
    """One of every n candidates.

    Args:
        chooser: The score sources, n, and what is given where none is within the limit.
        candidates: n responses to each prompt, those of a prompt together.
        limit: The highest cost that is accepted, instead of the configured one.

    Raises:
        EquipoiseError: A source gives something else than one finite number per response.
    """
    settings, n = chooser.settings, chooser.settings.n
    limit = settings.limit if limit is None else limit
    assert len(candidates) % n == 0
    rewards, costs = chooser.reward.score(candidates), chooser.cost.score(candidates)
    chosen = []
    for start in range(0, len(candidates), n):
        group = slice(start, start + n)
        number, is_within = best_under_limit(rewards[group], costs[group], limit)
        place = start + number
        response = _scored(candidates[place], rewards[place], costs[place])
        chosen.append(Chosen(place, response, is_within, is_refusal=False))
    return chosen if settings.refusal is None else _refuse(chooser, chosen, settings.refusal)


def numbered(chosen: Sequence[Chosen], samples: int) -> list[Response]:
    """The responses that are given, `samples` to each prompt, numbered anew."""
    return [one.response.model_copy(update={"sample": i % samples}) for i, one in enumerate(chosen)]


def counts(chosen: Sequence[Chosen], candidates: int) -> dict[str, int]:
    """What a manifest says about the choice: how many were written, and where none of n was within the limit."""
    none_within = sum(not one.is_within for one in chosen)
    return {"candidates": candidates, "none_within": none_within, "refused": sum(one.is_refusal for one in chosen)}


def _refuse(chooser: Chooser, chosen: Sequence[Chosen], text: str) -> list[Chosen]:
    """The same with the text, scored in its turn, where none was within the limit."""
    words = [
        one.response.model_copy(update={"text": text, "finished": True}) for one in chosen if not one.is_within
    ]
    if not words:
        return list(chosen)
    scores = zip(words, chooser.reward.score(words), chooser.cost.score(words), strict=True)
    refusals = iter([_scored(*each) for each in scores])
    return [one if one.is_within else one._replace(response=next(refusals), is_refusal=True) for one in chosen]


def _scored(response: Response, reward: float, cost: float) -> ScoredResponse:
    return ScoredResponse(**{**dict(response), "reward": reward, "cost": cost})
