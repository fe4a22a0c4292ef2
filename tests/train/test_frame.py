"""The three axes of RL in the loop: advantages without critics, other constraints, several multipliers."""

import math

import pytest
import torch
from safetensors.torch import load_file
from train_models import function, make_scorer, ppo, prompt, read_lines, write_lines

from equipoise.artefact import read_manifest
from equipoise.errors import ConfigError, DataError
from equipoise.models.normalize import Normalizer
from equipoise.models.score_head import Scorer, load_scorer
from equipoise.records import Prompt, Response
from equipoise.rollout.score import ModelSource
from equipoise.tokens.template import load_tokenizer
from equipoise.train import ppo_lag
from equipoise.train.constraints import (
    CategoryCosts,
    ChanceOfCost,
    Costs,
    GroupCosts,
    MeanCost,
    RectifiedCost,
    UpperBound,
    excess,
    names_of,
    shifted,
    watched,
    weigh,
)
from equipoise.train.limit import costs_of
from equipoise.train.ppo_lag import train_ppo_lag
from equipoise.train.sharded import WholeSource

QUICK = {"lr": 1e-2, "schedule": "constant", "warmup": 0.0}
GROUPS = {"reward_critic": None, "cost_critic": None, "samples_per_prompt": 4}
KINDS = ("harmful", "harmless", "harmful", "harmless")
PROMPTS = [Prompt.from_text(f"ask {n}", kind=kind) for n, kind in enumerate(KINDS)]
COSTS = Costs([3.0, -5.0, 1.0, -7.0], {})


def run(out, world, **settings):
    return read_lines(train_ppo_lag(ppo(out, world, **settings)) / "metrics.jsonl")


@pytest.mark.parametrize("advantage", ["group", "rloo"])
def test_without_critics_the_reward_rises_and_none_is_loaded(world, tmp_path, monkeypatch, advantage):
    monkeypatch.setattr("equipoise.train.roles.Critic", lambda *_: pytest.fail("a critic was loaded"))
    steps = run(
        tmp_path / "out", world, **GROUPS, steps=40, batch_size=8, kl_coef=0.001, actor_optimizer=QUICK,
        advantage={"type": advantage}, constraint={"type": "none"},
    )  # fmt: skip
    first, last = (math.fsum(s["mean_reward"] for s in part) / 5 for part in (steps[:5], steps[-5:]))
    assert last > first + 2
    assert not any("critic" in key for key in steps[0])


@pytest.mark.parametrize("advantage", ["group", "rloo"])
def test_micro_batches_do_not_change_the_update_of_groups(world, tmp_path, advantage):
    settings = {**GROUPS, "advantage": {"type": advantage}, "steps": 1, "actor_optimizer": QUICK, "kl_coef": 0.1}
    settings |= {"update_iters": 2, "cost": function("count_sweet")}
    whole, parts = (
        load_file(train_ppo_lag(ppo(tmp_path / str(n), world, **settings, micro_batch=n)) / "model.safetensors")
        for n in (None, 3)
    )
    assert all(torch.allclose(whole[name], parts[name], atol=1e-5) for name in whole)


def test_kl_holds_a_standardised_policy_near_its_reference(world, tmp_path):
    settings = {**GROUPS, "advantage": {"type": "group"}, "steps": 15, "actor_optimizer": QUICK}
    free, held = (run(tmp_path / str(kl), world, **settings, kl_coef=kl)[-1] for kl in (0.0, 3.0))
    assert held["kl"] < free["kl"] / 4
    assert held["kl_loss"] < free["kl_loss"] / 4


def test_one_trunk_with_two_heads_learns_what_two_critics_learn(world, tmp_path):
    shared = {"advantage": {"type": "gae", "shared_trunk": True}, "reward_critic": None}
    steps = run(
        tmp_path / "out", world, steps=30, cost=function("count_sweet"), **shared, actor_optimizer={"lr": 1e-9},
        critic_optimizer=QUICK, batch_size=32,
    )  # fmt: skip
    for stream in ("reward", "cost"):
        assert steps[-1][f"{stream}_critic_loss"] < 0.7 * steps[0][f"{stream}_critic_loss"]
    assert "critic_grad_norm" in steps[0]


def test_a_run_of_several_multipliers_resumes_where_it_was(world, tmp_path):
    prompts = [
        prompt(f"ask {word}") | {"kind": kind} for word in ("one", "two") for kind in ("harmful", "harmless")
    ]
    asked = [{"path": str(write_lines(tmp_path / "prompts.jsonl", prompts[::3]))}]
    settings = {
        "prompts": asked, "cost": function("count_sweet"), "steps": 6, "batch_size": 2, "checkpoint_every": 3,
        "constraint": {"type": "groups", "by": ["kind"], "limits": {"harmful": -1.0}, "limit": 9.0},
        "dual": {"type": "pid", "window": 5},
    }  # fmt: skip
    whole = run(tmp_path / "whole", world, **settings)
    assert whole[-1]["lambda/harmful"] > 1.0 > whole[-1]["lambda/harmless"]
    assert whole[-1]["lambda"] == whole[-1]["lambda/harmful"]
    assert read_manifest(tmp_path / "whole").facts["limits"] == {"harmful": -1.0, "harmless": 9.0}

    with pytest.MonkeyPatch.context() as patch:
        real = ppo_lag.check_finite

        def stop(sums, scored, step, *given):
            if step == 4:
                raise KeyboardInterrupt
            return real(sums, scored, step, *given)

        patch.setattr(ppo_lag, "check_finite", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", world, **settings)
    assert run(tmp_path / "cut", world, **settings) == whole


def test_without_a_limit_nothing_is_learned_from_costs(world, tmp_path):
    settings = {"cost_critic": None, "constraint": {"type": "none"}, "steps": 3, "actor_optimizer": QUICK}
    ends = [
        load_file(
            train_ppo_lag(ppo(tmp_path / name, world, cost=function(name), **settings)) / "model.safetensors"
        )
        for name in ("zero", "count_sweet")
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    facts = read_manifest(tmp_path / "zero").facts
    assert facts["lambda"] == 0.0
    assert facts["limits"] == {}
    assert "cost_limit" not in facts


# what each constraint watches, by hand: costs 3, −5, 1, −7


@pytest.mark.parametrize(
    ("constraint", "by"),
    [
        (MeanCost(limit=-1.0), -2.0 + 1.0),  # the mean is −2: met, as harmless answers pay
        (RectifiedCost(limit=-1.0, epsilon=0.5), (4 + 0 + 2 + 0) / 4 - 0.5),
        (ChanceOfCost(delta=0.25), 0.5 - 0.25),
        (UpperBound(limit=0.0, confidence=0.95), -2.0 + 2.353363 * math.sqrt((25 + 9 + 9 + 25) / 3 / 4)),
    ],
)
def test_how_far_a_constraint_is_exceeded_by_hand(constraint, by):
    names = names_of(constraint, PROMPTS, ())
    seen = watched(constraint, names, PROMPTS, COSTS)
    assert excess(constraint, {name: v.values() for name, v in seen.items()}) == {"": pytest.approx(by, abs=1e-5)}


def test_groups_watch_their_own_costs_and_weigh_them_by_their_own_lambda():
    constraint = GroupCosts(by=("kind",), limit=0.0, limits={"harmless": -4.0})
    names = names_of(constraint, PROMPTS, ())
    assert names == ("harmful", "harmless")
    seen = watched(constraint, names, PROMPTS, COSTS)
    found = excess(constraint, {name: v.values() for name, v in seen.items()})
    assert found == {"harmful": 2.0, "harmless": -2.0}
    assert weigh(constraint, seen, COSTS, {"harmful": 2.0, "harmless": 0.5}) == [
        (3.0, 2.0), (-5.0, 0.5), (1.0, 2.0), (-7.0, 0.5),
    ]  # fmt: skip
    moved = shifted(constraint, 10.0, {})
    assert (moved.limit_of("harmful"), moved.limit_of("harmless")) == (10.0, 6.0)


def test_only_some_kinds_may_be_limited_and_the_others_have_no_lambda():
    constraint = GroupCosts(by=("kind",), kinds=("harmful",), epsilon=0.5)
    names = names_of(constraint, PROMPTS, ())
    seen = watched(constraint, names, PROMPTS, Costs([3.0, -5.0, -1.0, -7.0], {}))
    assert seen == {"harmful": {0: 3.0, 2: 0.0}}  # rectified: the safe answer pays nothing
    assert excess(constraint, {"harmful": seen["harmful"].values()}) == {"harmful": 1.0}  # (3 + 0)/2 − 0.5
    assert weigh(constraint, seen, COSTS, {"harmful": 2.0})[:2] == [(3.0, 2.0), (0.0, 0.0)]


def test_categories_watch_every_response_and_add_up():
    constraint = CategoryCosts(limit=0.0, limits={"theft": 1.0})
    costs = Costs([0.0, 0.0], {"theft": [2.0, -4.0], "drugs": [1.0, 1.0]})
    seen = watched(constraint, ("theft", "drugs"), PROMPTS[:2], costs)
    found = excess(constraint, {name: v.values() for name, v in seen.items()})
    assert found == {"theft": -2.0, "drugs": 1.0}
    assert weigh(constraint, seen, costs, {"theft": 1.0, "drugs": 3.0}) == [(1.25, 4.0), (-0.25, 4.0)]
    assert shifted(constraint, 9.0, {"theft": 1.0, "drugs": 2.0}).limits == {"theft": 2.0, "drugs": 2.0}


def test_a_group_that_nothing_was_seen_of_is_left_out():
    assert excess(GroupCosts(by=("kind",)), {"harmful": [1.0], "harmless": []}) == {"harmful": 1.0}


# bad combinations, before a model loads


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {**GROUPS, "samples_per_prompt": 1, "advantage": {"type": "group"}},
            "compares the responses to one prompt",
        ),
        ({"advantage": {"type": "rloo"}, "samples_per_prompt": 4}, "reward_critic is set"),
        ({"advantage": {"type": "gae", "shared_trunk": True}}, "reward_critic is set"),
        ({"constraint": {"type": "none"}, "cost_critic": None, "limit_from": [{"path": "x"}]}, "has no limit"),
        ({"constraint": {"type": "categories"}}, "needs a cost model with an output for each category"),
        ({"constraint": {"type": "rectified", "epsilon": 0}}, "greater than 0"),
        (
            {
                "advantage": {"type": "gae", "shared_trunk": True},
                "cost_critic": None,
                "constraint": {"type": "none"},
            },
            "without a constraint there is one",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(world, tmp_path, settings, says):
    with pytest.raises(ConfigError, match=says):
        ppo(tmp_path / "out", world, **settings)


@pytest.fixture
def nothing_loads(monkeypatch):
    monkeypatch.setattr(ppo_lag, "load_roles", lambda *_: pytest.fail("a model was loaded"))


def test_groups_without_their_field_are_refused(world, tmp_path, nothing_loads):
    with pytest.raises(DataError, match="A prompt has no category") as caught:
        run(tmp_path / "out", world, constraint={"type": "groups"})
    assert caught.value.why == "constraint.by = category"


def kinds_of(path, *kinds):
    return [
        {"path": str(write_lines(path, [prompt(f"ask {n}") | {"kind": kind} for n, kind in enumerate(kinds)]))}
    ]


@pytest.mark.parametrize(
    ("asked", "held_out", "constraint", "says"),
    [
        (["harmless"], ["harmless"], {"kinds": ["harmful"]}, "No prompt is in a group"),
        (["harmful"], ["harmful", "harmless"], {}, "groups that no training prompt is in: 'harmless'"),
        (["harmful", "harmless"], ["harmful"], {}, "too few held-out prompts .* of 'harmless'"),
        (["harmful"], ["harmful"], {"confidence": 0.9}, "too few held-out prompts .* of 'harmful'"),
    ],
)
def test_prompts_that_leave_a_limit_without_an_answer_are_refused(
    world, tmp_path, nothing_loads, asked, held_out, constraint, says
):
    with pytest.raises(DataError, match=says):
        run(
            tmp_path / "out", world, prompts=kinds_of(tmp_path / "asked.jsonl", *asked),
            validation={"prompts": kinds_of(tmp_path / "held-out.jsonl", *held_out)},
            constraint={"type": "groups", "by": ["kind"], **constraint},
        )  # fmt: skip


def test_costs_by_category_of_a_model_in_parts_and_of_no_responses(world):
    scorer = Scorer(load_scorer(world / "cost").backbone, categories=2)
    tokenizer = load_tokenizer(world / "policy")
    source = ModelSource(scorer, tokenizer, "cost", Normalizer(), "cost", 8, 24, ("theft", "drugs"))
    answers = [Response(prompt=one, text="yes") for one in PROMPTS]
    in_parts = costs_of(answers, WholeSource(source, scorer), CategoryCosts())
    assert in_parts == costs_of(answers, source, CategoryCosts())
    assert {name: len(column) for name, column in in_parts.by_category.items()} == {"theft": 4, "drugs": 4}
    assert costs_of([], source, CategoryCosts()) == ([], {"theft": [], "drugs": []})


def test_limits_of_unknown_groups_are_refused(world, tmp_path, nothing_loads):
    asked = [{"path": str(write_lines(tmp_path / "p.jsonl", [prompt("ask one") | {"kind": "harmful"}]))}]
    with pytest.raises(DataError, match="called 'harmfull'"):
        run(
            tmp_path / "out", world, prompts=asked,
            constraint={"type": "groups", "by": ["kind"], "limits": {"harmfull": 1.0}},
        )  # fmt: skip


def test_a_chance_from_costs_whose_zero_means_nothing_is_refused(world, tmp_path, nothing_loads, monkeypatch):
    make_scorer(tmp_path / "cost", world / "policy", "cost")
    monkeypatch.setattr("equipoise.train.limit.learned_by", lambda _: "ranking")
    settings = {
        "cost": {"type": "model", "path": tmp_path / "cost"},
        "constraint": {"type": "chance", "delta": 0.1},
    }
    with pytest.raises(ConfigError, match="zero means nothing") as caught:
        run(tmp_path / "out", world, **settings)
    assert "loss = 'ranking'" in caught.value.why
