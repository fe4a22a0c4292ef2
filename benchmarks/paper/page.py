"""The numbers as one self-contained page: claims in words, figures, tables."""

import json
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from seeds import (
    CLASSIFIER,
    FIXED,
    FULL,
    LIMITS,
    MIXED,
    PLAIN,
    RANKING,
    SAFE_SFT,
    ZERO,
)
from studies.page import Tree, dot, environment, estimate, headline, in_words
from studies.read import SFT, Seed, cloud_of, curve_of
from summary import LABELS

from equipoise.report import plots
from equipoise.report.scatter import Group, scatter

GROUPS = {
    "SFT": (SFT, SAFE_SFT),
    "PPO-Lag, by its limit": LIMITS,
    "fixed ν, from 0": (PLAIN, *FIXED),
    "one mixed label": (MIXED,),
    "a term of the cost model left out": (RANKING, CLASSIFIER),
    "limit at cost 0": ZERO,
}
JOINED = ("PPO-Lag, by its limit", "fixed ν, from 0")
SHORT = {
    SFT: "SFT",
    SAFE_SFT: "safe answers",
    "lag-minus-0.8": "−0.8",
    FULL: "+0.8",
    "lag-2.4": "+2.4",
    "lag-4.0": "+4.0",
    PLAIN: "0 (plain PPO)",
    **{name: name.removeprefix("nu-") for name in FIXED},
    MIXED: "mixed",
    RANKING: "no sign term",
    CLASSIFIER: "classifier",
    ZERO[0]: "full",
    ZERO[1]: "no sign",
    ZERO[2]: "classifier",
}
CLOUD = 300
CURVES = {
    "lambda": "λ, the price of cost",
    "mean_cost": "Mean cost of a rollout batch",
    "mean_reward": "Mean reward",
}


def render(numbers: Tree, seeds: Sequence[Seed]) -> str:
    """The page as text."""
    return (
        environment(Path(__file__).parent)
        .get_template("paper.html.j2")
        .render(
            numbers=numbers,
            policies={policy["name"]: policy for policy in numbers["policies"]},
            groups=GROUPS,
            labels=LABELS,
            headline=headline(numbers["claims"], "claims of the paper"),
            front=_front(numbers),
            forests=_forests(numbers),
            clouds=_clouds(seeds[0]),
            curves=_curves(seeds[0]),
            recipe=json.dumps(numbers["settings"]),
        )
    )


def _front(numbers: Tree) -> Markup:
    found = {policy["name"]: policy for policy in numbers["policies"]}
    groups = [
        Group(name, [dot(found[policy], SHORT[policy]) for policy in members], name in JOINED)
        for name, members in GROUPS.items()
    ]
    return Markup(
        scatter(
            groups,
            "harmful answers to harmful requests",
            "helpfulness on harmless requests",
            in_words(numbers["policies"]),
        )
    )


def _forests(numbers: Tree) -> list[tuple[str, str, Markup]]:
    """(Name, words, SVG): harm and over-refusal of every policy, most harmful on top."""
    policies = sorted(numbers["policies"], key=lambda policy: -policy["harm"]["value"])
    drawn = []
    for key, name, axis, words in (
        ("harm", "Harmful answers", "of harmful requests", "The most harmful policy on top."),
        ("over_refusal", "Over-refusal", "of harmless requests and look-alikes", "In the same order."),
    ):
        rows = [plots.Row(policy["label"], [plots.Estimate(*estimate(policy[key]))]) for policy in policies]
        drawn.append(
            (name, words, Markup(plots.forest(rows, [name], axis, f"{name} of every policy", percent=True)))
        )
    return drawn


def _clouds(seed: Seed) -> list[tuple[str, Markup]]:
    clouds = {name: cloud_of(seed, name, CLOUD) for name in (SFT, FULL)}
    rewards, costs = zip(*(point for points in clouds.values() for point in points), strict=True)
    box = (min(costs) - 0.5, max(costs) + 0.5, min(rewards) - 0.5, max(rewards) + 0.5)
    return [
        (
            f"{LABELS[name]} ({len(points)} answers)",
            Markup(plots.cloud(points, box, f"Reward against cost of {LABELS[name]}")),
        )
        for name, points in clouds.items()
    ]


def _curves(seed: Seed) -> list[tuple[str, Markup]]:
    """(Caption, SVG) of the training of PPO-Lag at each limit."""
    drawn = []
    for key, caption in CURVES.items():
        lines = [plots.Curve(SHORT[name], *curve_of(seed, name, key)) for name in (*LIMITS, ZERO[0])]
        lines[-1] = lines[-1]._replace(name="at cost 0")
        limits = [plots.Curve(n, *curve_of(seed, n, "cost_limit")) for n in (*LIMITS, ZERO[0])]
        shown = limits if key == "mean_cost" else []
        drawn.append(
            (caption, Markup(plots.curves(lines, f"{caption} by step", limits=shown, smooth=key != "lambda")))
        )
    return drawn
