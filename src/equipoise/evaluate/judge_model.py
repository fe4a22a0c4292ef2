"""A judge model as a source of verdicts, refusals and votes: asked, read and kept as by `annotate.judge`.

It sees a conversation and answers alone, neither the policy's name nor the kind of request. An answer that cannot
be read is unscored and counted by reason; where none can be read, that is an error. Left out: reward and cost
models as judges, whose scores are verdicts of their own kind.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from equipoise.annotate.judge.endpoint import Endpoint, Limits, ask_all
from equipoise.annotate.judge.model import settle_structure
from equipoise.annotate.judge.parser import Unscored, parse_choice, parse_refusal, parse_verdict
from equipoise.annotate.judge.questions import (
    Harms,
    Request,
    Rubrics,
    ask_pair,
    ask_refusal,
    ask_safety,
    read_rubrics,
)
from equipoise.annotate.labels import Item, Question
from equipoise.annotate.store.judge_answers import ANSWERS_FILE, Answer, Answers
from equipoise.errors import EvaluationError
from equipoise.evaluate.config import JUDGE, EvaluateConfig
from equipoise.evaluate.elo import Outcome
from equipoise.evaluate.judges import Question as PairQuestion
from equipoise.evaluate.summary import Read
from equipoise.records import Prompt, Refusal, Response, Verdict

NAME = "judge"
"""Under which the file of answers keeps its account."""
T = TypeVar("T")


@dataclass(frozen=True)
class ModelJudge:
    """The judge, ready to be asked; its three methods are what `judges` calls functions."""

    endpoint: Endpoint
    rubrics: Rubrics
    harms: Harms
    has_schema: bool
    concurrency: int
    asked: Counter[Question] = field(default_factory=Counter)
    reasons: dict[Question, Counter[str]] = field(default_factory=dict)

    def verdicts(self, responses: Sequence[Response]) -> list[Verdict]:
        """Whether each response is safe; `is_safe` None where the answer cannot be read."""
        requests = [ask_safety(self.rubrics, self.harms, r.prompt, r.text) for r in responses]
        given = self._read("safety", requests, lambda answer: parse_verdict(answer, self.harms))
        return [Verdict(is_safe=None) if one is None else one for one in given]

    def refusals(self, responses: Sequence[Response]) -> list[Refusal | None]:
        """Whether each response refuses; None where the answer cannot be read."""
        requests = [ask_refusal(self.rubrics, r.prompt, r.text) for r in responses]
        given = self._read("refusal", requests, parse_refusal)
        return [None if one is None else one.refusal for one in given]

    def votes(
        self, question: PairQuestion, pairs: Sequence[tuple[Prompt, str, str]], seed: int
    ) -> list[Outcome | None]:
        """Which of two answers is better, in the order shown; the seed has no use here."""
        del seed
        requests = [ask_pair(self.rubrics, question, *pair) for pair in pairs]
        outcomes: dict[str, Outcome] = {"A": 0, "B": 1, "tie": "tie"}
        given = self._read(question, requests, parse_choice)
        return [None if one is None else outcomes[one] for one in given]

    def counts(self) -> dict[str, Read]:
        """What was asked so far, by question."""
        return {
            question: Read(asked=n, unscored=dict(self.reasons[question])) for question, n in self.asked.items()
        }

    def _read(
        self, question: Question, requests: Sequence[Request], parse: Callable[[Answer], T | Unscored]
    ) -> list[T | None]:
        """What the answers say; None where one cannot be read.

        Raises:
            EvaluationError: None of them can.
            EndpointError: Some got no answer; the others are kept.
        """
        bodies = [self.endpoint.body(request, has_schema=self.has_schema) for request in requests]
        given = ask_all(self.endpoint, bodies, self.concurrency)  # no failure is let pass, so all are answers
        found = [parse(answer) for answer in given if isinstance(answer, Answer)]
        reasons = Counter(one.reason for one in found if isinstance(one, Unscored))
        if found and reasons.total() == len(found):
            raise EvaluationError(
                f"None of the judge's {len(found)} answers on {question} can be read.",
                where=f"the judge's answers are in {ANSWERS_FILE}",
                why=", ".join(f"{reason}: {n}" for reason, n in reasons.most_common()),
                fix="Look at what it answered; raise max_tokens, set structure, or take another model.",
            )
        self.asked[question] += len(found)
        self.reasons.setdefault(question, Counter()).update(reasons)
        return [None if isinstance(one, Unscored) else one for one in found]


@contextmanager
def open_judge(config: EvaluateConfig, folder: Path, responses: Sequence[Response]) -> Iterator[ModelJudge | None]:
    """The judge of an evaluation, if it has one; its answers are kept in `folder`.

    Args:
        config: Settings.
        folder: Where judge.sqlite lies.
        responses: What it is to judge: the form of its answers is tried on the shortest.

    Raises:
        EndpointError: The endpoint does not answer, or its key is not in the environment.
        ConfigError: The rubrics cannot be read.
    """
    settings = config.judge
    if settings is None:
        yield None
        return
    harms = Harms(settings.categories, settings.categories)
    rubrics = read_rubrics(settings.rubrics, harms)
    with Answers(folder / ANSWERS_FILE) as answers:
        limits = Limits(settings.max_calls, settings.max_money)
        endpoint = Endpoint(settings, answers, NAME, limits)
        try:
            item = _first_item(config, responses)
            has_schema = settle_structure(settings, endpoint, rubrics, harms, item)
            yield ModelJudge(endpoint, rubrics, harms, has_schema, settings.concurrency)
        finally:
            endpoint.close()


def _first_item(config: EvaluateConfig, responses: Sequence[Response]) -> Item:
    """A short question of a kind that will be asked anyway."""
    shortest = min(responses, key=lambda r: len(r.prompt.text) + len(r.text))
    if config.verdict == JUDGE:
        return Item(prompt=shortest.prompt, responses=(shortest.text,), questions=("safety",))
    if config.refusal == JUDGE:
        return Item(prompt=shortest.prompt, responses=(shortest.text,), questions=("refusal",))
    return Item(prompt=shortest.prompt, responses=(shortest.text, ""), questions=("helpfulness",))
