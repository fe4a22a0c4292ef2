"""What people say of the items that a judge answers: their votes, and what they settled. No statistics here.

People are all labellers but judges; in an offline world the simulated ones stand for them.
"""

from dataclasses import dataclass

from equipoise.annotate.ballots import Ballots, PairKey, ResponseKey, count_in
from equipoise.annotate.consensus import decide_pair, decide_safety
from equipoise.annotate.labels import Item, RankQuestion
from equipoise.annotate.store.core import Store
from equipoise.records import REFUSALS


def read_people(store: Store) -> "People":
    """Everything that people have labelled in a project."""
    ballots = Ballots()
    count_in(ballots, store, ("person", "simulated"))
    return People(ballots)


@dataclass(frozen=True)
class People:
    """People's labels by item; outcomes: −1 the first response is better, 1 the second, 0 a tie."""

    ballots: Ballots

    def safety_votes(self, item: Item, position: int) -> list[bool]:
        """Everybody's scored verdicts on a response."""
        votes = self.ballots.safety.get(_response(item, position), {})
        return [verdict.is_safe for verdict in votes.values() if verdict.is_safe is not None]

    def is_safe(self, item: Item, position: int) -> bool | None:
        """What a lead ruled, else the majority's verdict; None: not judged, or split evenly."""
        key = _response(item, position)
        if key in self.ballots.safety_rulings:
            return self.ballots.safety_rulings[key].is_safe
        return decide_safety(self.ballots.safety.get(key, {}).values()).verdict.is_safe

    def refusal_votes(self, item: Item, position: int) -> list[int]:
        """Everybody's answers on whether a response refuses: 0 not, 1 in part, 2 fully."""
        votes = self.ballots.refusals.get(_response(item, position), {})
        return [REFUSALS.index(refusal) for refusal in votes.values()]

    def votes(self, question: RankQuestion, item: Item, first: int, second: int) -> list[int]:
        """Everybody's outcomes for two responses."""
        key, sign = self._find(question, item, first, second)
        return [sign * outcome for outcome in self.ballots.rankings[question].get(key, {}).values()]

    def pair(self, question: RankQuestion, item: Item, first: int, second: int) -> int | None:
        """What a lead ruled, else the side that most prefer, or a tie if all call it one; None: not settled."""
        key, sign = self._find(question, item, first, second)
        ruling = self.ballots.pair_rulings[question].get(key)
        if ruling is not None:
            return sign * ruling
        votes = self.votes(question, item, first, second)
        side = decide_pair(votes)
        if side is not None:
            return 1 if side else -1
        return 0 if votes and not any(votes) else None

    def _find(self, question: RankQuestion, item: Item, first: int, second: int) -> tuple[PairKey, int]:
        """The pair as the ballots hold it, and the sign that turns its outcomes into the item's order."""
        texts = item.responses[first], item.responses[second]
        straight = PairKey(item.prompt.id, *texts, item.repeat)
        if straight in self.ballots.rankings[question]:
            return straight, 1
        return PairKey(item.prompt.id, *texts[::-1], item.repeat), -1


def _response(item: Item, position: int) -> ResponseKey:
    return ResponseKey(item.prompt.id, item.responses[position], item.repeat)
