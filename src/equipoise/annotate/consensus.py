"""Several labellers' answers to one question become one, or none.

Majority, or Dawid and Skene's model where labellers differ in skill: it learns how often each of them gives which
answer to which truth, from their answers alone, and weighs them so. Either way what is not settled stays open.
Categories and severity are the majority's among those who agree with the verdict, under both methods.
"""

import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from statistics import median_low
from typing import Literal, NamedTuple

from equipoise.annotate.agreement import Votes
from equipoise.errors import ConfigError
from equipoise.records import Side, Verdict

ITERATIONS = 100
"""Steps of expectation maximisation at most; crowd-kit's default."""


class Majority(NamedTuple):
    """The verdict of a response's labellers, and what they did not settle."""

    verdict: Verdict
    unresolved: list[tuple[Literal["safety", "categories"], tuple[float, float]]]


def decide_pair(outcomes: Collection[int]) -> Side | None:
    """The side that most labellers prefer, ties counting half for each; None where neither leads.

    Args:
        outcomes: Per labeller −1 for the first response, 1 for the second, 0 for a tie.
    """
    return side_of(sum(outcomes))  # votes for the second less votes for the first: halves cancel


def side_of(lead: int | None) -> Side | None:
    """The better side of a pair: 0 where `lead` is negative, 1 where it is positive, None for a tie or nothing."""
    return None if not lead else 0 if lead < 0 else 1


def decide_safety(verdicts: Collection[Verdict]) -> Majority:
    """The majority's verdict on one response; unscored verdicts have no vote.

    An equal split, or nobody's vote, leaves `is_safe` None. See `complete` for what comes with it.
    """
    safe, unsafe = (sum(one.is_safe is value for one in verdicts) for value in (True, False))
    return complete(verdicts, None if safe == unsafe else safe > unsafe)


def complete(verdicts: Collection[Verdict], is_safe: bool | None) -> Majority:
    """A verdict with the categories and the severity of the labellers who agree with it.

    Categories: those that more than half of them named. Severity: their lower median.
    """
    safe, unsafe = (sum(one.is_safe is value for one in verdicts) for value in (True, False))
    if is_safe is None:
        return Majority(Verdict(is_safe=None), [("safety", (safe, unsafe))])
    winners = [one for one in verdicts if one.is_safe is is_safe]
    severities = [one.severity for one in winners if one.severity is not None]
    named = Counter(category for one in winners for category in dict.fromkeys(one.categories))
    categories = tuple(sorted(category for category, count in named.items() if 2 * count > len(winners)))
    verdict = Verdict(
        is_safe=is_safe, categories=categories, severity=median_low(severities) if severities else None
    )
    is_open = bool(named) and not categories
    return Majority(verdict, [("categories", (max(named.values()), unsafe))] if is_open else [])


def most_voted(outcomes: Collection[int]) -> int | None:
    """The outcome that more than half of the labellers gave; None where there is none."""
    best = Counter(outcomes).most_common(1)
    return best[0][0] if best and 2 * best[0][1] > len(outcomes) else None


def dawid_skene(votes: Votes) -> dict[Hashable, Mapping[int, float]]:
    """The probability of each outcome for each unit that somebody judged (Dawid and Skene 1979, by crowd-kit).

    Args:
        votes: Unit → labeller → outcome, all to one question: a labeller's skill is learnt over all of them.

    Raises:
        ConfigError: crowd-kit is not installed.
    """
    try:
        from crowdkit.aggregation import DawidSkene
    except ModuleNotFoundError as error:
        raise ConfigError(
            "method = 'dawid_skene' needs crowd-kit, which is not installed.",
            why="The base installation aggregates by majority; Dawid–Skene is in the extra `crowd`.",
            fix="pip install 'equipoise[crowd]'",
        ) from error
    import pandas as pd

    units = [unit for unit, given in votes.items() if given]
    answers = [(n, name, outcome) for n, unit in enumerate(units) for name, outcome in votes[unit].items()]
    if not answers:
        return {}
    table = pd.DataFrame(answers, columns=["task", "worker", "label"])
    with warnings.catch_warnings():  # crowd-kit 1.4 calls pandas in ways that pandas 3 announces to drop
        warnings.filterwarnings("ignore", "The (inplace|copy) keyword", DeprecationWarning)
        fitted = DawidSkene(n_iter=ITERATIONS).fit(table)
    assert fitted.probas_ is not None
    outcomes = [int(str(column)) for column in fitted.probas_.columns]
    rows = fitted.probas_.reindex(range(len(units))).to_numpy()
    return {unit: dict(zip(outcomes, map(float, row), strict=True)) for unit, row in zip(units, rows, strict=True)}


def likeliest(probabilities: Mapping[int, float], threshold: float) -> int | None:
    """The outcome whose probability is above the threshold, ½ at least; None where none is."""
    outcome = max(probabilities, key=lambda k: probabilities[k], default=None)
    return outcome if outcome is not None and probabilities[outcome] > threshold else None
