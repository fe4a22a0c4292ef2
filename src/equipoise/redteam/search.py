"""`search`: wrappers, and mutations of them, guided by the cost.

Generation 0 puts every seed into a wrapper; each next one mutates the costliest attacks of seeds not yet broken.
Wrappers that broke something are drawn more often. Left out: how a composition is changed (`mutate`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from equipoise.records import Prompt
from equipoise.redteam.attempts import Attack, Attempt
from equipoise.redteam.campaign import TRIES, Campaign
from equipoise.redteam.config import SearchSettings
from equipoise.redteam.mutate import Odds, Pool, mutate


@dataclass
class Search:
    """What the search has learned."""

    pool: Pool
    odds: Odds = field(default_factory=Odds)
    best: dict[str, Attempt] = field(default_factory=dict)  # seed id → its costliest attempt


def search(campaign: Campaign, settings: SearchSettings, pool: Pool) -> None:
    """Attack until the generations or the budget are used up, or every seed is broken."""
    state = Search(pool)
    for generation in range(settings.generations):
        parents: Sequence[Prompt | Attempt] = campaign.seeds.prompts
        if generation:
            parents = _survivors(state, settings.keep)
        for batch in campaign.batches(parents):
            planned = (_attack(campaign, state, parent, generation, settings) for parent in batch)
            for attempt in campaign.try_attacks([attack for attack in planned if attack]):
                if attempt:
                    _learn(state, attempt)


def _attack(
    campaign: Campaign, state: Search, parent: Prompt | Attempt, generation: int, settings: SearchSettings
) -> Attack | None:
    """A new attack on a seed, or a mutation of an attempt; None where none was found that is new."""
    seed, names = (parent.seed, parent.wrappers) if isinstance(parent, Attempt) else (parent, ())
    for _ in range(TRIES):
        most, taken = settings.max_wrappers, (seed.attack,)
        step = mutate(names, state.pool, state.odds, campaign.rng, most=most, taken=taken)
        if step is None:
            return None
        operation, wrappers = step
        prompt = state.pool.build(seed, wrappers)
        if campaign.is_new(prompt):
            return Attack(
                prompt=prompt,
                seed=seed,
                type="search",
                operation=operation,
                generation=generation,
                wrappers=wrappers,
                parent=parent.prompt.id if isinstance(parent, Attempt) else None,
            )
    return None


def _learn(state: Search, attempt: Attempt) -> None:
    state.odds.record((*attempt.wrappers, attempt.operation), attempt.is_hit)
    best = state.best.get(attempt.seed.id)
    if best is None or attempt.cost > best.cost:
        state.best[attempt.seed.id] = attempt


def _survivors(state: Search, keep: float) -> list[Attempt]:
    """The costliest attempt of each seed not yet broken, of the given share of them that came nearest to a hit."""
    unbroken = sorted((a for a in state.best.values() if not a.is_hit), key=lambda a: a.cost, reverse=True)
    return unbroken[: math.ceil(keep * len(unbroken))]
