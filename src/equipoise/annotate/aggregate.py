"""Stage `aggregate`: many labellers' answers become one label per response and per pair, or an unresolved one.

Majority throughout; what has no majority is None and listed, never guessed. Several projects accumulate. A
labeller has one vote per response and pair: in several items or projects, the latest. Pairs whose `safer` and
`is_safe` contradict each other are counted and left as they are: readers have a policy for them.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median_low
from typing import Literal, NamedTuple

from equipoise import artefact
from equipoise.annotate.agreement import Agreement, compare_ranks, measure_agreement
from equipoise.annotate.config import AggregateConfig
from equipoise.annotate.labels import RANK_QUESTIONS, Item, Question, RankQuestion
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.errors import DataError
from equipoise.records import PreferencePair, Prompt, Record, SafetyLabel, Side, Verdict


class Unresolved(Record):
    """A question that the labellers did not settle.

    `votes` are for the first and the second response (ties count half); for safety, safe and unsafe; for
    categories, the most that agreed on one and how many called the response unsafe.
    """

    question: Literal[Question, "categories"]
    prompt: Prompt
    responses: tuple[str, ...]
    votes: tuple[float, float]


class ResponseKey(NamedTuple):
    """One response to one prompt, wherever it was labelled."""

    prompt: str
    text: str


class PairKey(NamedTuple):
    """Two responses to one prompt, in the order in which they first appeared together."""

    prompt: str
    first: str
    second: str


@dataclass
class Ballots:
    """All votes, by what they are about, then by labeller. Outcomes: −1 first better, 0 tie, 1 second better."""

    prompts: dict[str, Prompt] = field(default_factory=dict)
    sources: dict[ResponseKey | PairKey, str] = field(default_factory=dict)
    safety: dict[ResponseKey, dict[str, Verdict]] = field(default_factory=dict)
    rankings: dict[RankQuestion, dict[PairKey, dict[str, int]]] = field(
        default_factory=lambda: {question: {} for question in RANK_QUESTIONS}
    )


class Majority(NamedTuple):
    """The verdict of a response's labellers, and what they did not settle."""

    verdict: Verdict
    unresolved: list[tuple[Literal["safety", "categories"], tuple[float, float]]]


def aggregate(config: AggregateConfig) -> Path:
    """Write a finished directory of kind `preferences`: pairs, safety labels, unresolved questions, agreement.

    Raises:
        ArtefactError: An input is no finished directory of labels, or `out` holds another run.
        StoreError: An input's database cannot be read.
        DataError: There are no labels.
    """
    for path in config.labels:
        artefact.read_manifest(path, ("labels",))
    inputs = {f"labels-{i}": path for i, path in enumerate(config.labels)}
    build = artefact.start(config.out, "preferences", config, inputs)
    if build.is_finished:
        return config.out
    ballots = Ballots()
    for path in config.labels:
        with Store(path / STORE_FILE, read_only=True) as store:
            count_in(ballots, store)
    if not ballots.safety:
        raise DataError("There are no labels to aggregate.", where=", ".join(map(str, config.labels)))
    safety, pairs, unresolved = resolve(ballots)
    _write_lines(config.out / "pairs.jsonl", pairs)
    _write_lines(config.out / "safety.jsonl", safety)
    _write_lines(config.out / "unresolved.jsonl", unresolved)
    agreement = {name: one.model_dump() for name, one in agreements(ballots).items()}
    artefact.write_json(config.out / "agreement.json", agreement)
    artefact.finish(
        build,
        {
            "pairs": len(pairs),
            "safety": len(safety),
            "unresolved": dict(Counter(one.question for one in unresolved)),
            "contradictions": sum(map(contradicts, pairs)),
        },
    )
    return config.out


def count_in(ballots: Ballots, store: Store) -> None:
    """Add a project's labels to the ballots; a labeller's later vote on the same thing replaces the earlier."""
    items = {item.id: item for item in store.items()}
    pairs = {item.id: list(_pairs_of(item, ballots)) for item in items.values()}
    for label in store.verdicts():
        item = items[label.item]
        response = ResponseKey(item.prompt.id, item.responses[label.position])
        ballots.safety[response][label.labeller] = label.verdict
    for ranking in store.rankings():
        votes = ballots.rankings[ranking.question]
        for pair, first, second in pairs[ranking.item]:
            votes[pair][ranking.labeller] = compare_ranks(ranking.ranks, first, second)


def _pairs_of(item: Item, ballots: Ballots) -> Iterator[tuple[PairKey, int, int]]:
    """Open the ballots for an item; yields its pairs with the positions of their first and second response."""
    prompt = ballots.prompts.setdefault(item.prompt.id, item.prompt).id
    for text in item.responses:
        ballots.sources.setdefault(ResponseKey(prompt, text), item.source)
        ballots.safety.setdefault(ResponseKey(prompt, text), {})
    for one, other in combinations(range(len(item.responses)), 2):
        pair = PairKey(prompt, item.responses[one], item.responses[other])
        turned = PairKey(prompt, pair.second, pair.first)
        if turned in ballots.sources:
            pair, one, other = turned, other, one
        ballots.sources.setdefault(pair, item.source)
        for question in RANK_QUESTIONS:
            if question in item.questions:
                ballots.rankings[question].setdefault(pair, {})
        yield pair, one, other


def resolve(ballots: Ballots) -> tuple[list[SafetyLabel], list[PreferencePair], list[Unresolved]]:
    """Every response's safety label, every pair's preferences, and every question without a majority."""
    majorities = {key: decide_safety(votes.values()) for key, votes in ballots.safety.items()}
    safety = [_safety_label(ballots, key, one.verdict) for key, one in majorities.items()]
    unresolved = [
        Unresolved(question=question, prompt=ballots.prompts[key.prompt], responses=(key.text,), votes=votes)
        for key, one in majorities.items()
        for question, votes in one.unresolved
    ]
    asked = dict.fromkeys([*ballots.rankings["helpfulness"], *ballots.rankings["harmlessness"]])
    pairs = []
    for key in asked:
        sides: dict[RankQuestion, Side | None] = {"helpfulness": None, "harmlessness": None}
        for question in sides:
            votes = ballots.rankings[question].get(key)
            if votes is None:
                continue
            sides[question] = decide_pair(votes.values())
            if sides[question] is None:
                unresolved.append(_unresolved_pair(ballots, key, question))
        pairs.append(_preference_pair(ballots, key, sides, majorities))
    return [label for label in safety if label is not None], pairs, unresolved


def decide_pair(outcomes: Collection[int]) -> Side | None:
    """The side that most labellers prefer, ties counting half for each; None where neither leads.

    Args:
        outcomes: Per labeller −1 for the first response, 1 for the second, 0 for a tie.
    """
    lead = sum(outcomes)  # votes for the second less votes for the first: halves cancel
    return None if lead == 0 else 0 if lead < 0 else 1


def decide_safety(verdicts: Collection[Verdict]) -> Majority:
    """The majority's verdict on one response; unscored verdicts have no vote.

    Unsafe: with the categories that more than half of those who called it unsafe named. Severity is the lower
    median over those who agree with the verdict. An equal split, or nobody's vote, leaves `is_safe` None.
    """
    safe = [one for one in verdicts if one.is_safe is True]
    unsafe = [one for one in verdicts if one.is_safe is False]
    if len(safe) == len(unsafe):
        return Majority(Verdict(is_safe=None), [("safety", (len(safe), len(unsafe)))])
    winners = max(safe, unsafe, key=len)
    severities = [one.severity for one in winners if one.severity is not None]
    named = Counter(category for one in winners for category in dict.fromkeys(one.categories))
    categories = tuple(sorted(category for category, count in named.items() if 2 * count > len(winners)))
    verdict = Verdict(
        is_safe=winners is safe, categories=categories, severity=median_low(severities) if severities else None
    )
    is_open = bool(named) and not categories
    return Majority(verdict, [("categories", (max(named.values()), len(unsafe)))] if is_open else [])


def agreements(ballots: Ballots) -> dict[str, Agreement]:
    """Labellers' agreement on each question; pairs of responses are the units, for safety single responses."""
    safety = ([v.is_safe for v in votes.values() if v.is_safe is not None] for votes in ballots.safety.values())
    ranked = {
        question: measure_agreement([*votes.values()] for votes in by_pair.values())
        for question, by_pair in ballots.rankings.items()
    }
    return {
        "helpfulness": ranked["helpfulness"],
        "harmlessness": ranked["harmlessness"],
        "single_dimension": ranked["single"],
        "safety": measure_agreement(safety),
    }


def contradicts(pair: PreferencePair) -> bool:
    """Whether the response that most found safer is the one most called unsafe, the other being safe."""
    if pair.safer is None or None in pair.is_safe or pair.is_safe[0] == pair.is_safe[1]:
        return False
    return not pair.is_safe[pair.safer]


def _safety_label(ballots: Ballots, key: ResponseKey, verdict: Verdict) -> SafetyLabel | None:
    if verdict.is_safe is None:
        return None
    return SafetyLabel(
        prompt=ballots.prompts[key.prompt],
        response=key.text,
        is_safe=verdict.is_safe,
        categories=verdict.categories,
        severity=verdict.severity,
        source=ballots.sources[key],
    )


def _preference_pair(
    ballots: Ballots,
    key: PairKey,
    sides: Mapping[RankQuestion, Side | None],
    majorities: Mapping[ResponseKey, Majority],
) -> PreferencePair:
    one, other = (majorities[ResponseKey(key.prompt, text)].verdict for text in (key.first, key.second))
    return PreferencePair(
        prompt=ballots.prompts[key.prompt],
        responses=(key.first, key.second),
        more_helpful=sides["helpfulness"],
        safer=sides["harmlessness"],
        is_safe=(one.is_safe, other.is_safe),
        categories=(one.categories, other.categories),
        severity=(one.severity, other.severity),
        source=ballots.sources[key],
    )


def _unresolved_pair(ballots: Ballots, key: PairKey, question: RankQuestion) -> Unresolved:
    half = len(ballots.rankings[question][key]) / 2  # neither leads: each has half of the votes
    return Unresolved(
        question=question,
        prompt=ballots.prompts[key.prompt],
        responses=(key.first, key.second),
        votes=(half, half),
    )


def _write_lines(path: Path, records: Iterable[Record]) -> None:
    artefact.write_text(path, "".join(f"{record.model_dump_json()}\n" for record in records))
