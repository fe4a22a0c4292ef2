"""Numbers on the lead's pages that need every label, and the items behind them: agreement, what is unsettled.

Runs in the thread for long reads. Statistics are imported here only when somebody asks for them, so that a server
starts without numpy and pandas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from equipoise.annotate.store import overview
from equipoise.annotate.store.core import LabellerKind, Store

if TYPE_CHECKING:
    from equipoise.annotate.aggregate import Resolved
    from equipoise.annotate.agreement import Agreement, AgreementQuestion
    from equipoise.annotate.ballots import Ballots

Whom = Literal["people", "people and judges", "everybody"]
KINDS: dict[Whom, tuple[LabellerKind, ...]] = {
    "people": ("person",),
    "people and judges": ("person", "judge"),
    "everybody": ("person", "judge", "simulated"),
}
Relation = Literal["together", "apart", "one tie", "two ties"]
RELATIONS: dict[Relation, str] = {
    "together": "the more helpful response is the safer one",
    "apart": "the more helpful response is the more harmful one",
    "one tie": "a winner in one preference, none in the other",
    "two ties": "no winner in either",
}
QUESTIONS: "tuple[AgreementQuestion, ...]" = (
    "safety",
    "helpfulness",
    "harmlessness",
    "single_dimension",
    "refusal",
)


class Relations(NamedTuple):
    """How the two preferences relate, over pairs of responses."""

    answers: dict[Relation, int]
    """Counted for each labeller by themselves."""
    pairs: dict[Relation, int]
    """Counted once for each pair, by majority."""
    items: dict[Relation, list[str]]


@dataclass(frozen=True)
class Report:
    """What all labels say at one moment."""

    ballots: "Ballots"
    resolved: "Resolved"
    questions: "dict[AgreementQuestion, Agreement]"
    categories: "dict[str, Agreement]"
    relations: Relations
    unscored: int
    labellers: "dict[str, dict[tuple[str, str], Agreement]]" = field(default_factory=dict)
    """Filled when asked for: with many labellers there are very many pairs."""


class Reports:
    """Makes a report anew only when something was written since; for one thread."""

    def __init__(self) -> None:
        self._at = -1
        self._reports: dict[Whom, Report] = {}

    def get(self, store: Store, whom: Whom) -> Report:
        """The report on these labellers."""
        if (at := overview.version(store)) != self._at:
            self._at, self._reports = at, {}
        if whom not in self._reports:
            self._reports[whom] = make_report(store, whom)
        return self._reports[whom]


def make_report(store: Store, whom: Whom) -> Report:
    """Count all votes and measure the agreement on each question and category."""
    from equipoise.annotate.aggregate import resolve
    from equipoise.annotate.agreement import agreements, category_agreements
    from equipoise.annotate.ballots import Ballots, count_in
    from equipoise.annotate.config import ResolveConfig

    ballots = Ballots()
    with store.snapshot():
        count_in(ballots, store, KINDS[whom])
    resolved = resolve(ballots, ResolveConfig())
    unscored = sum(verdict.is_safe is None for votes in ballots.safety.values() for verdict in votes.values())
    return Report(
        ballots,
        resolved,
        {question: one for question, one in agreements(ballots).items() if one.units},
        category_agreements(ballots),
        relate(ballots),
        unscored,
    )


def measure_labellers(report: Report, question: "AgreementQuestion") -> "dict[tuple[str, str], Agreement]":
    """Pair of labellers → their agreement on a question."""
    from equipoise.annotate.agreement import labeller_agreements

    if question not in report.labellers:
        report.labellers[question] = labeller_agreements(report.ballots, question)
    return report.labellers[question]


def relate(ballots: "Ballots") -> Relations:
    """How helpfulness and harmlessness relate, for each labeller and by majority."""
    found = Relations({}, {}, {})
    harmless = ballots.rankings["harmlessness"]
    for key, votes in ballots.rankings["helpfulness"].items():
        others = harmless.get(key, {})
        for name in votes.keys() & others.keys():
            relation = _relation(votes[name], others[name])
            found.answers[relation] = found.answers.get(relation, 0) + 1
        if votes and others:
            relation = _relation(sum(votes.values()), sum(others.values()))
            found.pairs[relation] = found.pairs.get(relation, 0) + 1
            found.items.setdefault(relation, []).extend(ballots.items[key])
    return found


def behind(report: Report, question: str, labellers: tuple[str, ...], *, disputed: bool) -> list[str]:
    """The items behind a number, in the order in which they were added.

    Args:
        report: Where the number is.
        question: One of `QUESTIONS`, or `category:` and a category's name.
        labellers: The two that are compared; empty: all.
        disputed: Only what they did not agree on, or all that at least two of them judged.
    """
    chosen: dict[str, None] = {}
    for key, votes in _votes(report, question).items():
        given = [outcome for name, outcome in votes.items() if not labellers or name in labellers]
        if len(given) > 1 and (not disputed or len(set(given)) > 1):
            chosen.update(dict.fromkeys(report.ballots.items[key]))
    return list(chosen)


def unsettled(report: Report) -> dict[str, list[str]]:
    """Item → the questions on which its labellers disagree without a majority and no lead has ruled.

    A pair that everybody calls a tie is no disagreement; on refusals, whose labels come from files, nobody rules.
    """
    from equipoise.annotate.ballots import PairKey, ResponseKey

    ballots, found = report.ballots, dict[str, list[str]]()
    for one in report.resolved.unresolved:
        key: PairKey | ResponseKey
        if one.question in ("helpfulness", "harmlessness"):
            key = PairKey(one.prompt.id, one.responses[0], one.responses[1], one.repeat)
            if not any(ballots.rankings[one.question][key].values()):
                continue
        elif one.question == "refusal":
            continue
        else:
            key = ResponseKey(one.prompt.id, one.responses[0], one.repeat)
        for item in ballots.items[key]:
            questions = found.setdefault(item, [])
            if one.question not in questions:
                questions.append(one.question)
    return found


def _votes(report: Report, question: str) -> Mapping[Any, Mapping[str, int]]:
    from equipoise.annotate.agreement import votes_on

    category = question.removeprefix("category:")
    if category == question:
        return votes_on(report.ballots, question)  # type: ignore[arg-type]
    return {
        key: {name: int(category in v.categories) for name, v in votes.items() if v.is_safe is not None}
        for key, votes in report.ballots.safety.items()
    }


def _relation(helpful: int, harmless: int) -> Relation:
    if not helpful and not harmless:
        return "two ties"
    if not helpful or not harmless:
        return "one tie"
    return "together" if (helpful > 0) == (harmless > 0) else "apart"
