"""What a study shares between its variants and what it does not, with nothing run."""

from pathlib import Path
from typing import get_args

import pytest

from equipoise.cli.layering import find_recipe, resolve
from equipoise.cli.stages import STAGES
from equipoise.config import Config
from equipoise.errors import ConfigError
from equipoise.rounds.config import StudyConfig, Variant
from equipoise.rounds.plan import Step
from equipoise.rounds.study import make_study
from equipoise.train.constraints import Constraint
from equipoise.train.direct_config import Method
from equipoise.train.duals import Dual
from equipoise.train.ppo_config import Advantage


def study_of(*variants: dict[str, object], **settings: object) -> dict[str, Step]:
    tree = {
        "out": "run",
        "policy": "models/mine",
        "prompts": ["prompts.txt"],
        "held_out": ["held-out.txt"],
        "simulate": {"labellers": "mine:panel", "single_share": 1.0},
        "evaluate": {"verdict": "mine:verdicts"},
        "variants": [{"type": "ppo_lag", **variant} for variant in variants],
        **settings,
    }
    return {step.name: step for step in make_study(StudyConfig.model_validate(tree))}


def test_variants_differ_in_what_they_say_and_in_nothing_else() -> None:
    steps = study_of(
        {"name": "own"},
        {"name": "loose", "ppo_lag": {"constraint": {"type": "mean", "limit": 2.0}}},
        rounds=[
            {"ppo_lag": {"constraint": {"type": "mean", "limit": 0.5}, "steps": 7}},
            {"ppo_lag": {"steps": 99}},
        ],
    )
    own, loose = (steps[f"policies/{name}"].config.model_dump() for name in ("own", "loose"))
    assert {key for key in own if own[key] != loose[key]} == {"out", "constraint"}
    assert (own["constraint"]["limit"], loose["constraint"]["limit"], own["steps"]) == (
        0.5,
        2.0,
        7,
    )  # the first round's


def test_a_named_cost_model_trains_the_variant_and_the_runs_own_scores_its_answers() -> None:
    steps = study_of({"name": "bare", "cost": "classifier"}, costs={"classifier": {"loss": "sign"}})
    assert steps["costs/classifier"].config.loss == "sign"
    assert steps["shared/cost"].config.loss == "ranking+sign"
    assert steps["policies/bare"].config.cost.path == Path("run/costs/classifier")
    assert steps["policies/bare"].config.reward.path == Path("run/shared/reward")
    assert steps["answers/bare"].config.cost.path == Path("run/shared/cost")


def test_a_reward_model_of_the_mixed_question_learns_from_the_same_answers() -> None:
    steps = study_of({"name": "one", "reward": "mixed"}, rewards={"mixed": {"question": "single"}})
    assert steps["rewards/mixed-labels"].config.more_helpful_from == "single"
    assert steps["rewards/mixed-labels"].config.labels == steps["shared/preferences"].config.labels
    assert steps["shared/preferences"].config.more_helpful_from == "helpfulness"
    (pairs,) = steps["rewards/mixed"].config.pairs
    assert pairs.path == str(Path("run/rewards/mixed-labels/pairs.jsonl"))


def test_a_variant_may_count_its_limit_from_elsewhere() -> None:
    steps = study_of({"name": "labels"}, {"name": "zero", "limit_from": "zero"}, limit_from="labels")
    assert [source.path for source in steps["policies/labels"].config.limit_from] == [
        str(Path("run/shared/preferences/safety.jsonl"))
    ]
    assert steps["policies/zero"].config.limit_from == ()


def test_direct_variants_start_where_they_say_and_learn_from_the_shared_pairs() -> None:
    steps = study_of(
        {"type": "direct", "name": "helpful"},
        {"type": "direct", "name": "sacpo", "start": "helpful", "direct": {"method": {"by": "harmlessness"}}},
        direct={"method": {"type": "dpo"}, "beta": 0.2},
    )
    first, second = (steps[f"policies/{name}"] for name in ("helpful", "sacpo"))
    assert (first.config.policy, second.config.policy) == (Path("models/mine"), Path("run/policies/helpful"))
    assert first.config.ref is second.config.ref is None
    assert (first.config.method.by, second.config.method.by) == ("helpfulness", "harmlessness")
    assert {source.path for step in (first, second) for source in step.config.pairs} == {
        str(Path("run/shared/preferences/pairs.jsonl"))
    }
    assert (first.config.beta, second.config.beta) == (0.2, 0.2)
    assert "policies/helpful" in second.after and "policies/helpful" not in first.after
    with pytest.raises(ValueError, match=r"variant a: 'b' is no policy that stands before it; these do: sft"):
        study_of({"type": "direct", "name": "a", "start": "b"}, {"type": "direct", "name": "b"})


def test_modpo_takes_the_runs_own_model_of_what_its_pairs_do_not_say() -> None:
    steps = study_of(
        *({"type": "direct", "name": by, "direct": {"method": {"type": "modpo", "by": by}}}
          for by in ("helpfulness", "harmlessness")),
        {"type": "direct", "name": "mine",
         "direct": {"method": {"type": "modpo", "other": {"type": "function", "function": "mine:costs"}}}},
    )  # fmt: skip
    helpful, harmless, mine = (steps[f"policies/{name}"] for name in ("helpfulness", "harmlessness", "mine"))
    assert helpful.config.method.other.path == Path("run/shared/cost") and "shared/cost" in helpful.after
    assert harmless.config.method.other.path == Path("run/shared/reward") and "shared/reward" in harmless.after
    assert mine.config.method.other.type == "function" and "shared/cost" not in mine.after


def test_every_variant_is_compared_with_the_first_policy_on_the_same_prompts() -> None:
    steps = study_of({"name": "a"}, {"type": "safe_sft", "name": "b"})
    assert [list(steps[f"evaluations/{name}"].config.policies) for name in "ab"] == [["sft", "a"], ["sft", "b"]]
    asked = {str(steps[f"answers/{name}"].config.prompts) for name in ("sft", "a", "b")}
    assert len(asked) == 1
    assert steps["policies/b"].config.model == Path("models/mine")


def test_peoples_pairs_take_the_place_of_simulated_labels() -> None:
    steps = study_of({"name": "a"}, rounds=[{"preferences": ["people.json"]}], limit_from="labels")
    assert not [name for name in steps if name.endswith(("/responses", "/labels", "/preferences"))]
    assert [source.path for source in steps["policies/a"].config.limit_from] == ["people.json"]
    with pytest.raises(ConfigError, match="people's pairs do not hold"):
        study_of({"name": "a"}, rounds=[{"preferences": ["p.json"]}], rewards={"mixed": {"question": "single"}})


def test_a_merge_is_of_variants_before_it_and_answers_like_any_policy() -> None:
    steps = study_of({"name": "a"}, {"type": "merge", "name": "half", "of": {"sft": 0.5, "a": 0.5}})
    step = steps["policies/half"]
    assert step.config.policies == (Path("models/mine"), Path("run/policies/a"))
    assert (step.config.weights, step.after) == ((0.5, 0.5), ("policies/a",))
    assert steps["answers/half"].config.policy == Path("run/policies/half")
    assert "policies/half" in steps["answers/half"].after
    with pytest.raises(ConfigError, match="add up to 1"):
        study_of({"name": "a"}, {"type": "merge", "name": "half", "of": {"sft": 0.5, "a": 0.6}})


def test_best_of_n_answers_with_another_variants_policy_by_the_runs_own_scores() -> None:
    variant = {"type": "best_of", "name": "best", "policy": "a", "n": 8, "limit": -1.0}
    steps = study_of({"name": "a"}, variant, {**variant, "name": "first", "policy": "sft"})
    best = steps["answers/best"].config
    assert (best.policy, best.best_of.n, best.best_of.limit) == (Path("run/policies/a"), 8, -1.0)
    assert (best.cost.path, best.name) == (Path("run/shared/cost"), "best")
    assert steps["answers/first"].config.policy == Path("models/mine")
    assert steps["answers/a"].config.best_of is None
    assert "policies/best" not in steps
    assert list(steps["evaluations/best"].config.policies) == ["sft", "best"]


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ([{"name": "a"}, {"name": "a"}], "same name: a"),
        ([{"name": "a", "cost": "none"}], "no cost model 'none'"),
        ([{"name": "a", "reward": "none"}], "no reward model 'none'"),
        ([{"name": "a/b"}], "pattern"),
        ([{"type": "merge", "name": "m", "of": {"sft": 0.5, "a": 0.5}}, {"name": "a"}], "m: 'a' is no policy"),
        (
            [{"type": "best_of", "name": "b"}, {"type": "best_of", "name": "c", "policy": "b"}],
            "c: 'b' is no policy",
        ),
    ],
)
def test_names_that_do_not_fit_are_refused(variants: list[dict[str, object]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        study_of(*variants)


def test_a_variant_cannot_be_called_like_the_first_policy() -> None:
    with pytest.raises(ConfigError, match="cannot be called 'sft'"):
        study_of({"name": "sft"})


def test_no_step_of_the_papers_study_waits_for_one_that_comes_later(tmp_path: Path) -> None:
    (stage,) = (stage for stage in STAGES if stage.name == "study")
    config = resolve(stage, ["playground", str(find_recipe("paper"))], {"out": str(tmp_path)})
    assert isinstance(config, StudyConfig)
    done: set[str] = set()
    budgets = set()
    for step in make_study(config):
        assert done.issuperset(step.after), step.name
        done.add(step.name)
        if step.name.startswith("policies/") and hasattr(step.config, "steps"):
            budgets.add((step.config.steps, step.config.batch_size, step.config.sampling, step.config.keep))
            assert not step.spread
    assert len(budgets) == 1  # the same number of tokens and steps for every variant of RL
    assert len([name for name in done if name.startswith("evaluations/")]) == 19


def test_the_recipe_of_methods_has_each_and_no_step_waits_for_a_later_one(tmp_path: Path) -> None:
    (stage,) = (stage for stage in STAGES if stage.name == "study")
    config = resolve(stage, ["playground", str(find_recipe("methods"))], {"out": str(tmp_path)})
    assert isinstance(config, StudyConfig)
    done: set[str] = set()
    found: dict[str, set[str]] = {"advantage": set(), "constraint": set(), "dual": set(), "method": set()}
    for step in make_study(config):
        assert done.issuperset(step.after), step.name
        done.add(step.name)
        for axis, types in found.items():
            if isinstance(getattr(step.config, axis, None), Config):
                types.add(getattr(step.config, axis).type)
    for axis, union in (("advantage", Advantage), ("constraint", Constraint), ("dual", Dual), ("method", Method)):
        assert found[axis] == {kind.model_fields["type"].default for kind in get_args(get_args(union)[0])}
    assert {variant.type for variant in config.variants} == {
        kind.model_fields["type"].default for kind in get_args(get_args(Variant)[0])
    }


def test_offline_variants_learn_from_one_file_of_scored_answers() -> None:
    kinds = [{"type": "mocan", "name": "m", "beta": 0.5}, {"type": "rejection", "name": "r", "cost_limit": 1.5}]
    steps = study_of(*kinds, scored_respond={"samples_per_prompt": 16}, direct={"epochs": 3})
    scored = str(Path("run/shared/scored"))
    assert steps["shared/scored"].config.samples_per_prompt == 16
    assert steps["shared/scored"].config.cost.path == Path("run/shared/cost")
    assert [source.path for source in steps["policies/m-pairs"].config.responses] == [scored]
    assert [source.path for source in steps["policies/r-answers"].config.keep.responses] == [scored]
    assert steps["policies/r-answers"].config.keep.cost_limit == 1.5
    direct, pairs = steps["policies/m"].config, steps["policies/m-pairs"].config
    assert (direct.beta, pairs.lam.beta, direct.epochs, direct.policy) == (0.5, 0.5, 3, Path("models/mine"))


def test_every_round_of_c_dpo_begins_at_the_first_policy_and_steps_by_the_answers_of_the_last() -> None:
    steps = study_of({"type": "c_dpo", "name": "c", "beta": 0.5, "rounds": 3, "start": 0.2, "limit": -1.0})
    trained = [name for name in steps if name.startswith("policies/") and hasattr(steps[name].config, "beta")]
    assert trained == ["policies/c-1", "policies/c-2", "policies/c"]
    assert {steps[name].config.policy for name in trained} == {Path("models/mine")}
    first, second, third = (steps[f"{name}-pairs"].config.lam for name in trained)
    assert first.value == 0.2
    assert (second.before, third.before) == (Path("run/policies/c-1-pairs"), Path("run/policies/c-2-pairs"))
    assert third.answers[0].path == str(Path("run/policies/c-2-answers"))
    assert (third.limit, third.limit_from) == (-1.0, ())
    assert steps["policies/c-2-answers"].config.policy == Path("run/policies/c-2")


def test_a_variant_that_is_called_like_a_round_of_another_is_refused() -> None:
    with pytest.raises(ConfigError, match="Two steps would write to policies/c-1"):
        study_of({"type": "c_dpo", "name": "c", "beta": 0.5, "rounds": 2}, {"type": "safe_sft", "name": "c-1"})


def test_an_offline_limit_counts_from_safe_answers_where_the_run_says_so() -> None:
    kinds = [
        {"type": "mocan", "name": "m", "beta": 1.0, "limit": 0.8},
        {"type": "mocan", "name": "n", "beta": 0.1},
    ]
    steps = study_of(*kinds, limit_from="labels")
    lam = steps["policies/m-pairs"].config.lam
    assert (lam.limit, [source.path for source in lam.limit_from]) == (0.8, [str(Path("run/shared/safe"))])
    assert steps["shared/safe"].config.cost.path == Path("run/shared/cost")
    assert steps["shared/safe-answers"].config.keep.labels[0].path == str(
        Path("run/shared/preferences/safety.jsonl")
    )
    done: set[str] = set()
    for step in steps.values():
        assert done.issuperset(step.after), step.name
        done.add(step.name)
