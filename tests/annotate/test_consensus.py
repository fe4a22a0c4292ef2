"""Dawid–Skene against majority, against crowd-kit itself, and what it leaves open."""

import sys

import numpy as np
import pandas as pd
import pytest
from crowdkit.aggregation import DawidSkene

from equipoise.annotate.aggregate import resolve
from equipoise.annotate.ballots import Ballots, PairKey, ResponseKey
from equipoise.annotate.config import ResolveConfig
from equipoise.annotate.consensus import dawid_skene, likeliest, most_voted
from equipoise.errors import ConfigError
from equipoise.records import Prompt, Verdict

SKILLS = {"expert-0": 0.95, "expert-1": 0.95, **{f"novice-{i}": 0.52 for i in range(5)}}
"""How often each labeller is right: two who know, five who nearly toss a coin."""


def panel_votes(units=400, seed=0):
    """Truth 0 or 1 per unit, and everybody's vote on it."""
    generator = np.random.default_rng(seed)
    truth = [int(value) for value in generator.integers(0, 2, units)]
    votes = {
        unit: {name: int(right if generator.random() < skill else 1 - right) for name, skill in SKILLS.items()}
        for unit, right in enumerate(truth)
    }
    return truth, votes


def ballots_of(truth, votes):
    """The same votes as safety verdicts on one response per prompt, and as rankings of it against another."""
    ballots = Ballots()
    for unit, given in votes.items():
        prompt = Prompt.from_text(f"request {unit}")
        safe, pair = ResponseKey(prompt.id, "a"), PairKey(prompt.id, "a", "b")
        ballots.prompts[prompt.id] = prompt
        ballots.sources |= {safe: "", pair: ""}
        ballots.safety[safe] = {name: Verdict(is_safe=bool(vote)) for name, vote in given.items()}
        ballots.rankings["helpfulness"][pair] = {name: 1 if vote else -1 for name, vote in given.items()}
    return ballots


@pytest.mark.parametrize("seed", [0, 1])
def test_dawid_skene_beats_the_majority_where_skills_differ(seed):
    truth, votes = panel_votes(seed=seed)
    ballots = ballots_of(truth, votes)
    right = {}
    for method in ("majority", "dawid_skene"):
        found = resolve(ballots, ResolveConfig(method=method))
        safety = np.mean([label.is_safe == truth[n] for n, label in enumerate(found.safety)])
        pairs = np.mean([pair.more_helpful == truth[n] for n, pair in enumerate(found.pairs)])
        assert len(found.safety) == len(found.pairs) == len(truth)
        right[method] = (safety, pairs)
    # An odd panel: the majority always decides. Two experts agree nine times in ten, and are right then.
    assert all(skilled > 0.93 for skilled in right["dawid_skene"])
    assert all(plain < 0.85 for plain in right["majority"])


@pytest.mark.filterwarnings("ignore:The (inplace|copy) keyword:DeprecationWarning")  # in crowd-kit 1.4
def test_probabilities_equal_crowd_kits_own():
    _, votes = panel_votes(units=50)
    table = pd.DataFrame(
        [(unit, name, "yes" if vote else "no") for unit, given in votes.items() for name, vote in given.items()],
        columns=["task", "worker", "label"],
    )
    expected = DawidSkene(n_iter=100).fit(table)
    found = dawid_skene(votes)
    for unit, row in expected.probas_.iterrows():
        assert found[unit] == pytest.approx({0: row["no"], 1: row["yes"]})
    words = {0: "no", 1: "yes"}
    assert {unit: words[likeliest(found[unit], 0.5)] for unit in found} == expected.labels_.to_dict()


def test_what_is_not_probable_enough_stays_open_and_is_listed_with_its_votes():
    # One labeller each: nothing tells the two apart, so one against one stays at a half.
    votes = {n: {"ann": n % 2, "bob": 1 - n % 2} for n in range(10)}
    found = resolve(ballots_of([0] * 10, votes), ResolveConfig(method="dawid_skene", min_probability=0.9))
    assert (found.safety, [pair.more_helpful for pair in found.pairs]) == ([], [None] * 10)
    assert [(one.question, one.votes) for one in found.unresolved[:10]] == [("safety", (1, 1))] * 10
    assert {(one.question, one.votes) for one in found.unresolved[10:]} == {("helpfulness", (1, 1))}


def test_a_higher_threshold_leaves_more_open():
    truth, votes = panel_votes(units=100)
    ballots = ballots_of(truth, votes)
    open_at = [
        len(resolve(ballots, ResolveConfig(method="dawid_skene", min_probability=p)).unresolved)
        for p in (0.5, 0.9, 0.999999)
    ]
    assert open_at == sorted(open_at)
    assert open_at[0] < open_at[-1]


def test_nobodys_votes_are_unresolved_under_both_methods():
    ballots = ballots_of([0], {0: {}})
    for method in ("majority", "dawid_skene"):
        found = resolve(ballots, ResolveConfig(method=method))
        assert [one.question for one in found.unresolved] == ["safety", "helpfulness"]


def test_rulings_come_before_votes_and_a_ruled_tie_is_settled():
    votes = {0: {"ann": 1, "bob": 1}, 1: {"ann": 0, "bob": 1}}
    for method in ("majority", "dawid_skene"):
        ballots = ballots_of([0, 0], votes)
        first, second = ballots.safety
        one, other = ballots.rankings["helpfulness"]
        ballots.safety_rulings[first] = Verdict(is_safe=False, categories=("self_harm",), severity=3)
        ballots.safety_rulings[second] = Verdict(is_safe=True)
        ballots.pair_rulings["helpfulness"] |= {one: -1, other: 0}
        found = resolve(ballots, ResolveConfig(method=method))
        assert [(x.is_safe, x.categories, x.severity) for x in found.safety] == [
            (False, ("self_harm",), 3),
            (True, (), None),
        ]
        assert [pair.more_helpful for pair in found.pairs] == [0, None]
        assert found.unresolved == []


def test_most_voted_needs_more_than_half():
    assert [most_voted(votes) for votes in [(2, 2, 0), (2, 0), (0, 1, 2), (), (1,)]] == [2, None, None, None, 1]


def test_without_crowd_kit_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "crowdkit.aggregation", None)
    with pytest.raises(ConfigError, match=r"equipoise\[crowd\]"):
        dawid_skene({0: {"ann": 1}})
