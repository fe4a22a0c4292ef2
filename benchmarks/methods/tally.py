"""Every number of the page: methods, expectations with their outcome in words, categories, duals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from catalogue import (
    CRITIC_FREE,
    DAMPED_DUALS,
    LAG,
    LIMITS,
    METHODS,
    PLAIN_DUALS,
    TIGHT,
    UNCOMPENSATED,
    steps_of,
)
from expectations import (
    HALF,
    TIME,
    Swing,
    Worst,
    both,
    category_rates,
    either,
    is_within,
    ratio_of,
    reaches,
    removes,
    split,
    swing,
    worst,
)
from studies.estimates import pooled_rate
from studies.page import share
from studies.read import SFT, Seed, curve_of, lineage_of
from studies.relations import Outcome, compare
from studies.words import Tree, ahead, comparison_tree, less, policies_of

from equipoise.artefact import read_manifest
from equipoise.errors import EvaluationError


class Used(NamedTuple):
    """What making a method's policy took in one seed, the first policy, labels and scorers left out."""

    seconds: float | None  # wall clock; None: nothing is trained
    cpu_seconds: float | None  # None: not known
    memory: int | None  # bytes, the highest of its steps; None: not known


def policies_in(out: Path) -> tuple[str, ...]:
    """SFT and the variants of a finished study, in the order of the catalogue.

    Raises:
        EvaluationError: The study is not finished, or has a variant that the catalogue lacks.
    """
    if not (out / "summary.json").is_file():
        raise EvaluationError(
            "The study is not finished.",
            where=str(out),
            fix="Run `equipoise study` again: it goes on where it was.",
        )
    made = [
        step.removeprefix("evaluations/") for step in lineage_of(out)["steps"] if step.startswith("evaluations/")
    ]
    if unknown := sorted(set(made) - set(METHODS)):
        raise EvaluationError(
            f"The study has variants that are not in the catalogue: {', '.join(unknown)}.",
            where=str(out),
            fix="Name them in benchmarks/methods/catalogue.py.",
        )
    return tuple(name for name in METHODS if name == SFT or name in made)


def used(out: Path, name: str) -> Used:
    """What a method took: the sum over its steps, the peak of the highest."""
    lineage = lineage_of(out)["steps"]
    steps = steps_of(METHODS[name], list(lineage)) if name != SFT else []
    if not steps:
        return Used(None, None, None)
    taken = [lineage[step].get("taken") for step in steps]
    memory = [one["memory"] for one in taken if one and one["memory"] is not None]
    walls = [
        one["seconds"] if one else read_manifest(out / step).seconds
        for step, one in zip(steps, taken, strict=True)
    ]
    cpu = [one["cpu_seconds"] for one in taken if one]
    return Used(
        sum(walls),
        sum(cpu) if len(cpu) == len(steps) else None,
        max(memory) if len(memory) == len(steps) else None,
    )


def numbers_of(seeds: Sequence[Seed]) -> Tree:
    """Everything that the page shows, as JSON values."""
    names = [name for name in METHODS if name in seeds[0].harm.values]
    parts = [split(seed.harm, seed.categories) for seed in seeds]
    worsts = {name: worst(name, parts) for name in names}
    spent = {name: [used(seed.out, name) for seed in seeds] for name in names}
    swings = _swings(seeds, names)
    policies = policies_of(seeds, {name: METHODS[name].label for name in names})
    return {
        "seeds": [seed.seed for seed in seeds],
        "seconds": [seed.seconds for seed in seeds],
        "prompts": {"harmful": len(seeds[0].harm.prompts), "others": len(seeds[0].refusal.prompts)},
        "policies": [
            policy
            | {
                "worst": worsts[policy["name"]]._asdict(),
                "used": [one._asdict() for one in spent[policy["name"]]],
                "networks": METHODS[policy["name"]].networks,
                "answers": METHODS[policy["name"]].answers,
            }
            for policy in policies
        ],
        "expectations": [
            *(_compensation(name, seeds, worsts) for name in UNCOMPENSATED),
            *(_critic_free(name, seeds, spent) for name in CRITIC_FREE),
            _overshoot(swings),
        ],
        "categories": {
            name: {category: rate.model_dump() for category, rate in category_rates(name, parts).items()}
            for name in names
        },
        "duals": {name: [one._asdict() for one in found] for name, found in swings.items()},
        "scorers": [_scorers(seed.out) for seed in seeds],
    }


def _lacking(names: Sequence[str], present: Sequence[str], claim: str) -> Tree | None:
    """An expectation that cannot be decided since a policy was not made."""
    missing = [name for name in names if name not in present]
    reason = f"Not in the study: {', '.join(missing)}."
    return _expectation(claim, "cannot tell", [reason]) if missing else None


def _expectation(claim: str, outcome: Outcome, reasons: list[str], comparisons: Sequence[Tree] = ()) -> Tree:
    return {"claim": claim, "outcome": outcome, "reasons": reasons, "comparisons": list(comparisons)}


def _compensation(name: str, seeds: Sequence[Seed], worsts: Mapping[str, Worst]) -> Tree:
    claim = f"{_upper(METHODS[name].label)}: no compensation between categories"
    if lacking := _lacking([name, LAG], list(worsts), claim):
        return lacking
    overall = {one: pooled_rate(one, [seed.harm for seed in seeds]) for one in worsts}
    mean = " and ".join(
        f"{_rate(worsts[one])} of {share(overall[one].value)} under {METHODS[one].label}"
        for one in (LAG, TIGHT)
        if one in worsts
    )
    reasons = [
        f"Worst category {_rate(worsts[name])}, which is {worsts[name].category.replace('_', ' ')}; by seed "
        f"{_shares(worsts[name].seeds)}; all categories {share(overall[name].value)}.",
        f"Worst category and all: {mean}.",
    ]
    if worsts[LAG].low <= overall[LAG].high:
        reasons.append("PPO-Lag's worst category is not shown to be above its rate over all: nothing to remove.")
    return _expectation(claim, removes(worsts[name], worsts[LAG], overall[LAG]), reasons)


def _critic_free(name: str, seeds: Sequence[Seed], spent: Mapping[str, Sequence[Used]]) -> Tree:
    claim = f"{_upper(METHODS[name].label)}: PPO-Lag's front in at most {share(TIME, 0)} of its time"
    if lacking := _lacking([name, *LIMITS], list(spent), claim):
        return lacking
    found = compare(
        [(name, limit) for limit in LIMITS],
        [seed.harm for seed in seeds],
        [seed.helpfulness for seed in seeds],
    )
    ratios = time_ratios(spent[name], spent[LAG])
    reached = reaches(found)
    time = f"wall clock {_ratios(_wall_ratios(spent[name], spent[LAG]))}"
    if _has_cpu([*spent[name], *spent[LAG]]):
        time = f"processor {_ratios(ratios)}, {time}"
    reasons = [
        *(
            f"It {one.relation} {METHODS[one.second].label}: its harmful rate is {less(one.harm)}, its "
            f"helpfulness {ahead(one.helpfulness)}."
            for one in found
        ),
        f"It reaches the front: {_said(reached)}. Time over PPO-Lag's by seed: {time}.",
    ]
    return _expectation(
        claim, both([reached, is_within(ratios, TIME)]), reasons, [comparison_tree(one) for one in found]
    )


def time_ratios(first: Sequence[Used], second: Sequence[Used]) -> list[float | None]:
    """Time of one method over another's, seed by seed: of the processor if known in all seeds, else wall clock."""
    if not _has_cpu([*first, *second]):
        return _wall_ratios(first, second)
    return [ratio_of(a.cpu_seconds, b.cpu_seconds) for a, b in zip(first, second, strict=True)]


def _wall_ratios(first: Sequence[Used], second: Sequence[Used]) -> list[float | None]:
    return [ratio_of(a.seconds, b.seconds) for a, b in zip(first, second, strict=True)]


def _has_cpu(spent: Sequence[Used]) -> bool:
    return all(one.cpu_seconds is not None for one in spent)


def _overshoot(swings: Mapping[str, Sequence[Swing]]) -> Tree:
    claim = "PID or optimistic duals halve λ's overshoot"
    if lacking := _lacking([*PLAIN_DUALS, *DAMPED_DUALS], list(swings), claim):
        return lacking
    reasons = [
        f"{_upper(label)}: overshoot of λ by seed {_swing_words(swings[name])}."
        for name, label in {**PLAIN_DUALS, **DAMPED_DUALS}.items()
    ]
    outcomes: list[Outcome] = []
    for name, label in DAMPED_DUALS.items():
        ratios = overshoot_ratios(swings, name)
        outcomes.append(is_within(ratios, HALF))
        reasons.append(
            f"{_upper(label)} over the smaller of the first two: {_ratios(ratios)}: {_said(outcomes[-1])}."
        )
    return _expectation(claim, either(outcomes), reasons)


def overshoot_ratios(swings: Mapping[str, Sequence[Swing]], name: str) -> list[float | None]:
    """A dual's overshoot over the smaller one of the plain duals', seed by seed."""
    found: list[float | None] = []
    for i, mine in enumerate(swings[name]):
        plain = [swings[one][i].overshoot for one in PLAIN_DUALS]
        known = [x for x in plain if x is not None]
        found.append(ratio_of(mine.overshoot, min(known) if len(known) == len(plain) else None))
    return found


def _swings(seeds: Sequence[Seed], names: Sequence[str]) -> dict[str, list[Swing]]:
    duals = [name for name in (*PLAIN_DUALS, *DAMPED_DUALS) if name in names]
    return {
        name: [swing(curve_of(seed, name, "lambda")[1], curve_of(seed, name, "excess")[1]) for seed in seeds]
        for name in duals
    }


def _scorers(out: Path) -> Tree:
    """Seconds of the training of the study's own reward and cost model."""
    return {kind: read_manifest(out / "shared" / kind).seconds for kind in ("reward", "cost")}


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _said(outcome: Outcome) -> str:
    return {"reproduced": "yes", "not reproduced": "no"}.get(outcome, "cannot tell")


def _rate(found: Worst) -> str:
    return f"{share(found.value)} ({100 * found.low:.1f} to {share(found.high)})"


def _shares(values: Sequence[float]) -> str:
    return " · ".join(share(value) for value in values)


def _ratios(values: Sequence[float | None]) -> str:
    return " · ".join("unknown" if value is None else f"{value:.2f}".replace("-", "−") for value in values)


def _swing_words(found: Sequence[Swing]) -> str:
    over = " · ".join("never met" if s.overshoot is None else f"{s.overshoot:.3f}" for s in found)
    return f"{over}; slack {' · '.join(f'{s.slack:.2f}' for s in found)}".replace("-", "−")
