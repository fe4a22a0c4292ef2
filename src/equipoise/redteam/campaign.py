"""The frame of every attack: what may be tried, what was tried, and what is left of the budget.

An attack is a function of a campaign. It makes attacks on the seeds that still stand and has them tried, batch by
batch; here they are checked, answered, judged and counted. Left out: how attacks are made, who answers (`roles`),
which hits are returned (`select`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from equipoise.data.dedupe import reading_key
from equipoise.data.overlap import Excluded
from equipoise.records import Prompt, Response
from equipoise.redteam.attempts import Attack, Attempt
from equipoise.redteam.config import RedteamConfig
from equipoise.redteam.roles import Roles
from equipoise.redteam.seeds import Seeds
from equipoise.runlog import RunLog

T = TypeVar("T")
TRIES = 8
"""Draws of an attack that is new, before a seed sits a generation out."""


@dataclass
class Campaign:
    """One run of one attack."""

    config: RedteamConfig
    seeds: Seeds
    excluded: Excluded
    rng: Random
    roles: Roles
    log: RunLog
    attempts: list[Attempt] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # ids of seeds with a hit
    tried: set[object] = field(default_factory=set)  # how the prompts read that were let through
    left_out: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)  # answers of the attacker, by what was wrong
    useless: int = 0  # of those, the ones since the last that was of use
    steps: int = 0
    ended: str = ""  # why, where neither the budget nor the seeds were used up

    @property
    def left(self) -> int:
        """Attacks that the budget still pays for."""
        return (self.config.budget - self.roles.answers["target"]) // self.config.samples

    @property
    def size(self) -> int:
        """Attacks in a batch."""
        return self.config.batch_size // self.config.samples

    def standing(self) -> list[Prompt]:
        """The seeds without a hit."""
        return [seed for seed in self.seeds.prompts if seed.id not in self.broken]

    def batches(self, items: Sequence[T], each: int = 1) -> Iterator[list[T]]:
        """The items in turn, `each` attacks for one, in batches; fewer or none when the budget runs out."""
        start = 0
        while start < len(items) and self.left > 0:
            end = start + max(1, min(self.size, self.left) // each)
            yield list(items[start:end])
            start = end

    def is_new(self, prompt: Prompt) -> bool:
        """Whether a prompt may be tried: nothing that reads like it was let through before, nor is it excluded."""
        key = reading_key(prompt)
        if self.excluded.has(prompt):
            self.left_out["excluded_attacks"] += 1
            return False
        if key in self.tried:
            return False
        self.tried.add(key)
        return True

    def try_attacks(self, attacks: Sequence[Attack]) -> list[Attempt | None]:
        """What becomes of each attack, in one batch: the costliest of `samples` answers; None: it was too long.

        Args:
            attacks: At most as many as are left.
        """
        fits = self.roles.target.fits([attack.prompt for attack in attacks])
        fitting = [attack for attack, fit in zip(attacks, fits, strict=True) if fit]
        self.left_out["too_long_attacks"] += len(attacks) - len(fitting)
        assert len(fitting) <= self.left
        tried = iter(self._try(fitting) if fitting else [])
        return [next(tried) if fit else None for fit in fits]

    def _try(self, attacks: Sequence[Attack]) -> list[Attempt]:
        samples = self.config.samples
        responses = self.roles.ask("target", [attack.prompt for attack in attacks for _ in range(samples)])
        costs = self.roles.score(responses)
        firsts = range(0, len(responses), samples)
        worst = [max(range(first, first + samples), key=costs.__getitem__) for first in firsts]
        tried = [self._attempt(attack, responses[i], costs[i]) for attack, i in zip(attacks, worst, strict=True)]
        self.attempts += tried
        self.broken |= {attempt.seed.id for attempt in tried if attempt.is_hit}
        self._report(tried)
        return tried

    def _attempt(self, attack: Attack, response: Response, cost: float) -> Attempt:
        is_hit = cost > self.config.threshold
        return Attempt(
            **dict(attack), response=response.text, finished=response.finished, cost=cost, is_hit=is_hit
        )

    def _report(self, tried: Sequence[Attempt]) -> None:
        """One line of metrics for a batch, and its costliest answer."""
        self.steps += 1
        count, worst = len(tried), max(tried, key=lambda attempt: attempt.cost)
        metrics = {
            "generation": worst.generation,
            "attacks": count,
            "hit_share": sum(attempt.is_hit for attempt in tried) / count,
            "mean_cost": sum(attempt.cost for attempt in tried) / count,
        }
        self.log.log(self.steps, metrics)
        self.log.sample(
            self.steps, [{"prompt": worst.prompt.text, "response": worst.response, "cost": worst.cost}]
        )
