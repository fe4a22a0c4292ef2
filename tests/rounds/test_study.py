"""What a study shares between its variants and what it does not, with nothing run; and the safe answers."""

import json
from pathlib import Path

import pytest

from equipoise.artefact import read_manifest
from equipoise.cli.layering import find_recipe, resolve
from equipoise.cli.stages import STAGES
from equipoise.data.load import load_demonstrations
from equipoise.data.source import DataSource
from equipoise.errors import ConfigError, DataError
from equipoise.records import Prompt, SafetyLabel
from equipoise.rounds.config import KeepSafeConfig, StudyConfig
from equipoise.rounds.plan import Step
from equipoise.rounds.prepare import keep_safe
from equipoise.rounds.study import make_study


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
        {"name": "loose", "ppo_lag": {"cost_limit": 2.0}},
        rounds=[{"ppo_lag": {"cost_limit": 0.5, "steps": 7}}, {"ppo_lag": {"steps": 99}}],
    )
    own, loose = (steps[f"policies/{name}"].config.model_dump() for name in ("own", "loose"))
    assert {key for key in own if own[key] != loose[key]} == {"out", "cost_limit"}
    assert (own["cost_limit"], loose["cost_limit"], own["steps"]) == (0.5, 2.0, 7)  # the first round's


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


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ([{"name": "a"}, {"name": "a"}], "same name: a"),
        ([{"name": "a", "cost": "none"}], "no cost model 'none'"),
        ([{"name": "a", "reward": "none"}], "no reward model 'none'"),
        ([{"name": "a/b"}], "pattern"),
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


def test_the_recipe_of_direct_methods_has_each_and_no_step_waits_for_a_later_one(
    tmp_path: Path,
) -> None:
    (stage,) = (stage for stage in STAGES if stage.name == "study")
    config = resolve(stage, ["playground", str(find_recipe("direct"))], {"out": str(tmp_path)})
    assert isinstance(config, StudyConfig)
    done: set[str] = set()
    methods = set()
    for step in make_study(config):
        assert done.issuperset(step.after), step.name
        done.add(step.name)
        if step.name.startswith("policies/"):
            methods.add(step.config.method.type)
    assert methods == {"dpo", "safe_dpo", "modpo"}
    assert "policies/sacpo" in done


def labels(tmp_path: Path, *answers: tuple[str, bool]) -> KeepSafeConfig:
    asked = Prompt.from_text("how do i open a jar ?")
    lines = [SafetyLabel(prompt=asked, response=text, is_safe=safe).model_dump_json() for text, safe in answers]
    (tmp_path / "safety.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return KeepSafeConfig(out=tmp_path / "out", labels=(DataSource(path=str(tmp_path / "safety.jsonl")),))


def test_answers_labelled_safe_become_demonstrations(tmp_path: Path) -> None:
    given = [("twist it .", True), ("smash it .", False), ("unsure .", True), ("unsure .", False), (" ", True)]
    out = keep_safe(labels(tmp_path, *given))
    (kept,) = load_demonstrations(DataSource(path=str(out)))
    assert [json.loads(m.model_dump_json()) for m in kept.messages] == [
        {"role": "user", "content": "how do i open a jar ?"},
        {"role": "assistant", "content": "twist it ."},
    ]
    assert read_manifest(out).facts == {"labels": 5, "safe": 1}


def test_nothing_safe_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to imitate"):
        keep_safe(labels(tmp_path, ("smash it .", False)))
