"""Policies and the differences between them, in words and as JSON values."""

from collections.abc import Mapping, Sequence
from typing import Any

from studies.estimates import Contrast, Measured, contrast, pooled_rate
from studies.read import Seed
from studies.relations import Comparison

from equipoise.evaluate.front import Point, front
from equipoise.stats import Estimate

Tree = dict[str, Any]


def policies_of(seeds: Sequence[Seed], labels: Mapping[str, str]) -> list[Tree]:
    """What every page says of a policy, in the order of the front; `labels`: the policies by name."""
    rates = {name: pooled_rate(name, [seed.harm for seed in seeds]) for name in labels}
    helpful = {name: contrast({name: 1.0}, [seed.helpfulness for seed in seeds]) for name in labels}
    places = front([Point(name, rates[name], helpful[name]) for name in labels])
    return [
        {
            "name": place.name,
            "label": labels[place.name],
            "harm": rates[place.name].model_dump() | per_seed([s.harm for s in seeds], place.name),
            "over_refusal": pooled_rate(place.name, [s.refusal for s in seeds]).model_dump()
            | per_seed([s.refusal for s in seeds], place.name),
            "helpfulness": contrast_tree(helpful[place.name]),
            "is_on_front": place.is_on_front,
            "reward": [s.scores[place.name][0] for s in seeds],
            "cost": [s.scores[place.name][1] for s in seeds],
        }
        for place in places
    ]


def points(found: Contrast) -> str:
    """A difference of shares in percentage points, with the intervals over prompts and over seeds."""
    return with_intervals(found, 100.0, 1, " points")


def moves(gain: Contrast) -> str:
    """What a policy does to the harmful rate of SFT."""
    return f"{'raises' if gain.value < 0 else 'lowers'} the harmful rate by {points(upright(gain))}"


def less(found: Contrast) -> str:
    """A harm contrast, above 0 for less harm, as higher or lower."""
    return f"{'higher' if found.value < 0 else 'lower'} by {points(upright(found))}"


def ahead(found: Contrast) -> str:
    """A helpfulness contrast as higher or lower."""
    return f"{'lower' if found.value < 0 else 'higher'} by {with_intervals(upright(found), 1.0, 3, '')}"


def upright(found: Contrast) -> Contrast:
    """A difference so turned that it is not below 0."""
    if found.value >= 0:
        return found
    t = found.over_seeds
    return found._replace(
        value=-found.value,
        low=-found.high,
        high=-found.low,
        seeds=tuple(-value for value in found.seeds),
        over_seeds=None if t is None else Estimate(value=-t.value, low=-t.high, high=-t.low, n=t.n),
    )


def with_intervals(found: Contrast, scale: float, decimals: int, unit: str) -> str:
    """A difference with its intervals over prompts and over seeds."""

    def span(low: float, high: float) -> str:
        return f"{scale * low:.{decimals}f} to {scale * high:.{decimals}f}".replace("-", "−")

    over = f", over seeds {span(found.over_seeds.low, found.over_seeds.high)}" if found.over_seeds else ""
    value = f"{scale * found.value:.{decimals}f}".replace("-", "−")
    return f"{value}{unit} ({span(found.low, found.high)}{over})"


def per_seed(measured: Sequence[Measured], name: str) -> Mapping[str, Any]:
    """A policy's mean in each seed, and its interval over seeds."""
    found = contrast_tree(contrast({name: 1.0}, measured))
    return {"seeds": found["seeds"], "over_seeds": found["over_seeds"]}


def contrast_tree(found: Contrast) -> Tree:
    tree = found._asdict()
    tree.pop("p")
    return tree | {
        "seeds": list(found.seeds),
        "over_seeds": found.over_seeds.model_dump() if found.over_seeds else None,
    }


def comparison_tree(found: Comparison) -> Tree:
    return {
        "first": found.first,
        "second": found.second,
        "relation": found.relation,
        "harm": contrast_tree(found.harm) | {"p_holm": found.p_holm[0]},
        "helpfulness": contrast_tree(found.helpfulness) | {"p_holm": found.p_holm[1]},
    }
