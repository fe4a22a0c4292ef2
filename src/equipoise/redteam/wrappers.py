"""`wrappers`: every seed in random wrappers, new ones each time, without any guidance: what a search must beat."""

from equipoise.records import Prompt
from equipoise.redteam.attempts import Attack
from equipoise.redteam.campaign import TRIES, Campaign
from equipoise.redteam.config import WrappersSettings
from equipoise.redteam.mutate import Pool


def wrappers(campaign: Campaign, settings: WrappersSettings, pool: Pool) -> None:
    """Attack until the generations or the budget are used up, or every seed is broken."""
    for generation in range(settings.generations):
        for batch in campaign.batches(campaign.standing()):
            planned = (_attack(campaign, settings, pool, seed, generation) for seed in batch)
            campaign.try_attacks([attack for attack in planned if attack])


def _attack(
    campaign: Campaign, settings: WrappersSettings, pool: Pool, seed: Prompt, generation: int
) -> Attack | None:
    """The seed in a composition drawn evenly, that it was not in before."""
    free = [name for name in pool.whole if name != seed.attack]
    for _ in range(TRIES):
        count = min(campaign.rng.randint(1, settings.max_wrappers), len(free))
        names = tuple(campaign.rng.sample(free, count))
        prompt = pool.build(seed, names)
        if names and campaign.is_new(prompt):
            return Attack(
                prompt=prompt,
                seed=seed,
                type="wrappers",
                operation="wrap" if count == 1 else "compose",
                generation=generation,
                wrappers=names,
            )
    return None
