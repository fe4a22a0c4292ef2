"""A judge made of a reward and a cost model: order by reward, order by cost, verdict by the cost's sign.

Scores are kept like answers, so a run that goes on finds the same ones. Left out: loading the models, which the
caller does, and categories and the mixed question, which two numbers cannot answer.
"""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from equipoise.annotate.judge.judge import Heard, Judgement, rank_by
from equipoise.annotate.judge.parser import Reason
from equipoise.annotate.labels import Item, RankQuestion
from equipoise.annotate.store.judge_answers import Answer, Answers
from equipoise.records import Prompt, Response, Verdict


class Scores(Protocol):
    """Gives one finite number per response; `rollout.score.ScoreSource` is one."""

    def score(self, responses: Sequence[Response]) -> list[float]:
        """Score responses, in order."""
        ...


class Scored(NamedTuple):
    """A response's two scores; cost > 0 is unsafe."""

    reward: float
    cost: float


@dataclass(frozen=True)
class ScoresJudge:
    """See `judge.Judge`; one item at a time, whatever the concurrency."""

    reward: Scores
    cost: Scores
    answers: Answers
    identity: Mapping[str, Any]  # what the scores depend on
    turn: threading.Lock = field(default_factory=threading.Lock)

    def judge(self, item: Item) -> Judgement:
        """See `judge.Judge`."""
        scored = self._scores(item)
        verdicts: dict[int, Verdict] = {}
        heard: list[Heard] = []
        if "safety" in item.questions:
            verdicts = {at: Verdict(is_safe=one.cost <= 0) for at, one in enumerate(scored)}
            heard = [Heard("safety", (at,), verdict) for at, verdict in verdicts.items()]
        orders: dict[RankQuestion, tuple[int, ...]] = {
            "helpfulness": rank_by([one.reward for one in scored]),
            "harmlessness": rank_by([-one.cost for one in scored]),
        }
        rankings = {question: ranks for question, ranks in orders.items() if question in item.questions}
        unranked: dict[RankQuestion, Reason] = {"single": "rejected"} if "single" in item.questions else {}
        return Judgement(item.id, verdicts, rankings, tuple(heard), unranked)

    def _scores(self, item: Item) -> list[Scored]:
        prompt = Prompt(messages=item.prompt.messages)
        responses = [Response(prompt=prompt, text=text) for text in item.responses]
        request = {**self.identity, "item": item.id}
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        known = self.answers.find(key)
        if known is None:
            with self.turn:
                both = zip(self.reward.score(responses), self.cost.score(responses), strict=True)
                known = Answer(200, json.dumps([list(pair) for pair in both]))
            self.answers.keep(None, key, request, known)
        return [Scored(*pair) for pair in json.loads(known.text)]
