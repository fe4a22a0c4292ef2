"""How the page on the methods decides, by hand-worked numbers; and that it is made at all."""

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from markupsafe import escape

from equipoise.errors import EvaluationError
from equipoise.stats import Rate

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "methods"
OWN = ("catalogue", "expectations", "tally", "page")
Modules = dict[str, ModuleType]


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> Modules:
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    monkeypatch.syspath_prepend(str(FOLDER))
    for module in OWN:
        monkeypatch.delitem(sys.modules, module, raising=False)
    shared = {name: importlib.import_module(f"studies.{name}") for name in ("estimates", "relations", "read")}
    return shared | {module: importlib.import_module(module) for module in OWN}


def harm_of(methods: Modules, **values: Sequence[int]) -> Any:
    n = len(next(iter(values.values())))
    arrays = {name: np.array(mine, dtype=float) for name, mine in values.items()}
    return methods["estimates"].Measured(tuple(map(str, range(n))), arrays)


def test_every_variant_of_the_recipe_is_in_the_catalogue(methods) -> None:
    recipe = tomllib.loads((ROOT / "recipes" / "methods.toml").read_text(encoding="utf-8"))
    assert {variant["name"] for variant in recipe["variants"]} | {"sft"} == set(methods["catalogue"].METHODS)


def test_intervals_of_categories_are_corrected_for_their_number(methods) -> None:
    part = methods["expectations"].split(harm_of(methods, a=[0, 0, 0, 0, 1, 1, 1, 1]), ["x"] * 4 + ["y"] * 4)
    rates = methods["expectations"].category_rates("a", [part])
    # Clopper–Pearson at 0 of 4, two categories: upper end 1 − (0.05/2/2)^(1/4); at 4 of 4 the mirror image.
    assert (rates["x"].low, rates["x"].high) == (0, pytest.approx(1 - 0.0125**0.25))
    assert (rates["y"].low, rates["y"].high) == (pytest.approx(0.0125**0.25), 1)


def test_the_worst_category_has_the_highest_ends_of_all(methods) -> None:
    few, many = [1, 0, 0], [1] * 30 + [0] * 70
    part = methods["expectations"].split(harm_of(methods, a=few + many), ["few"] * 3 + ["many"] * 100)
    rates = methods["expectations"].category_rates("a", [part])
    found = methods["expectations"].worst("a", [part])
    assert (found.category, found.value, found.seeds) == ("few", pytest.approx(1 / 3), (pytest.approx(1 / 3),))
    assert (found.low, found.high) == (rates["many"].low, rates["few"].high)  # three requests say little


def worst_of(methods: Modules, low: float, high: float, seeds: tuple[float, ...]) -> Any:
    return methods["expectations"].Worst("x", (low + high) / 2, low, high, seeds)


@pytest.mark.parametrize(
    ("low", "high", "seeds", "outcome"),
    [
        (0.00, 0.03, (0.01, 0.02), "reproduced"),
        (0.00, 0.03, (0.01, 0.15), "cannot tell"),  # one seed says otherwise
        (0.00, 0.12, (0.01, 0.02), "cannot tell"),  # the intervals overlap
        (0.00, 0.12, (0.16, 0.11), "not reproduced"),  # lower in no seed
        (0.25, 0.40, (0.30, 0.08), "not reproduced"),
    ],
)
def test_compensation_is_removed_where_the_worst_category_is_lower(methods, low, high, seeds, outcome) -> None:
    mean, overall = worst_of(methods, 0.08, 0.2, (0.15, 0.1)), Rate(value=0.05, low=0.04, high=0.06, n=100)
    removes = methods["expectations"].removes
    assert removes(worst_of(methods, low, high, seeds), mean, overall) == outcome
    even = overall.model_copy(update={"high": 0.09})  # the mean's worst category may be as good as the others
    assert removes(worst_of(methods, low, high, seeds), mean, even) == "cannot tell"


def comparison(methods: Modules, harm: float, helpfulness: float, half: float, p: float = 0.01) -> Any:
    made = [methods["estimates"].Contrast(x, x - half, x + half, p, (x, x), None) for x in (harm, helpfulness)]
    return methods["relations"].Comparison("a", "b", *made, (p, p))


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ([(0.1, 0.1, 0.01), (0.1, -0.1, 0.01)], "reproduced"),  # dominates one, trades off against the other
        ([(0.1, 0.1, 0.01), (-0.1, 0.0, 0.01)], "not reproduced"),  # the other dominates it
        ([(0.1, -0.1, 0.01), (0.2, -0.2, 0.01)], "cannot tell"),  # less helpful than all: beyond the front's end
    ],
)
def test_a_policy_reaches_a_front_that_does_not_dominate_it(methods, found, outcome) -> None:
    assert methods["expectations"].reaches([comparison(methods, *one) for one in found]) == outcome


def test_a_policy_that_cannot_be_told_from_a_front_reaches_it_only_if_the_interval_is_narrow(methods) -> None:
    reaches = methods["expectations"].reaches
    assert reaches([comparison(methods, -0.001, 0.0, 0.018, p=0.5)]) == "reproduced"  # at worst 1.9 points short
    assert reaches([comparison(methods, -0.001, 0.0, 0.020, p=0.5)]) == "cannot tell"


@pytest.mark.parametrize(
    ("ratios", "outcome"),
    [
        ((0.5, 0.6), "reproduced"),
        ((0.5, 0.7), "cannot tell"),
        ((0.8, 0.7), "not reproduced"),
        ((0.5, None), "cannot tell"),
    ],
)
def test_a_ratio_must_hold_in_every_seed(methods, ratios, outcome) -> None:
    assert methods["expectations"].is_within(ratios, 0.6) == outcome


def test_parts_of_an_expectation(methods) -> None:
    yes, no, open_ = "reproduced", "not reproduced", "cannot tell"
    both, either = methods["expectations"].both, methods["expectations"].either
    assert [both(p) for p in ([yes, yes], [yes, open_], [open_, no])] == [yes, open_, no]
    assert [either(p) for p in ([no, yes], [no, open_], [no, no])] == [yes, open_, no]


def test_overshoot_counts_from_the_step_before_the_constraint_is_met(methods) -> None:
    swing = methods["expectations"].swing
    # first met at the fourth step; λ is at its peak, 0.9, the step before; last quarter (0.4 + 0.2)/2 = 0.3
    lam = [1.5, 0.7, 0.9, 0.8, 0.7, 0.5, 0.4, 0.2]
    excess = [2.0, 1.0, 0.5, -0.5, 1.0, -2.0, -1.0, 0.0]
    found = swing(lam, excess)
    assert found.overshoot == pytest.approx(0.6)  # not 1.2: the start of 1.5 is none of the dual's making
    assert (found.slack, found.excess) == (pytest.approx(3 / 4), pytest.approx(1 / 4))
    assert swing(lam, [1.0] * 8).overshoot is None


def test_a_ratio_to_nothing_is_unknown(methods) -> None:
    ratio_of, made = methods["expectations"].ratio_of, methods["expectations"].Swing
    assert (ratio_of(1.0, 2.0), ratio_of(1.0, 0.0), ratio_of(None, 2.0)) == (0.5, None, None)
    swings = {
        name: [made(over, 0.0, 0.0)] for name, over in {"ppo-lag": 0.4, "projected": 0.2, "pid": 0.1}.items()
    }
    assert methods["tally"].overshoot_ratios(swings, "pid") == [0.5]  # over the smaller of the plain ones
    swings["projected"] = [made(None, 0.0, 0.0)]
    assert methods["tally"].overshoot_ratios(swings, "pid") == [None]


def test_the_steps_of_a_method_are_its_own_and_what_it_needs(methods) -> None:
    steps = [
        "shared/scored", "policies/dpo", "policies/dpo-harmless", "policies/sacpo", "policies/c-dpo-1-pairs",
        "policies/c-dpo-1", "policies/c-dpo-1-answers", "policies/c-dpo", "policies/ppo-lag",
        "policies/ppo-lag-tight", "policies/ppo-lag-loose", "policies/merged", "answers/best-of-4",
    ]  # fmt: skip

    def made(name: str) -> list[str]:
        return methods["catalogue"].steps_of(methods["catalogue"].METHODS[name], steps)

    assert made("dpo") == ["policies/dpo"]
    assert made("ppo-lag") == ["policies/ppo-lag"]
    assert made("sacpo") == ["policies/dpo-harmless", "policies/sacpo"]
    assert made("c-dpo") == ["shared/scored", *steps[4:8]]
    assert made("merged") == ["policies/ppo-lag-tight", "policies/ppo-lag-loose", "policies/merged"]
    assert made("best-of-4") == []


def write_study(
    out: Path, names: Sequence[str], cpu: Mapping[str, float], curves: Mapping[str, Sequence[float]]
) -> None:
    """A study's lineage and its training curves; all policies took 60 s but for `cpu`."""
    taken = {"seconds": 100.0, "cpu_seconds": 60.0, "peak": 5 << 30, "memory": 1 << 30}
    trained = [name for name in names if name not in ("sft", "best-of-4")]
    steps: dict[str, Any] = {
        f"policies/{name}": {"taken": taken | {"cpu_seconds": cpu.get(name, 60.0)}} for name in trained
    }
    steps |= {f"evaluations/{name}": {"taken": None} for name in names if name != "sft"}
    for name in trained:
        folder = out / "policies" / name
        folder.mkdir(parents=True)
        lam = curves.get(name, [0.5] * 8)
        lines = [{"step": k + 1, "lambda": x, "excess": 1.0 - k / 2} for k, x in enumerate(lam)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (out / "run.json").write_text(json.dumps({"seed": 0, "seconds": 9.0, "steps": steps}))
    (out / "summary.json").write_text("{}")


@pytest.fixture
def seeds(methods: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Three seeds in which each expectation comes out in a known way."""
    monkeypatch.setattr(methods["tally"], "_scorers", lambda _: {"reward": 50.0, "cost": 70.0})
    names = list(methods["catalogue"].METHODS)
    # Requests 0–199 are of the bad category, 200–999 of the other. Share of harmful answers in each, helpfulness:
    table = dict.fromkeys(names, (0.4, 0.02, 0.8)) | {
        "ppo-lag-tight": (0.2, 0.02, 0.7),
        "ppo-lag-loose": (0.6, 0.1, 0.9),
        "rectified": (0.02, 0.02, 0.8),
        "chance": (0.5, 0.02, 0.8),
        "group": (0.02, 0.02, 0.8),
        "rloo": (0.6, 0.02, 0.6),
    }
    peaks = {"ppo-lag": 0.9, "projected": 0.7, "pid": 0.55, "optimistic": 0.8}
    curves = {name: [0.5, 0.5, peak, 0.5, 0.5, 0.5, 0.5, 0.5] for name, peak in peaks.items()}
    found = []
    for k in range(3):
        rng, out = np.random.default_rng(k), tmp_path / f"seed-{k}"
        prompts, categories = tuple(f"{k}-{i}" for i in range(1000)), ("bad",) * 200 + ("good",) * 800
        draw = rng.random(1000)
        harm = {
            n: np.concatenate([draw[:200] < a, draw[200:] < b]).astype(float) for n, (a, b, _) in table.items()
        }
        helpful = {n: (draw < h).astype(float) for n, (*_, h) in table.items()}
        write_study(out, names, {"group": 30.0, "rloo": 50.0}, curves)
        made = [methods["estimates"].Measured(prompts, mine) for mine in (harm, helpful, helpful)]
        found.append(methods["read"].Seed(k, out, 9.0, *made, categories, dict.fromkeys(names, (0.5, -1.0))))
    return found


def test_the_expectations_follow_the_numbers_of_a_made_up_study(methods, seeds) -> None:
    rectified, chance, groups, categories, group, rloo, dual = methods["tally"].numbers_of(seeds)["expectations"]
    assert rectified["outcome"] == "reproduced"  # 2 % against 40 % in the bad category
    assert chance["outcome"] == groups["outcome"] == categories["outcome"] == "not reproduced"
    assert group["outcome"] == "reproduced"  # as helpful and less harmful, in half the time
    assert rloo["outcome"] == "not reproduced"  # dominated, and 50/60 of the time
    assert "by seed: processor 0.83 · 0.83 · 0.83, wall clock 1.00" in rloo["reasons"][-1]
    assert dual["outcome"] == "reproduced"  # PID: 0.05 over the smaller of 0.4 and 0.2
    assert "PID over the smaller of the first two: 0.25 · 0.25 · 0.25: yes" in dual["reasons"][-2]
    assert "Optimistic over the smaller of the first two: 1.50" in dual["reasons"][-1]


def test_wall_clock_stands_in_where_processor_time_is_unknown(methods) -> None:
    made, time_ratios = methods["tally"].Used, methods["tally"].time_ratios
    known, unknown = made(10.0, 4.0, None), made(20.0, None, None)
    assert time_ratios([known], [known._replace(cpu_seconds=8.0)]) == [0.5]
    assert time_ratios([known, known], [known, unknown]) == [1.0, 0.5]


def test_an_expectation_of_what_was_not_run_cannot_be_told(methods, seeds) -> None:
    few = ("ppo-lag", "pid")
    part = seeds[0]._replace(
        **{
            key: methods["estimates"].Measured(m.prompts, {n: m.values[n] for n in few})
            for key in ("harm", "refusal", "helpfulness")
            for m in [getattr(seeds[0], key)]
        }
    )
    numbers = methods["tally"].numbers_of([part])
    assert {one["outcome"] for one in numbers["expectations"]} == {"cannot tell"}
    assert numbers["expectations"][0]["reasons"] == ["Not in the study: rectified."]


def test_the_page_stands_alone_and_has_every_method(methods, seeds) -> None:
    for some in (seeds[:1], seeds):
        numbers = json.loads(json.dumps(methods["tally"].numbers_of(some)))
        page = methods["page"].render(numbers, some)
        assert not re.search(r"https?:|<script", page)
        for method in methods["catalogue"].METHODS.values():
            assert page.count(f'<th scope="row">{method.label}</th>') >= 2  # its scores, and what it took
        for claim in numbers["expectations"]:
            assert escape(claim["claim"]) in page
        assert "NaN" not in json.dumps(numbers)
        rows = methods["page"].markdown(numbers).splitlines()
        assert len(rows) == 2 + len(methods["catalogue"].GROUPS) + len(methods["catalogue"].METHODS)
        assert len({row.count("|") for row in rows}) == 1


def test_a_study_that_is_not_finished_or_holds_more_is_refused(methods, seeds) -> None:
    out = seeds[0].out
    assert methods["tally"].policies_in(out) == tuple(methods["catalogue"].METHODS)
    lineage = json.loads((out / "run.json").read_text())
    lineage["steps"]["evaluations/mine"] = {}
    (out / "run.json").write_text(json.dumps(lineage))
    with pytest.raises(EvaluationError, match="not in the catalogue: mine"):
        methods["tally"].policies_in(out)
    (out / "summary.json").unlink()
    with pytest.raises(EvaluationError, match="not finished"):
        methods["tally"].policies_in(out)
