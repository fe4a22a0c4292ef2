"""What a plan wires: settings and order, with nothing run."""

from pathlib import Path

import pytest

from equipoise.errors import ConfigError
from equipoise.rounds.config import RunConfig
from equipoise.rounds.plan import Step, make_plan


def plan_of(*rounds: dict[str, object], **settings: object) -> dict[str, Step]:
    tree = {
        "out": "run",
        "policy": "models/mine",
        "prompts": ["prompts.txt"],
        "held_out": ["held-out.txt"],
        "simulate": {"labellers": "mine:panel"},
        "evaluate": {"verdict": "mine:verdicts"},
        "rounds": rounds,
        **settings,
    }
    return {step.name: step for step in make_plan(RunConfig.model_validate(tree))}


def test_pairs_that_people_labelled_take_the_place_of_simulated_labels() -> None:
    steps = plan_of({"preferences": ["people-1.json"]}, {"preferences": ["people-2.json"]})
    assert not [name for name in steps if name.endswith(("/responses", "/labels", "/preferences"))]
    assert [source.path for source in steps["round-2/cost"].config.pairs] == ["people-1.json", "people-2.json"]
    assert [one.labels for one in steps["report"].config.rounds] == [None, None]


def test_simulated_labels_add_to_those_of_people() -> None:
    steps = plan_of({"preferences": ["people.json"]}, {})
    paths = [source.path for source in steps["round-2/reward"].config.pairs]
    assert paths == ["people.json", str(Path("run/round-2/preferences/pairs.jsonl"))]


def test_the_limit_counts_from_the_labels_of_the_same_round() -> None:
    steps = plan_of({"preferences": ["people.json"]}, {}, limit_from="labels")
    origins = [[source.path for source in steps[f"round-{k}/policy"].config.limit_from] for k in (1, 2)]
    assert origins == [["people.json"], [str(Path("run/round-2/preferences/safety.jsonl"))]]
    assert plan_of({})["round-1/policy"].config.limit_from == ()


@pytest.mark.parametrize(
    ("settings", "starts"),
    [
        ({}, ["models/mine", "models/mine"]),
        ({"reward": {"lora": {}}, "cost": {"lora": {}}}, ["models/mine", "models/mine"]),
        ({"reward": {"lora": {}}, "ppo_lag": {"lora": {"r": 8}}}, ["run/round-1/policy", "models/mine"]),
        ({"reward": {"lora": {}}, "ppo_lag": {"lora": {"share": False}}}, ["models/mine", "models/mine"]),
    ],
)
def test_adapters_of_a_round_are_trained_on_the_policy_that_it_starts_from(settings, starts) -> None:
    steps = plan_of({"preferences": ["people.json"]}, {"preferences": ["people.json"]}, **settings)
    assert [str(steps[f"round-2/{judge}"].config.model) for judge in ("reward", "cost")] == starts
    assert str(steps["round-1/reward"].config.model) == "models/mine"
    for judge, start in zip(("reward", "cost"), starts, strict=True):
        assert ("round-1/policy" in steps[f"round-2/{judge}"].after) == (start == "run/round-1/policy")


def test_reward_and_cost_models_go_on_from_those_of_the_round_before() -> None:
    people = {"preferences": ["people.json"]}
    steps = plan_of(people, people, people, go_on=True)
    for judge in ("reward", "cost"):
        models = [str(steps[f"round-{k}/{judge}"].config.model) for k in (1, 2, 3)]
        assert models == ["models/mine", f"run/round-1/{judge}", f"run/round-2/{judge}"]
        assert f"round-2/{judge}" in steps[f"round-3/{judge}"].after
    lora = {"reward": {"lora": {}}, "ppo_lag": {"lora": {}}}
    with pytest.raises(ConfigError, match=r"round-2: go_on = true"):
        plan_of(people, people, go_on=True, **lora)


def test_no_step_waits_for_one_that_is_not_in_the_plan() -> None:
    for rounds in ([{}, {}], [{"preferences": ["people.json"]}, {}], [{}, {"preferences": ["people.json"]}]):
        steps = plan_of(*rounds)
        done: set[str] = set()
        for step in steps.values():
            assert done.issuperset(step.after), step.name
            done.add(step.name)
