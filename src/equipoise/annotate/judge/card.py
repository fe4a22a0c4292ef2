"""The judge card: what is known of a judge's reliability, computed from its answers and people's labels.

Agreement with people's majority, lean to the first shown and to the longer response, flips, ties, answers that
could not be read, cost; and what the judge says of all responses, corrected by what people say of some. What there
is no evidence for is None. Left out: how it looks (`page`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from equipoise import __version__
from equipoise.annotate.agreement import OUTCOMES, Agreement, measure_agreement
from equipoise.annotate.consensus import most_voted
from equipoise.annotate.judge.judge import Judgement, pairs_of
from equipoise.annotate.judge.lean import Compared, LengthLean, OrderLean, length_lean, order_lean, pairs_heard
from equipoise.annotate.judge.parser import REASONS, Reason, Unscored
from equipoise.annotate.judge.people import People
from equipoise.annotate.labels import RANK_QUESTIONS, Item, RankQuestion, compare_ranks
from equipoise.annotate.store.judge_answers import Spending
from equipoise.errors import EvaluationError
from equipoise.records import REFUSALS, Record
from equipoise.stats import Z95, Calibrated, Rate, ppi_mean, wilson


class AgainstPeople(Record):
    """Agreement with people's majority, and people's with each other on the same things for comparison.

    `unsettled` counts what people judged without a majority; it is in neither.
    """

    judge: Agreement
    people: Agreement
    unsettled: int


class QuestionCard(Record):
    """A judge on one ranking question.

    `flips`: pairs whose winner changed with the order; `wavering`: a winner in one order, a tie in the other; both
    are ties in the labels and in `ties`. `settled`: pairs not asked, as the judge's own verdicts or scores
    decide them.
    `unranked`: items left without a ranking, by reason.
    """

    pairs: int
    settled: int
    flips: Rate | None
    wavering: Rate | None
    ties: Rate | None
    unranked: dict[Reason, int]
    order: OrderLean
    length: LengthLean
    against_people: AgainstPeople


class Unsafe(Record):
    """How many responses are unsafe: by the judge alone, by people alone, and by both together.

    `judge` is over single responses. `people` and `calibrated` take items as the sample, so what is said about one
    prompt does not count twice; they hold if people's items are a random sample. `why_not` says why they are None.
    """

    judge: Rate | None
    people: Calibrated | None
    calibrated: Calibrated | None
    why_not: str


class JudgeCard(Record):
    """All numbers of one judge; see docs/judge.md."""

    judge: str
    version: str
    settings: dict[str, Any]
    items: int
    judged: int
    without_answer: int
    stopped: str
    parsed: Rate | None
    unscored: dict[Reason, Rate]
    safety: AgainstPeople | None
    unsafe: Unsafe | None
    refusal: AgainstPeople | None
    questions: dict[RankQuestion, QuestionCard]
    spending: Spending


class Run(NamedTuple):
    """What a run came to: the judgements so far, items that got no answer, and why it stopped early, if it did."""

    judgements: Sequence[Judgement]
    failures: int
    stopped: str


def make_card(
    name: str, settings: Mapping[str, Any], items: Sequence[Item], run: Run, people: People, spending: Spending
) -> JudgeCard:
    """All numbers of one judge.

    Args:
        name: The judge.
        settings: What its answers depend on.
        items: All that it was to judge.
        run: What came of it.
        people: What people say of the same items.
        spending: What it took.
    """
    heard = [one.value for judgement in run.judgements for one in judgement.heard]
    reasons = Counter(value.reason for value in heard if isinstance(value, Unscored))
    asked = {question for item in items for question in item.questions}
    by_id = {item.id: item for item in items}
    judged = [(by_id[judgement.item], judgement) for judgement in run.judgements]
    return JudgeCard(
        judge=name,
        version=__version__,
        settings=dict(settings),
        items=len(items),
        judged=len(run.judgements),
        without_answer=run.failures,
        stopped=run.stopped,
        parsed=wilson(len(heard) - reasons.total(), len(heard)) if heard else None,
        unscored={reason: wilson(reasons[reason], len(heard)) for reason in REASONS} if heard else {},
        safety=_safety(judged, people) if "safety" in asked else None,
        unsafe=_unsafe(judged, people) if "safety" in asked else None,
        refusal=_refusal(judged, people) if "refusal" in asked else None,
        questions={q: _question(judged, q, people) for q in RANK_QUESTIONS if q in asked},
        spending=spending,
    )


Judged = Sequence[tuple[Item, Judgement]]


def _question(judged: Judged, question: RankQuestion, people: People) -> QuestionCard:
    pairs = [pair for item, one in judged for pair in pairs_heard(item, one.heard, question)]
    scored = [pair for pair in pairs if pair.outcome is not None]
    winners = [{pair.straight, pair.turned} for pair in scored]  # the same letter twice is a flip
    flips = sum(len(both) == 1 and both != {"tie"} for both in winners)
    wavering = sum(len(both) == 2 and "tie" in both for both in winners)
    ties = sum(pair.outcome == 0 for pair in scored)
    of = len(scored)
    compared = [Compared(p, people.pair(question, p.item, p.first, p.second)) for p in pairs]
    asked = [(item, one) for item, one in judged if question in item.questions]
    return QuestionCard(
        pairs=len(pairs),
        settled=sum(len(pairs_of(len(item.responses))) for item, _ in asked) - len(pairs),
        flips=wilson(flips, of) if of else None,
        wavering=wilson(wavering, of) if of else None,
        ties=wilson(ties, of) if of else None,
        unranked=dict(Counter(one.unranked[question] for _, one in asked if question in one.unranked)),
        order=order_lean(pairs),
        length=length_lean(compared),
        against_people=_against_pairs(asked, question, people),
    )


def _against_pairs(judged: Judged, question: RankQuestion, people: People) -> AgainstPeople:
    """Every pair of every ranking counts, those that the verdicts settle too."""
    rows = []
    for item, one in judged:
        ranks = one.rankings.get(question)
        for first, second in pairs_of(len(item.responses)):
            said = None if ranks is None else compare_ranks(ranks, first, second)
            pair = (question, item, first, second)
            rows.append((said, people.pair(*pair), people.votes(*pair)))
    return _against(rows, OUTCOMES["single_dimension" if question == "single" else question])


def _safety(judged: Judged, people: People) -> AgainstPeople:
    rows = []
    for item, one in judged:
        for at, verdict in one.verdicts.items():
            said, majority = verdict.is_safe, people.is_safe(item, at)
            votes = [int(vote) for vote in people.safety_votes(item, at)]
            rows.append((None if said is None else int(said), None if majority is None else int(majority), votes))
    return _against(rows, OUTCOMES["safety"])


def _refusal(judged: Judged, people: People) -> AgainstPeople:
    rows = []
    for item, one in judged:
        for at, verdict in one.verdicts.items():
            votes = people.refusal_votes(item, at)
            said = None if verdict.refusal is None else REFUSALS.index(verdict.refusal)
            rows.append((said, most_voted(votes), votes))
    return _against(rows, OUTCOMES["refusal"])


def _against(rows: Sequence[tuple[int | None, int | None, list[int]]], outcomes: Sequence[int]) -> AgainstPeople:
    """Agreement out of (judge's outcome, people's, their votes); None is unscored, or not settled."""
    both = [(said, majority, votes) for said, majority, votes in rows if said is not None and majority is not None]
    return AgainstPeople(
        judge=measure_agreement([[said, majority] for said, majority, _ in both], outcomes),
        people=measure_agreement([votes for _, _, votes in both], outcomes),
        unsettled=sum(bool(votes) and majority is None for _, majority, votes in rows),
    )


def _unsafe(judged: Judged, people: People) -> Unsafe:
    scored = [v.is_safe for _, one in judged for v in one.verdicts.values() if v.is_safe is not None]
    told, by_people, by_judge, further = [], [], [], []
    for item, one in judged:
        known = [people.is_safe(item, at) for at in range(len(item.responses))]
        said = [verdict.is_safe for verdict in one.verdicts.values()]
        if None not in known:
            told.append(known.count(False) / len(known))
        if not said or None in said:
            continue
        share = said.count(False) / len(said)
        if None in known:
            further.append(share)
        else:
            by_people.append(told[-1])
            by_judge.append(share)
    try:
        calibrated = ppi_mean(np.array(by_people), np.array(by_judge), np.array(further))
        why_not = ""
    except EvaluationError as error:
        calibrated, why_not = None, error.why
    return Unsafe(
        judge=wilson(scored.count(False), len(scored)) if scored else None,
        people=_classical(told),
        calibrated=calibrated,
        why_not=why_not,
    )


def _classical(shares: Sequence[float]) -> Calibrated | None:
    """The mean of people's shares alone; None where they are too few, or do not differ."""
    if len(shares) < 2 or len(set(shares)) == 1:
        return None
    value = float(np.mean(shares))
    half = Z95 * float(np.std(shares, ddof=1)) / len(shares) ** 0.5
    return Calibrated(value=value, low=value - half, high=value + half, n=len(shares), n_predicted=0, power=0.0)
