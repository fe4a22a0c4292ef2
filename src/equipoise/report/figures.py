"""Which figures the report has: an evaluation's numbers and the rounds' curves → SVG.

A figure without data is left out. Left out here: how a figure is drawn (`plots`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from equipoise.data.jsonl import read_records
from equipoise.errors import ArtefactError
from equipoise.evaluate.elo import Elo
from equipoise.evaluate.harm import PolicySummary
from equipoise.evaluate.preference.run import ModelNumbers
from equipoise.evaluate.summary import PolicyFront, PolicyPlace
from equipoise.records import ScoredResponse
from equipoise.report import history, plots, wording
from equipoise.report.config import ReportRound
from equipoise.stats import Estimate, Rate

ELOS = {
    "helpful_elo": "helpfulness, harmless requests",
    "helpful_elo_all": "helpfulness, all requests",
    "harmless_elo": "harmlessness, harmful requests",
}
_CURVES = {
    "lambda": "λ, the price of cost",
    "mean_cost": "Mean cost of a rollout batch",
    "mean_reward": "Mean reward",
    "kl": "KL to the reference policy",
}
_MOST_ROWS = 10  # of one forest plot: two stand side by side, and none is cut in print
_CLOUD_POINTS = 300
Numbers = Rate | Elo | Estimate


class Front(NamedTuple):
    """The figure of harm against helpfulness, and what it shows in words."""

    svg: Markup
    dominated: tuple[tuple[str, tuple[str, ...]], ...]
    is_reward: bool  # helpfulness is a mean reward


def overview(policies: Sequence[PolicySummary], names: Mapping[str, str]) -> dict[str, Markup]:
    """harm, refusal and elo of every policy, by name."""
    shown = [names[p.name] for p in policies]
    harm = {
        "all harmful requests": [_maybe(p.harmful_rate) for p in policies],
        "plain": [_maybe(p.per_attack.get("plain")) for p in policies],
        "wrapped in an attack": [_maybe(p.per_attack.get("wrapped")) for p in policies],
    }
    if not any(harm["wrapped in an attack"]):
        harm = {"all harmful requests": harm["all harmful requests"]}
    refusal = {
        kind.replace("_", "-"): [_maybe(p.over_refusal_by_kind.get(kind)) for p in policies]
        for kind in ("harmless", "look_alike")
        if any(p.over_refusal_by_kind.get(kind) for p in policies)
    }
    drawn: dict[str, str] = {}
    if any(harm["all harmful requests"]):
        spoken = _spoken(policies, "harmful_rate", names)
        drawn["harm"] = _rates(shown, harm, f"Share of harmful answers by policy: {spoken}")
    if refusal:
        spoken = _spoken(policies, "over_refusal_rate", names)
        drawn["refusal"] = _rates(shown, refusal, f"Share of refused harmless requests by policy: {spoken}")
    if len(policies) > 1 and any(getattr(p, key) for p in policies for key in ELOS):
        rows = [plots.Row(names[p.name], [_maybe(getattr(p, key)) for key in ELOS]) for p in policies[1:]]
        spoken = ", ".join(f"{names[p.name]} {wording.points(p.helpful_elo)}" for p in policies[1:])
        drawn["elo"] = plots.forest(
            rows,
            list(ELOS.values()),
            f"Elo, {shown[0]} = 0",
            f"Elo of each policy; helpfulness on harmless requests: {spoken}",
        )
    return {name: Markup(svg) for name, svg in drawn.items()}


def harm_against_help(found: PolicyFront, names: Mapping[str, str]) -> Front | None:
    """The plane of harmful answers and helpfulness; None where the evaluation has no front."""
    if not found.places:
        return None
    spots = [
        plots.Spot(
            names[place.name],
            _estimate(place.harm),
            _estimate(place.helpfulness),
            is_dominated=bool(place.dominated_by),
            is_on_front=bool(place.is_on_front),
        )
        for place in found.places
    ]
    is_reward = found.helpfulness == "mean_reward"
    what = "mean reward" if is_reward else f"helpful Elo, {names[found.places[0].name]} = 0"
    label = f"Harmful answers against {what}. {_front_in_words(found.places, names)}"
    dominated = tuple(
        (names[place.name], tuple(names[other] for other in place.dominated_by))
        for place in found.places
        if place.dominated_by
    )
    return Front(Markup(plots.plane(spots, "harmful answers", what, label)), dominated, is_reward)


class Split(NamedTuple):
    """Forest plots of harm by category or attack, and the parts without a verdict on any answer."""

    svgs: list[Markup]
    unknown: list[str]


def by_category(policies: Sequence[PolicySummary], names: Mapping[str, str]) -> Split:
    """First and last policy by category of the request, the first one's most harmful on top."""
    return _split(policies, names, "per_category", "category")


def by_attack(policies: Sequence[PolicySummary], names: Mapping[str, str]) -> Split:
    """First and last policy by attack."""
    return _split(policies, names, "by_attack", "attack")


def training(rounds: Sequence[ReportRound]) -> list[tuple[str, Markup]]:
    """(Caption, SVG) of each training curve that was logged; one line per round."""
    drawn: list[tuple[str, Markup]] = []
    names = wording.short_names([r.name for r in rounds])
    for key, caption in _CURVES.items():
        lines = _lines(rounds, names, key)
        if lines:
            known = (
                {curve.name: curve for curve in _lines(rounds, names, "cost_limit")} if key == "mean_cost" else {}
            )
            limits = [known.get(line.name) for line in lines]
            ends = ", ".join(f"{line.name} ends at {line.values[-1]:.3g}" for line in lines)
            svg = plots.curves(lines, f"{caption} by step: {ends}", limits=limits, smooth=key != "lambda")
            drawn.append((caption, Markup(svg)))
    return drawn


def clouds(paths: Mapping[str, Path]) -> list[tuple[str, Markup]]:
    """(Name, SVG) of each cloud, all on the same axes."""
    found = {name: _cloud_points(path) for name, path in paths.items()}
    everything = [point for points in found.values() for point in points]
    if not everything:
        return []
    rewards, costs = [point[0] for point in everything], [point[1] for point in everything]
    margins = [0.04 * (max(values) - min(values)) or 1.0 for values in (costs, rewards)]
    box = (min(costs) - margins[0], max(costs) + margins[0], min(rewards) - margins[1], max(rewards) + margins[1])
    names = wording.short_names(list(found))
    drawn = []
    for name, points in found.items():
        unsafe = sum(cost > 0 for _, cost in points)
        label = f"Reward against cost of {names[name]}: {unsafe} of {len(points)} answers have a cost above 0"
        if points:
            drawn.append((f"{names[name]} (n = {len(points)})", Markup(plots.cloud(points, box, label))))
    return drawn


def reliability(models: Sequence[ModelNumbers]) -> list[tuple[str, Markup]]:
    """(Caption, SVG) of every reliability curve that was measured."""
    drawn: list[tuple[str, Markup]] = []
    for model in models:
        for what, curve in (("pairs", model.calibration), ("harm", model.cost_calibration)):
            bins = [(b.predicted, _estimate(b.observed)) for b in curve.bins if b.observed] if curve else []
            known = [(predicted, observed) for predicted, observed in bins if predicted is not None]
            if curve and known:
                caption = f"{model.name}, {what}: calibration error {100 * curve.error:.1f}{wording.PERCENT}"
                svg = plots.reliability(known, f"Predicted against observed share, {caption}, n = {curve.n:,}")
                drawn.append((caption, Markup(svg)))
    return drawn


def _rates(names: Sequence[str], series: Mapping[str, Sequence[plots.Estimate | None]], label: str) -> str:
    """Side by side where the names fit, else below one another."""
    if plots.fits_as_rates(names):
        return plots.rates(names, series, label)
    rows = [plots.Row(name, [estimates[i] for estimates in series.values()]) for i, name in enumerate(names)]
    return plots.forest(rows, list(series), "share", label, percent=True)


def _split(policies: Sequence[PolicySummary], names: Mapping[str, str], key: str, what: str) -> Split:
    """Forest plots of a page's length each, on the same axis."""
    shown = [policies[0], policies[-1]] if len(policies) > 1 else [policies[0]]
    rates: list[tuple[str, list[Rate | None]]] = [
        (name, [getattr(policy, key).get(name) for policy in shown]) for name in getattr(shown[0], key)
    ]
    known = [(name, both) for name, both in rates if any(both)]
    ordered = sorted(known, key=lambda row: [-rate.value if rate else 1.0 for rate in row[1]])
    rows = [
        plots.Row(f"{_category(name)}  (n = {max(r.n for r in both if r):,})", [_maybe(rate) for rate in both])
        for name, both in ordered
    ]
    unknown = [_category(name) for name, both in rates if not any(both)]
    return Split(_parts(rows, ordered, [names[p.name] for p in shown], what) if rows else [], unknown)


def _parts(
    rows: Sequence[plots.Row], ordered: Sequence[tuple[str, list[Rate | None]]], who: Sequence[str], what: str
) -> list[Markup]:
    top = max(e.high for row in rows for e in row.estimates if e and e.high is not None)
    worst = ", ".join(f"{_category(name)} {wording.percent(rate)}" for name, (rate, *_) in ordered[:3])
    label = f"Share of harmful answers per {what}, {' and '.join(who)}; most for {who[0]}: {worst}"
    size = -(-len(rows) // -(-len(rows) // _MOST_ROWS))  # parts of about the same length
    return [
        Markup(
            plots.forest(
                rows[i : i + size],
                who,
                "harmful answers",
                label if i == 0 else f"{label}; part {i // size + 1}",
                percent=True,
                span=(-0.01 * top, 1.03 * top),
            )
        )
        for i in range(0, len(rows), size)
    ]


def _category(name: str) -> str:
    text = name.replace("_", " ").replace(",", ", ")
    return text if len(text) <= 46 else f"{text[:45]}…"


def _lines(rounds: Sequence[ReportRound], names: Mapping[str, str], key: str) -> list[plots.Curve]:
    found = [plots.Curve(names[r.name], *history.curve(r.ppo_lag, key)) for r in rounds if r.ppo_lag]
    return [curve for curve in found if curve.steps]


def _cloud_points(path: Path) -> list[tuple[float, float]]:
    """(Reward, cost) of at most some hundred responses, evenly spread over the file."""
    files = [path] if path.is_file() else [path / name for name in ("scored.jsonl", "responses.jsonl")]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise ArtefactError(
            "There are no scored responses.", where=str(path), fix="Respond with a reward and a cost."
        )
    scored = [(r.reward, r.cost) for r in read_records(file, ScoredResponse)]
    known = [(reward, cost) for reward, cost in scored if reward is not None and cost is not None]
    return known[:: max(1, -(-len(known) // _CLOUD_POINTS))]


def _front_in_words(places: Sequence[PolicyPlace], names: Mapping[str, str]) -> str:
    best = [names[place.name] for place in places if place.is_on_front]
    return f"On the front: {', '.join(best)}." if best else "No policy has both numbers."


def _estimate(one: Numbers) -> plots.Estimate:
    return plots.Estimate(one.value, one.low, one.high)


def _maybe(one: Numbers | None) -> plots.Estimate | None:
    return None if one is None else _estimate(one)


def _spoken(policies: Sequence[PolicySummary], key: str, names: Mapping[str, str]) -> str:
    return ", ".join(f"{names[p.name]} {wording.percent(getattr(p, key))}" for p in policies)
