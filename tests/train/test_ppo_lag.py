"""What a run of PPO-Lag does to the policy, to λ, and to its directory."""

import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from train_models import CPU, function, make_scorer, ppo, prompt, read_lines, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from equipoise.artefact import read_manifest
from equipoise.errors import ConfigError, DataError, EvaluationError, ModelError, TrainingError
from equipoise.train import ppo_lag
from equipoise.train.ppo_lag import train_ppo_lag

QUICK = {"lr": 1e-2, "schedule": "constant", "warmup": 0.0}
LEARNING = {"actor_optimizer": QUICK, "critic_optimizer": QUICK, "batch_size": 32, "kl_coef": 0.001}


def run(out, world, **settings):
    return read_lines(train_ppo_lag(ppo(out, world, **settings)) / "metrics.jsonl")


def policy_after(out, world, **settings):
    return load_file(train_ppo_lag(ppo(out, world, **settings)) / "model.safetensors")


def mean_cost(limit):
    return {"type": "mean", "limit": limit}


def mean(steps, key):
    return math.fsum(step[key] for step in steps) / len(steps)


def test_the_reward_rises_and_the_policy_loads_like_any_other(world, tmp_path):
    still = {"constraint": {"type": "none"}, "cost_critic": None}
    steps = run(tmp_path / "out", world, steps=40, **still, **LEARNING)
    assert mean(steps[-5:], "mean_reward") > 2 + mean(steps[:5], "mean_reward")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    facts = read_manifest(tmp_path / "out", ("policy",)).facts
    assert (facts["steps"], facts["kept"], facts["lambda"]) == (40, "last", 0.0)


def test_lambda_rises_above_the_limit_and_falls_below_it(world, tmp_path):
    for limit, moves in ((-1.0, 1), (1.0, -1)):  # the cost is 0
        dual = {"type": "log", "start": 1.0, "lr": 0.1}
        steps = run(tmp_path / str(limit), world, constraint=mean_cost(limit), dual=dual)
        # first step by hand: ln λ = ln 1 + 0.1·1·(0 − limit) = ∓0.1
        assert steps[0]["lambda"] == pytest.approx(math.exp(0.1 * moves))
        lams = [1.0, *(step["lambda"] for step in steps)]
        assert all((after - before) * moves > 0 for before, after in pairwise(lams))


def test_the_mean_cost_ends_near_the_limit_when_reward_and_cost_want_the_opposite(world, tmp_path):
    # The same word brings reward and cost; six of them fit.
    conflict = {"reward": function("sweet_tooth"), "cost": function("count_sweet"), **LEARNING, "kl_coef": 0.02}
    dual = {"type": "log", "start": 0.5, "lr": 0.05, "floor": 0.05}
    runs = {
        name: run(tmp_path / name, world, steps=count, constraint=mean_cost(limit), dual=dual, **conflict)
        for name, count, limit in (("bound", 100, 2.0), ("tightened", 40, 0.5), ("loosened", 40, 5.5))
    }
    assert mean(runs["bound"][-60:], "mean_cost") == pytest.approx(2.0, abs=0.5)
    assert mean(runs["tightened"][-20:], "lambda") > 0.8 > 0.5 > mean(runs["loosened"][-20:], "lambda")
    assert mean(runs["tightened"][-20:], "mean_cost") < 1.5
    assert mean(runs["loosened"][-20:], "mean_cost") > 4


def test_the_limit_counts_from_the_mean_cost_of_the_answers_labelled_safe(world, tmp_path):
    answers = {"sweet no": True, "sweet sweet yes": True, "sweet sweet sweet": False, "no": True}  # 1, 2, –, 0
    labels = [{"prompt": prompt("ask one"), "response": text, "is_safe": safe} for text, safe in answers.items()]
    labelled = [{"path": str(write_lines(tmp_path / "labels.jsonl", labels))}]
    sweet = {"cost": function("count_sweet"), "limit_from": labelled, "constraint": mean_cost(-0.5)}
    steps = run(tmp_path / "out", world, steps=2, **sweet)
    assert [step["cost_limit"] for step in steps] == [0.5, 0.5]  # (1 + 2 + 0)/3 − 0.5
    first = 0.1 * (steps[0]["mean_cost"] - 0.5)  # ln λ = ln 1 + 0.1·1·(Ĵ_C − 0.5)
    assert steps[0]["lambda"] == pytest.approx(math.exp(first))
    assert read_manifest(tmp_path / "out", ("policy",)).facts["cost_limit"] == 0.5


def test_labels_without_a_safe_answer_give_no_limit(world, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_lag, "load_roles", lambda *_: pytest.fail("a model was loaded"))
    labels = [{"prompt": prompt("ask one"), "response": "no", "is_safe": False}]
    labelled = [{"path": str(write_lines(tmp_path / "labels.jsonl", labels))}]
    with pytest.raises(DataError, match="No answer is labelled safe") as caught:
        run(tmp_path / "out", world, limit_from=labelled)
    assert caught.value.where == labelled[0]["path"]


def test_lambda_moves_once_per_rollout_batch_whatever_the_micro_batch(world, tmp_path):
    lams = [
        [
            step["lambda"]
            for step in run(tmp_path / str(micro), world, constraint=mean_cost(-1.0), micro_batch=micro)
        ]
        for micro in (None, 3, 1)
    ]
    assert lams[0] == lams[1] == lams[2]


def test_micro_batches_and_their_padding_do_not_change_the_update(world, tmp_path):
    ptx = [{"path": str(world / "demonstrations.jsonl")}]
    whole, *cut = (
        policy_after(tmp_path / str(limit), world, steps=1, ptx=ptx, actor_optimizer=QUICK, **limit)
        for limit in ({}, {"micro_batch": 3}, {"micro_tokens": 30})
    )
    for name, tensor in whole.items():
        for parts in cut:
            assert torch.allclose(tensor, parts[name], atol=1e-5), name


def test_layers_that_are_computed_again_do_not_change_the_run(world, tmp_path):
    settings = {"steps": 2, "update_iters": 2, "ptx": [{"path": str(world / "demonstrations.jsonl")}]}
    sparing = {**CPU, "gradient_checkpointing": True}
    plain = policy_after(tmp_path / "plain", world, actor_optimizer=QUICK, **settings)
    again = policy_after(tmp_path / "again", world, actor_optimizer=QUICK, hardware=sparing, **settings)
    for name, tensor in plain.items():
        assert torch.allclose(tensor, again[name], atol=1e-6), name


def test_a_forward_pass_has_one_limit(world, tmp_path):
    with pytest.raises(ConfigError, match="micro_batch and micro_tokens"):
        run(tmp_path / "out", world, micro_batch=3, micro_tokens=30)


def test_the_window_averages_over_the_last_responses(world, tmp_path):
    # costs are 0; λ follows only the limit, so a window of 24 and a batch of 8 must fill up without a jump
    dual = {"type": "log", "window": 24}
    assert run(tmp_path / "out", world, dual=dual)[-1]["lambda"] == pytest.approx(1.0)


def test_ptx_pulls_the_policy_towards_the_demonstrations(world, tmp_path):
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    quiet = {"reward": function("zero"), "kl_coef": 0.0, "actor_optimizer": QUICK}
    steps = run(tmp_path / "out", world, steps=30, ptx=shown, ptx_coef=4.0, ptx_batch_size=5, **quiet)
    assert steps[-1]["ptx_loss"] < 0.6 * steps[0]["ptx_loss"]
    assert "ptx_loss" not in run(tmp_path / "without", world, steps=1, **quiet)[0]


def test_the_gradient_of_the_ptx_term_adds_to_the_actor_s(world, tmp_path, monkeypatch):
    gradients: list[torch.Tensor] = []
    real = ppo_lag.apply_gradients

    def look(network, *given):
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        return real(network, *given)

    monkeypatch.setattr(ppo_lag, "apply_gradients", look)
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    for coef in (0.0, 1.0, 3.0):
        run(tmp_path / str(coef), world, steps=1, ptx=shown, ptx_coef=coef)
    without, once, thrice = gradients[::3]  # of the actor; the critics come after it
    assert (once - without).norm() > 0.1
    assert torch.allclose(thrice - without, 3 * (once - without), atol=1e-4)
    for critic in (1, 2):
        assert torch.equal(gradients[critic], gradients[critic + 3])


def test_bfloat16_learns_as_float32_does(world, tmp_path):
    still = {"constraint": {"type": "none"}, "cost_critic": None}
    settings = LEARNING | still | {"steps": 30, "hardware": CPU | {"precision": "bfloat16"}}
    steps = run(tmp_path / "out", world, **settings)
    assert mean(steps[-5:], "mean_reward") > 2 + mean(steps[:5], "mean_reward")
    assert load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16


def test_a_response_that_never_ends_pays_and_is_counted(world, tmp_path):
    # without an end token within 1 token nearly nothing is finished; reward is 0 for everybody
    settings = {"steps": 1, "reward": function("zero"), "sampling": {"max_new_tokens": 1}, "batch_size": 40}
    [step] = run(tmp_path / "out", world, unfinished_penalty=3.0, **settings)
    assert 0.8 < step["unfinished_share"] <= 1
    assert step["mean_reward"] == pytest.approx(-3.0 * step["unfinished_share"])


def test_the_best_feasible_policy_is_kept(world, tmp_path):
    # The held-out cost of saying "sweet" grows with training, past the limit: a step before that must be kept.
    held_out = {"prompts": [{"path": str(world / "validation.jsonl")}], "every": 2, "limit": 8}
    still = {"type": "projected", "start": 0.0, "lr": 1e-9}
    slow = LEARNING | {"actor_optimizer": QUICK | {"lr": 3e-3}}
    settings = {"reward": function("count_sweet"), "cost": function("sweet_above_two"), "dual": still, **slow}
    steps = run(tmp_path / "out", world, steps=20, validation=held_out, **settings)
    found = {s["step"]: s for s in steps if "validation_mean_cost" in s}
    assert list(found) == list(range(2, 21, 2))
    assert found[20]["validation_mean_cost"] > 0
    feasible = [step for step, s in found.items() if s["validation_mean_cost"] <= 0]
    best = max(feasible, key=lambda step: found[step]["validation_mean_reward"])
    facts = read_manifest(tmp_path / "out").facts
    assert (facts["kept"], facts["feasible"], facts["best_step"]) == (f"step {best}", True, best)
    # the kept weights are those of that step: a run of just so many steps ends with them
    run(tmp_path / "short", world, steps=best, **settings)
    kept, short = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "short"))
    assert all(torch.equal(kept[name], short[name]) for name in kept)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_where_nothing_is_feasible_the_last_policy_is_kept_and_said_to_be_none(world, tmp_path):
    held_out = {"prompts": [{"path": str(world / "validation.jsonl")}], "limit": 8}
    run(tmp_path / "out", world, steps=1, validation=held_out, constraint=mean_cost(-1.0))
    facts = read_manifest(tmp_path / "out").facts
    assert (facts["kept"], facts["feasible"]) == ("last", False)


def test_a_tokenizer_that_pads_with_its_end_token_keeps_its_ends(world, tmp_path):
    for kind in ("reward", "cost"):
        make_scorer(tmp_path / kind, world / "gpt2", kind)
    steps = run(
        tmp_path / "out", world, actor=world / "gpt2", reward_critic=tmp_path / "reward",
        cost_critic=tmp_path / "cost", steps=2, batch_size=40, sampling={"max_new_tokens": 16},
        ptx=[{"path": str(world / "demonstrations.jsonl")}],
    )  # fmt: skip
    assert all(math.isfinite(value) for step in steps for value in step.values())
    assert 0 < steps[0]["unfinished_share"] < 0.9
    assert steps[0]["approx_kl"] < 1e-6


def test_a_score_that_is_no_number_stops_the_run_and_names_the_response(world, tmp_path):
    with pytest.raises(EvaluationError, match=r"score of response 3 is nan(.|\n)*not_a_number(.|\n)*response is"):
        run(tmp_path / "out", world, reward=function("not_a_number"))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_reward_too_large_for_a_tensor_stops_and_names_the_batch(world, tmp_path):
    with pytest.raises(TrainingError, match=r"The sum of rewards is inf(.|\n)*step 0, rows [0-9a-f]{16}, "):
        run(tmp_path / "out", world, reward=function("too_large"))


def test_temperature_0_is_refused(world, tmp_path):
    with pytest.raises(ConfigError, match=r"temperature 0 leaves nothing to learn from"):
        ppo(tmp_path / "out", world, sampling={"temperature": 0.0})


def test_a_function_without_a_critic_is_refused(world, tmp_path):
    with pytest.raises(ConfigError, match=r"say which scorer the critic starts from in cost_critic"):
        ppo(tmp_path / "out", world, cost_critic=None)


def test_reward_and_cost_models_in_each_other_s_place_are_refused(world, tmp_path):
    swapped = {"type": "model", "path": world / "reward"}
    with pytest.raises(ConfigError, match=r"The cost is to come from a reward model(.|\n)*score_head.json"):
        run(tmp_path / "out", world, cost=swapped)


@pytest.mark.parametrize("role", ["ref", "cost_critic"])
def test_another_tokenizer_than_the_actor_s_is_refused(world, tmp_path, role):
    folder = world / "gpt2" if role == "ref" else make_scorer(tmp_path / "cost", world / "gpt2", "cost")
    with pytest.raises(ConfigError, match=r"reads other tokens than the actor writes"):
        run(tmp_path / "out", world, **{role: folder})


def test_what_does_not_fit_is_refused_before_the_first_step(world, tmp_path):
    long = write_lines(tmp_path / "long.jsonl", [prompt("ask " * 14), prompt("ask")])
    prompts = [{"path": str(long)}]
    with pytest.raises(DataError, match=r"1 of 2 prompts are longer than 12 tokens"):
        run(tmp_path / "refused", world, prompts=prompts)
    assert run(tmp_path / "dropped", world, prompts=prompts, too_long="drop", steps=1)
    with pytest.raises(ModelError, match=r"do not fit the model's context of 32"):
        run(tmp_path / "out", world, sampling={"max_new_tokens": 40})
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_bounds_of_lambda_out_of_order_are_refused(world, tmp_path):
    with pytest.raises(ConfigError, match="floor ≤ start ≤ ceiling"):
        ppo(tmp_path / "out", world, dual={"type": "log", "start": 9.0})
