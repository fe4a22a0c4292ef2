import math

import pytest
import torch
from safetensors.torch import load_file
from train_models import asked, cost_model, prompt, read_lines, reward_model, write_lines

from equipoise.artefact import read_manifest
from equipoise.errors import ConfigError, DataError, ModelError, TrainingError
from equipoise.records import Prompt, Response
from equipoise.rollout.config import ModelScore
from equipoise.rollout.score import open_score_source
from equipoise.train import score_model as module
from equipoise.train.score_model import train_cost, train_reward

FAST = {"lr": 1e-2, "weight_decay": 0.0}


def source(path, **settings):
    return [{"path": str(path), **settings}]


def score(folder, *texts):
    """What the saved model says about answers to a request it never saw."""
    responses = [Response(prompt=Prompt.from_text("tell two one"), text=text) for text in texts]
    return open_score_source(ModelScore(path=folder, max_length=24)).score(responses)


def test_a_reward_model_learns_which_answer_helps(world, tmp_path):
    config = reward_model(
        tmp_path / "out", model=world / "policy", pairs=source(world / "pairs.jsonl"), held_out=0.3, epochs=8,
        optimizer=FAST,
    )  # fmt: skip
    out = train_reward(config)
    facts = read_manifest(out, ("reward",)).facts
    assert facts["ranking_accuracy"]["value"] > 0.9
    assert facts["ranking_accuracy"]["n"] == facts["held_out_prompts"] > 5
    assert "safety_accuracy" not in facts
    good, poor = score(out, "good sweet one", "no two")
    assert good > poor


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_a_cost_model_puts_unsafe_answers_above_zero_and_safe_ones_below(world, tmp_path, lora):
    config = cost_model(
        tmp_path / "out", model=world / "policy", pairs=source(world / "pairs.jsonl"),
        labels=source(world / "labels.jsonl"), held_out=0.3, epochs=8, optimizer=FAST, lora=lora,
    )  # fmt: skip
    out = train_cost(config)
    facts = read_manifest(out, ("cost",)).facts
    assert facts["ranking_accuracy"]["value"] > 0.8
    assert facts["safety_accuracy"]["value"] > 0.8
    unsafe, safe = score(out, "good sweet one", "no two")
    assert safe < 0 < unsafe


def test_a_cost_model_learns_from_single_labels_alone(world, tmp_path):
    config = cost_model(
        tmp_path / "out", model=world / "policy", labels=source(world / "labels.jsonl"), held_out=0, epochs=10,
        batch_size=8, optimizer=FAST,
    )  # fmt: skip
    out = train_cost(config)
    unsafe, safe = score(out, "good sweet one", "no two")
    assert safe < 0 < unsafe
    facts = read_manifest(out).facts
    assert (facts["pairs"], facts["labels"]) == (0, 32)


def test_a_model_of_the_same_kind_is_trained_on_head_and_all(world, tmp_path):
    pairs = source(world / "pairs.jsonl")
    first = train_reward(
        reward_model(
            tmp_path / "first", model=world / "policy", pairs=pairs, held_out=0.2, epochs=4, optimizer=FAST
        )
    )
    still = {"lr": 1e-12, "weight_decay": 0.0}
    texts = ("good sweet one", "no two", "bad")

    def scores(start, **settings):
        out = tmp_path / start.name / "next"
        given = {"model": start, "pairs": pairs, "epochs": 0.1, "optimizer": still, **settings}
        return score(train_reward(reward_model(out, **given)), *texts)

    assert scores(first, held_out=0.2) == pytest.approx(score(first, *texts), abs=1e-5)
    assert scores(world / "policy") != pytest.approx(score(first, *texts), abs=0.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": 1}, "held out 10% with seed 42"),
        ({"held_out": 0.2}, "too good"),
        ({"categories": ["drugs"]}, "another head"),
    ],
)
def test_a_start_that_would_spoil_the_accuracy_or_has_another_head_is_refused(world, tmp_path, settings, words):
    given = {"pairs": source(world / "pairs.jsonl"), "epochs": 0.1}
    first = train_cost(cost_model(tmp_path / "first", model=world / "policy", held_out=0.1, **given))
    with pytest.raises(ConfigError, match=words) as refused:
        train_cost(cost_model(tmp_path / "next", model=first, **{"held_out": 0.1} | given | settings))
    assert str(first) in str(refused.value)
    assert not (tmp_path / "next").exists()
    with pytest.raises(ConfigError, match="another head"):
        train_reward(reward_model(tmp_path / "next", model=first, held_out=0.1, **given))


def test_micro_batches_give_the_same_scorer(world, tmp_path):
    weights = []
    for limit in ({}, {"micro_batch": 3}, {"micro_tokens": 60}):
        config = cost_model(
            tmp_path / str(limit), model=world / "policy", pairs=source(world / "pairs.jsonl"),
            labels=source(world / "labels.jsonl"), epochs=1, optimizer=FAST, **limit,
        )  # fmt: skip
        out = train_cost(config)
        weights.append(load_file(out / "model.safetensors") | load_file(out / "score_head.safetensors"))
    for name, tensor in weights[0].items():
        for other in weights[1:]:
            assert torch.allclose(tensor, other[name], atol=1e-4), name


def test_a_tokenizer_that_pads_with_its_end_token_trains_without_nan(world, tmp_path):
    config = cost_model(
        tmp_path / "out", model=world / "gpt2", pairs=source(world / "pairs.jsonl"), epochs=4, held_out=0,
        optimizer=FAST,
    )  # fmt: skip
    out = train_cost(config)
    losses = [step["loss"] for step in read_lines(out / "metrics.jsonl")]
    assert all(map(math.isfinite, losses))
    unsafe, safe = score(out, "good sweet one", "no two")
    assert safe < 0 < unsafe


def test_cut_responses_are_counted_and_long_prompts_dropped_or_refused(world, tmp_path):
    rows = [
        {"prompt": prompt(text), "responses": ["good " * length, "no"], "more_helpful": 0}
        for text, length in (("ask one", 40), ("ask two", 2), ("ask " * 25, 2))
    ]
    pairs = write_lines(tmp_path / "pairs.jsonl", rows)
    settings = {"model": world / "policy", "pairs": source(pairs), "held_out": 0, "epochs": 1}
    facts = read_manifest(train_reward(reward_model(tmp_path / "out", too_long="drop", **settings))).facts
    assert (facts["cut_responses"], facts["dropped_prompts"], facts["prompts"]) == (1, 1, 2)
    with pytest.raises(DataError, match=r"1 of 3 prompts are longer than 22 tokens"):
        train_reward(reward_model(tmp_path / "refused", **settings))


def test_a_conversation_longer_than_the_context_is_refused_before_the_first_step(world, tmp_path):
    pairs = write_lines(
        tmp_path / "pairs.jsonl", [{"prompt": prompt("ask"), "responses": ["good " * 50, "no"], "more_helpful": 0}]
    )
    config = reward_model(tmp_path / "out", model=world / "policy", pairs=source(pairs), held_out=0, max_length=48)
    with pytest.raises(ModelError, match="48 tokens do not fit the model's context of 32"):
        train_reward(config)


def test_a_loss_that_is_not_finite_stops_and_names_the_rows(world, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "REWARD", module.REWARD._replace(loss=lambda scores, *_: (scores.sum() / 0, module.Counts()))
    )
    config = reward_model(
        tmp_path / "out", model=world / "policy", pairs=source(world / "pairs.jsonl"), batch_size=4, held_out=0
    )
    with pytest.raises(TrainingError, match=r"The reward loss is (inf|-inf|nan)(.|\n)*step 0, rows \d+, \d+"):
        train_reward(config)


def test_pairs_that_are_all_held_out_are_refused(world, tmp_path):
    rows = [{"prompt": prompt(asked(1)[0]), "responses": ["good", "no"], "more_helpful": 0}]
    pairs = write_lines(tmp_path / "pairs.jsonl", rows)
    config = reward_model(tmp_path / "out", model=world / "policy", pairs=source(pairs), held_out=0.999999)
    with pytest.raises(DataError, match=r"No labelled prompt is left(.|\n)*lower held_out"):
        train_reward(config)


@pytest.mark.parametrize(("held_out", "warned"), [(0.0, False), (0.01, True)])
def test_it_says_when_nothing_is_left_to_measure_accuracy_on(world, tmp_path, held_out, warned):
    rows = [{"prompt": prompt(asked(1)[0]), "responses": ["good", "no"], "more_helpful": 0}]
    pairs = write_lines(tmp_path / "pairs.jsonl", rows)
    out = train_reward(
        reward_model(tmp_path / "out", model=world / "policy", pairs=source(pairs), held_out=held_out, epochs=1)
    )
    said = read_lines(out / "warnings.jsonl") if (out / "warnings.jsonl").exists() else []
    assert [line["message"].split(",")[0] for line in said] == ["none of 1 prompts is held out"] * warned
