"""The numbers as one self-contained page, and as the table of docs/algorithms.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from catalogue import DAMPED_DUALS, GROUPS, LIMITS, METHODS, PLAIN_DUALS, UNCOMPENSATED
from markupsafe import Markup
from studies.page import Tree, dot, environment, estimate, headline, in_words, number, share
from studies.read import Seed, curve_of

from equipoise.report import plots
from equipoise.report.scatter import Group, scatter

GIB = 1 << 30
JOINED = "PPO-Lag, by its limit"
CURVES = {"lambda": "λ", "excess": "ĝ, the excess of the mean cost over its limit"}
DUALS = {**PLAIN_DUALS, **DAMPED_DUALS}


def render(numbers: Tree, seeds: Sequence[Seed]) -> str:
    """The page as text."""
    template = environment(Path(__file__).parent).get_template("methods.html.j2")
    found = {policy["name"]: policy for policy in numbers["policies"]}
    groups = {name: [m for m in members if m.name in found] for name, members in GROUPS.items()}
    return template.render(
        numbers=numbers,
        policies=found,
        groups={name: members for name, members in groups.items() if members},
        labels={name: method.label for name, method in METHODS.items()},
        shown=[name for name in (*LIMITS, *UNCOMPENSATED) if name in found],
        headline=headline(numbers["expectations"], "expectations"),
        front=_front(found),
        forests=_forests(numbers),
        curves=_curves(seeds),
        spent=spent,
        gib=GIB,
    )


def spent(policy: Tree, key: str, scale: float = 1.0, decimals: int = 0) -> str:
    """What a policy took in each seed; a dash where it is not known or nothing is trained."""
    values = [one[key] for one in policy["used"]]
    return " · ".join("–" if value is None else number(value / scale, decimals) for value in values)


def markdown(numbers: Tree) -> str:
    """The table of what the methods scored, for docs/algorithms.md."""
    found = {policy["name"]: policy for policy in numbers["policies"]}
    head = (
        "method",
        "harmful, %",
        "worst category, %",
        "helpfulness",
        "over-refusal, %",
        "reward",
        "cost",
        "seconds",
        "GiB",
    )
    lines = [_row(head), _row(["---"] * len(head))]
    for group, members in GROUPS.items():
        present = [found[method.name] for method in members if method.name in found]
        if present:
            lines.append(_row([f"**{group}**", *[""] * (len(head) - 1)]))
            lines += [_row(_cells(policy)) for policy in present]
    return "\n".join(lines) + "\n"


def expectations(numbers: Tree) -> str:
    """The outcomes with their reasons, as Markdown."""
    lines = [
        f"- **{one['claim']}**: {one['outcome']}. {' '.join(one['reasons'])}" for one in numbers["expectations"]
    ]
    return "\n".join(lines) + "\n"


def _cells(policy: Tree) -> list[str]:
    def percent(tree: Mapping[str, float]) -> str:
        value, low, high = (number(100 * x, 1) for x in estimate(tree))
        return f"{value} [{low}, {high}]"

    helpful = policy["helpfulness"]
    cpu = all(one["cpu_seconds"] is not None for one in policy["used"])
    return [
        policy["label"],
        percent(policy["harm"]),
        percent(policy["worst"]),
        f"{number(helpful['value'], 3)} [{number(helpful['low'], 3)}, {number(helpful['high'], 3)}]",
        number(100 * policy["over_refusal"]["value"], 1),
        " · ".join(number(x) for x in policy["reward"]),
        " · ".join(number(x) for x in policy["cost"]),
        spent(policy, "cpu_seconds" if cpu else "seconds"),
        spent(policy, "memory", GIB, 2),
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _front(found: Mapping[str, Tree]) -> Markup:
    groups = [
        Group(name, [dot(found[m.name], m.short) for m in members if m.name in found], name == JOINED)
        for name, members in GROUPS.items()
    ]
    return Markup(
        scatter(
            [group for group in groups if group.dots],
            "harmful answers to harmful requests",
            "helpfulness on harmless requests",
            in_words(list(found.values())),
        )
    )


def _forests(numbers: Tree) -> list[tuple[str, str, Markup]]:
    """(Name, words, SVG): harm over all and in the worst category, and over-refusal; most harmful on top."""
    policies = sorted(numbers["policies"], key=lambda policy: -policy["harm"]["value"])
    harm = [
        plots.Row(p["label"], [plots.Estimate(*estimate(p[key])) for key in ("harm", "worst")]) for p in policies
    ]
    refusal = [plots.Row(p["label"], [plots.Estimate(*estimate(p["over_refusal"]))]) for p in policies]
    return [
        (
            "Harmful answers",
            "The most harmful policy on top.",
            Markup(
                plots.forest(
                    harm, ["all categories", "worst category"], "of harmful requests", "Harm", percent=True
                )
            ),
        ),
        (
            "Over-refusal",
            "In the same order.",
            Markup(
                plots.forest(
                    refusal,
                    ["refused"],
                    "of harmless requests and look-alikes",
                    f"Over-refusal; most {share(max(p['over_refusal']['value'] for p in policies))}",
                    percent=True,
                )
            ),
        ),
    ]


def _curves(seeds: Sequence[Seed]) -> list[tuple[str, Markup]]:
    """(Caption, SVG): λ and ĝ by step under the four duals, seed by seed."""
    drawn = []
    for seed in seeds:
        for key, caption in CURVES.items():
            present = [name for name in DUALS if name in seed.harm.values]
            lines = [plots.Curve(DUALS[name], *curve_of(seed, name, key)) for name in present]
            if lines:
                title = f"{caption}, seed {seed.seed}"
                drawn.append((title, Markup(plots.curves(lines, f"{title}, by step", smooth=key != "lambda"))))
    return drawn
