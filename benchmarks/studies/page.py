"""What pages on studies share: how numbers are written, and where templates are found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from equipoise.report.scatter import Dot, Span

OUTCOMES = {
    "reproduced": "reproduced",
    "not reproduced": "did not reproduce",
    "cannot tell": "could not be decided",
}
Tree = Mapping[str, Any]


def environment(folder: Path) -> jinja2.Environment:
    """Templates of a page's folder, of this one and of the report."""
    folders = jinja2.FileSystemLoader([folder, Path(__file__).parent])
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([folders, jinja2.PackageLoader("equipoise.report")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"share": share, "number": number, "spread": spread}
    return made


def headline(claims: Sequence[Tree], of: str) -> str:
    """How many of the claims reproduce, in one sentence; `of`: what they are."""
    counts = {outcome: sum(claim["outcome"] == outcome for claim in claims) for outcome in OUTCOMES}
    said = [
        f"{count} {words}"
        for (outcome, words), count in zip(OUTCOMES.items(), counts.values(), strict=True)
        if count
    ]
    return f"Of {len(claims)} {of} " + listed(said) + "."


def share(value: float, decimals: int = 1) -> str:
    """53.1 %."""
    return f"{100 * value:.{decimals}f}\N{NO-BREAK SPACE}%"


def number(value: float, decimals: int = 2) -> str:
    """A number with a real minus sign."""
    return f"{value:.{decimals}f}".replace("-", "−")


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """One number per seed."""
    return " · ".join(number(value, decimals) for value in values)


def listed(parts: Sequence[str]) -> str:
    """One, two and three."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def dot(policy: Tree, name: str) -> Dot:
    """A policy in the plane of harm and helpfulness, with its seeds if there are several."""
    harm, helpfulness = policy["harm"], policy["helpfulness"]
    parts = list(zip(harm["seeds"], helpfulness["seeds"], strict=True))
    return Dot(name, Span(*estimate(harm)), Span(*estimate(helpfulness)), parts if len(parts) > 1 else ())


def estimate(tree: Tree) -> tuple[float, float, float]:
    """Value, low and high."""
    return tree["value"], tree["low"], tree["high"]


def in_words(policies: Sequence[Tree]) -> str:
    """Harm and helpfulness of every policy, for readers who do not see the figure."""
    return "; ".join(
        f"{policy['label']}: harmful {share(policy['harm']['value'])}, "
        f"helpfulness {number(policy['helpfulness']['value'])}"
        for policy in policies
    )
