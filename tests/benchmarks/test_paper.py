"""How the page on the paper's claims decides, by hand-worked numbers; and that it is made at all."""

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from equipoise.errors import EvaluationError
from equipoise.evaluate.elo import Elo
from equipoise.records import Prompt, ScoredResponse

FOLDER = Path(__file__).parents[2] / "benchmarks" / "paper"
OWN = ("claims", "seeds", "summary", "page")
SHARED = ("estimates", "relations", "read", "page")


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    monkeypatch.syspath_prepend(str(FOLDER))
    for module in OWN:
        monkeypatch.delitem(sys.modules, module, raising=False)
    shared = {module: importlib.import_module(f"studies.{module}") for module in SHARED}
    return shared | {"words": shared["page"]} | {module: importlib.import_module(module) for module in OWN}


def measured(paper, prompts: str, **values: list[float]):
    arrays = {name.replace("_", "-"): np.array(mine, dtype=float) for name, mine in values.items()}
    return paper["estimates"].Measured(tuple(prompts), arrays)


def test_a_difference_is_paired_by_prompt_hand_worked(paper) -> None:
    # b − a per prompt: 1, 0, 1, 0, mean ½; residuals ±½, each over n = 4: Σ (½/4)² = 4/64; · 4/3 = 1/12.
    seed = measured(paper, "pqrs", a=[0, 0, 0, 1], b=[1, 0, 1, 1])
    found = paper["estimates"].contrast({"a": -1.0, "b": 1.0}, [seed])
    assert found.value == 0.5
    assert found.high - found.value == pytest.approx(1.959964 / 12**0.5, abs=1e-6)
    assert found.p == pytest.approx(0.0832645, abs=1e-6)  # z = √3
    assert (found.seeds, found.over_seeds) == ((0.5,), None)


def test_a_prompt_asked_in_two_seeds_is_one_cluster(paper) -> None:
    values = [0.0, 1.0, 0.0, 1.0]
    contrast = paper["estimates"].contrast
    same = contrast({"a": 1.0}, [measured(paper, "pqrs", a=values), measured(paper, "pqrs", a=values)])
    other = contrast({"a": 1.0}, [measured(paper, "pqrs", a=values), measured(paper, "tuvw", a=values)])
    alone = contrast({"a": 1.0}, [measured(paper, "pqrs", a=values)])
    assert same.high - same.low == pytest.approx(alone.high - alone.low)  # the second seed adds nothing
    assert other.high - other.low < 0.8 * (alone.high - alone.low)


def test_the_interval_over_seeds_is_students(paper) -> None:
    seeds = [measured(paper, "pq", a=[x, x]) for x in (0.1, 0.2, 0.3)]
    over = paper["estimates"].contrast({"a": 1.0}, seeds).over_seeds
    assert (over.value, over.high) == pytest.approx((0.2, 0.2 + 4.302653 * 0.1 / 3**0.5))


def test_a_pooled_rate_of_distinct_prompts_is_wilsons(paper) -> None:
    seeds = [measured(paper, "pqrs", a=[0, 0, 0, 1]), measured(paper, "tuvw", a=[0, 0, 1, 1])]
    found = paper["estimates"].pooled_rate("a", seeds)
    assert (found.value, found.n) == (pytest.approx(3 / 8), pytest.approx(8, abs=1))
    none = paper["estimates"].pooled_rate("a", [measured(paper, "pqrs", a=[0, 0, 0, 0])])
    assert (none.value, none.low, none.n) == (0, 0, 4)
    assert none.high > 0.4  # four harmless answers say little


def contrast_of(paper, value: float, seeds: tuple[float, ...] = ()):
    return paper["estimates"].Contrast(value, value - 0.1, value + 0.1, 0.01, seeds or (value,) * 3, None)


@pytest.mark.parametrize(
    ("value", "p", "seeds", "expected"),
    [
        (0.3, 0.01, (0.2, 0.3, 0.4), 1),
        (-0.3, 0.01, (-0.2, -0.3, -0.4), -1),
        (0.3, 0.06, (0.2, 0.3, 0.4), 0),  # within chance
        (0.3, 0.01, (-0.1, 0.5, 0.5), 0),  # one seed says otherwise
        (0.3, 0.01, (0.0, 0.5, 0.4), 0),
    ],
)
def test_a_direction_needs_chance_excluded_and_every_seed(paper, value, p, seeds, expected) -> None:
    assert paper["relations"].direction(contrast_of(paper, value, seeds), p) == expected


@pytest.mark.parametrize(
    ("harm", "helpfulness", "relation"),
    [
        (0.3, 0.0, "dominates"),
        (0.3, 0.3, "dominates"),
        (0.3, -0.3, "trades off against"),
        (-0.3, 0.3, "trades off against"),
        (0.0, -0.3, "is dominated by"),
        (0.0, 0.0, "cannot be told from"),
    ],
)
def test_how_one_policy_stands_to_another(paper, harm, helpfulness, relation) -> None:
    both = contrast_of(paper, harm), contrast_of(paper, helpfulness)
    assert paper["relations"].Comparison("a", "b", *both, (0.01, 0.01)).relation == relation


def test_p_values_are_corrected_for_all_comparisons_of_a_claim(paper) -> None:
    seed = measured(paper, "pqrs", a=[0, 0, 0, 1], b=[1, 0, 1, 1])
    flat = measured(paper, "pqrs", a=[1, 1, 1, 1], b=[1, 1, 1, 1])
    (found,) = paper["relations"].compare([("a", "b")], [seed], [flat])
    assert found.p_holm == (pytest.approx(2 * 0.0832645, abs=1e-6), 1.0)
    assert found.harm.value == 0.5  # b does more harm, which speaks for a


@pytest.mark.parametrize(
    ("against", "outcome"),
    [
        ({"x": ["dominates", "trades off against"], "y": ["is dominated by", "dominates"]}, "reproduced"),
        ({"x": ["is dominated by", "dominates"], "y": ["dominates", "is dominated by"]}, "not reproduced"),
        # x is not shown to be dominated, and not shown to be beyond the second either
        ({"x": ["dominates", "cannot be told from"], "y": ["is dominated by", "dominates"]}, "cannot tell"),
    ],
)
def test_a_point_reaches_beyond_others_only_if_it_beats_each_in_something(paper, against, outcome) -> None:
    assert paper["claims"].reaches_beyond(against) == outcome


@pytest.mark.parametrize(
    ("relations", "outcome"),
    [
        (["trades off against", "is dominated by"], "reproduced"),
        (["dominates", "trades off against"], "not reproduced"),
        (["trades off against", "cannot be told from"], "cannot tell"),
        (["is dominated by", "cannot be told from"], "reproduced"),
    ],
)
def test_a_variant_is_worse_if_some_setting_of_the_original_dominates_it(paper, relations, outcome) -> None:
    assert paper["claims"].is_worse(relations) == outcome


def test_all_are_dominated_unless_one_reaches_beyond(paper) -> None:
    all_dominated = paper["claims"].all_dominated
    assert all_dominated({"x": ["is dominated by", "dominates"], "y": ["is dominated by"]}) == "reproduced"
    assert all_dominated({"x": ["trades off against"], "y": ["is dominated by"]}) == "not reproduced"
    assert all_dominated({"x": ["cannot be told from"], "y": ["is dominated by"]}) == "cannot tell"


@pytest.mark.parametrize(
    ("gain", "shortfall", "outcome"),
    [
        (0.5, 0.1, "reproduced"),
        (0.5, -0.1, "not reproduced"),
        (0.5, 0.0, "cannot tell"),
        (0.0, 0.1, "cannot tell"),  # where nothing was gained, nothing is far less
    ],
)
def test_far_less_is_below_half(paper, gain, shortfall, outcome) -> None:
    assert paper["claims"].gains_far_less(contrast_of(paper, gain), contrast_of(paper, shortfall)) == outcome


def test_the_claims_follow_the_numbers_of_a_made_up_study(paper) -> None:
    """Harm and helpfulness by policy, the same in three seeds but for a little noise."""
    names = paper["seeds"].POLICIES
    harm = dict.fromkeys(names, 0.5) | {"lag-0.8": 0.05, "sft": 0.6, "mixed": 0.5, "classifier": 0.05}
    helpful = dict.fromkeys(names, 0.4) | {"lag-0.8": 0.8, "ranking": 0.9, "classifier": 0.7}
    harm["ranking"] = 0.2
    rng, seeds = np.random.default_rng(0), []
    prompts = tuple(map(str, range(400)))
    draws = [rng.random(400) for _ in range(3)]
    for table in (harm, helpful):
        values = [{name: (draw < share).astype(float) for name, share in table.items()} for draw in draws]
        seeds.append([paper["estimates"].Measured(prompts, mine) for mine in values])
    beyond, mixed, ranking, classifier = paper["summary"].claims_of(*seeds)
    assert beyond["outcome"] == "reproduced"  # the limit +0.8 beats every ν in both
    assert mixed["outcome"] == "reproduced"  # 10 points against 55
    assert ranking["outcome"] == "not reproduced"  # more harmful, but more helpful
    assert classifier["outcome"] == "reproduced"  # as harmless, and less helpful
    assert beyond["reasons"][1].replace("\xa0", " ").startswith("PPO-Lag, limit +0.8 dominates ν = 0.01, ν = 0.5")
    front, zero_ranking, _ = paper["summary"].beside_of(*seeds)
    assert front["outcome"] == "reproduced"  # that limit dominates each of the seven
    assert zero_ranking["outcome"] == "cannot tell"  # the very same answers
    assert "lowers the harmful rate by 5" in mixed["reasons"][0]


def test_the_headline_counts_what_was_found(paper) -> None:
    claims = [{"outcome": outcome} for outcome in ("reproduced", "cannot tell", "reproduced", "not reproduced")]
    said = paper["words"].headline(claims, "claims of the paper")
    assert said == "Of 4 claims of the paper 2 reproduced, 1 did not reproduce and 1 could not be decided."


@pytest.fixture
def seed(paper, tmp_path: Path):
    """A seed of which training curves and answers lie on disk, and all else is made up."""
    names, rng = paper["seeds"].POLICIES, np.random.default_rng(0)
    asked = tuple(map(str, range(40)))
    tables = [{name: (rng.random(40) < 0.5).astype(float) for name in names} for _ in range(3)]
    harm, refusal, helpfulness = (paper["estimates"].Measured(asked, table) for table in tables)
    for name in names:
        (tmp_path / "policies" / name).mkdir(parents=True)
        lines = [{"step": k, "lambda": 0.5, "mean_cost": -k, "cost_limit": 1, "mean_reward": k} for k in (1, 2, 3)]
        (tmp_path / "policies" / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (tmp_path / "answers" / name).mkdir(parents=True)
        answers = [
            ScoredResponse(prompt=Prompt.from_text(f"ask {n}"), text="<b>no</b>", reward=n, cost=2 - n)
            for n in range(5)
        ]
        text = "\n".join(answer.model_dump_json() for answer in answers)
        (tmp_path / "answers" / name / "responses.jsonl").write_text(text)
    scores = dict.fromkeys(names, (0.5, -1.0))
    return paper["read"].Seed(0, tmp_path, 9.0, harm, refusal, helpfulness, ("theft",) * 40, scores)


def test_the_page_stands_alone_and_has_every_policy_and_claim(paper, seed, monkeypatch) -> None:
    monkeypatch.setattr(paper["summary"], "settings", lambda _: {"steps": 48, "batch_size": 128})
    monkeypatch.setattr(
        paper["summary"], "cost_models", lambda seeds: {"sign alone": [{"mean_safe_cost": -1.5}] * len(seeds)}
    )
    elo = Elo(value=None, low=9.0, high=None, n=5, status="above_all_data")
    training = paper["seeds"].Training(0.8, 0.3, 50.0)
    monkeypatch.setattr(paper["summary"], "elo_of", lambda *_: elo)
    without = ("sft", "safe-sft")
    monkeypatch.setattr(paper["summary"], "training_of", lambda _, name: None if name in without else training)
    other = seed._replace(seed=1)
    for seeds in ([seed], [seed, other]):
        numbers = json.loads(json.dumps(paper["summary"].numbers_of(seeds)))
        page = paper["page"].render(numbers, seeds)
        assert not re.search(r"https?:|<script|<b>no", page)
        for name, label in paper["summary"].LABELS.items():
            assert label in page, name
        for claim in numbers["claims"] + numbers["beside"]:
            assert f"<h3>{claim['claim']} <" in page
            assert f"“{claim['claim']}”" in page  # the comparisons behind it
        assert "NaN" not in json.dumps(numbers)
    assert "above all data · above all data" in page


def test_seeds_that_do_not_belong_together_are_refused(paper, seed) -> None:
    with pytest.raises(EvaluationError, match="same seed"):
        paper["read"].check_same([seed, seed], paper["seeds"].POLICIES)
