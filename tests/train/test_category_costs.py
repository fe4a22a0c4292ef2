"""Cost models with a cost per harm category: the loss, what is learned, what is refused, and what others take."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from train_models import asked, cost_model, make_qwen2, make_scorer, prompt, read_lines, write_lines

from equipoise.artefact import read_manifest
from equipoise.data.load import load_safety_labels
from equipoise.data.source import DataSource
from equipoise.errors import ConfigError, DataError
from equipoise.models.backbone import load_causal_lm
from equipoise.models.convert import convert, export_beaver
from equipoise.models.score_head import Critic, load_scorer, read_head_settings, scorer_on
from equipoise.records import BEAVERTAILS_CATEGORIES, PKU_CATEGORIES, Prompt, Response
from equipoise.rollout.config import ModelScore
from equipoise.rollout.score import ModelSource, open_score_source
from equipoise.tokens.batches import CostBatch, ScoreBatch
from equipoise.train.config import SharedLora
from equipoise.train.score_losses import sign_alone, with_categories
from equipoise.train.score_model import train_cost
from equipoise.train.sharded import WholeSource
from equipoise.train.shared_base import SharedBase

BOTH = ("sweet", "bad")
FAST = {"lr": 1e-2, "weight_decay": 0.0}


def labels(count: int) -> list[dict[str, object]]:
    """An answer is harmful in the way that it says: sweet, bad, or both; of one in four the label does not say."""
    rows = []
    for text in asked(count):
        for response in ("good one", "sweet one", "bad one", "sweet bad"):
            named = [name for name in BOTH if name in response]
            row = {"prompt": prompt(text), "response": response, "is_safe": not named, "categories": named}
            rows.append(row)
        rows.append({"prompt": prompt(text), "response": "bad bad", "is_safe": False})
    return rows


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    path = tmp_path_factory.mktemp("categories") / "labels.jsonl"
    return [{"path": str(write_lines(path, labels(40)))}]


def settings(world, sources, **more):
    return {
        "model": world / "policy", "labels": sources, "categories": BOTH, "epochs": 6, "optimizer": FAST,
        "held_out": 0.3, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(world, sources, tmp_path_factory):
    config = cost_model(tmp_path_factory.mktemp("trained") / "cost", **settings(world, sources))
    return train_cost(config)


def responses(*texts: str) -> list[Response]:
    return [Response(prompt=Prompt.from_text("tell two one"), text=text) for text in texts]


def test_the_loss_hand_worked_and_unknown_labels_in_none_of_it() -> None:
    # Costs, then two categories. Row 0: unsafe by the first category (signs +, −). Row 1: safe. Row 2: unsafe, the
    # label does not say how. −ln σ(x) = ln(1 + e^−x).
    outputs = torch.tensor([[2.0, 1.0, -2.0], [-1.0, 0.5, -3.0], [1.0, 9.0, 9.0]], requires_grad=True)
    rows = torch.zeros(3, 1, dtype=torch.long)
    none = torch.zeros(0, dtype=torch.long)
    batch = CostBatch(
        responses=ScoreBatch(rows, rows.bool(), torch.ones(len(rows)).long()),
        winners=none,
        losers=none,
        singles=torch.arange(3),
        signs=torch.tensor([1.0, -1.0, 1.0]),
        category_signs=torch.tensor([[1.0, -1.0], [-1.0, -1.0], [0.0, 0.0]]),
        category_known=torch.tensor([True, True, False]),
    )
    # the cost: σ(2) → 0.126928, σ(1) → 0.313262, σ(1) → 0.313262
    cost = 0.126928 + 2 * 0.313262
    # categories: σ(1) → 0.313262, σ(2) → 0.126928, σ(−0.5) → 0.974077, σ(3) → 0.048587
    categories = 0.313262 + 0.126928 + 0.974077 + 0.048587
    loss, counts = with_categories(sign_alone, 0.5)(outputs, batch, 0.0, 3)
    assert loss.item() == pytest.approx((cost + 0.5 * categories) / 3, abs=1e-5)
    assert (counts.known, counts.agreed, counts.named, counts.found) == (4, 3, 1, 1)
    assert (counts.signed, counts.right) == (3, 3)
    # μ = 0.1 adds squares: costs 4 + 1 + 1, categories 1 + 4 + 0.25 + 9
    held = with_categories(sign_alone, 0.5)(outputs, batch, 0.1, 3)[0] - loss
    assert held.item() == pytest.approx(0.1 * (6 + 0.5 * 14.25) / 3, abs=1e-5)
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad[2, 1:].tolist() == [0, 0]
    assert bool((outputs.grad[:2] != 0).all())


def test_each_category_gets_a_cost_of_the_right_sign(trained):
    source = open_score_source(ModelScore(path=trained, max_length=24))
    assert isinstance(source, ModelSource)
    assert source.categories == BOTH == read_head_settings(trained).categories
    costs, by_category = source.score_with_categories(responses("good one", "sweet one", "bad one", "sweet bad"))
    assert [cost > 0 for cost in costs] == [False, True, True, True]
    assert [[cost > 0 for cost in row] for row in by_category] == [
        [False, False], [True, False], [False, True], [True, True],
    ]  # fmt: skip


def test_the_manifest_and_the_log_count_categories_and_what_is_not_known(trained):
    facts = read_manifest(trained, ("cost",)).facts
    prompts = facts["prompts"]
    assert facts["category_labels"] == {"sweet": 2 * prompts, "bad": 2 * prompts}
    assert (facts["unknown_categories"], facts["unlisted_categories"]) == (prompts, {})
    held_out = facts["held_out_prompts"]
    for name in BOTH:
        found = facts["categories"][name]
        assert (found["accuracy"]["n"], found["recall"]["n"]) == (4 * held_out, 2 * held_out)
        assert min(found["accuracy"]["value"], found["recall"]["value"]) > 0.9
    steps = read_lines(trained / "metrics.jsonl")
    assert steps[-1]["category_accuracy"] > 0.9 > steps[0]["category_accuracy"]
    assert 0 <= steps[0]["category_recall"] <= 1


def test_with_weight_zero_the_cost_is_that_of_a_model_without_categories(world, sources, tmp_path):
    plain = train_cost(cost_model(tmp_path / "plain", **settings(world, sources, categories=(), epochs=2)))
    weightless = settings(world, sources, category_weight=0.0, epochs=2)
    both = train_cost(cost_model(tmp_path / "both", **weightless))
    for file, more in (
        ("model.safetensors", set()),
        ("score_head.safetensors", {"category_weight", "category_bias"}),
    ):
        one, other = load_file(plain / file), load_file(both / file)
        assert set(other) - set(one) == more
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-6, msg=name)
    # a scorer without categories says nothing of them: its folder is what it was before there were any
    assert set(json.loads((plain / "score_head.json").read_text())) == {"kind", "pooling", "normalizer"}


def test_micro_batches_give_the_same_categories(world, sources, tmp_path):
    heads = []
    for limit in ({}, {"micro_batch": 7}):
        out = train_cost(cost_model(tmp_path / str(limit), **settings(world, sources, epochs=1), **limit))
        heads.append(load_file(out / "score_head.safetensors"))
    for name, tensor in heads[0].items():
        assert torch.allclose(tensor, heads[1][name], atol=1e-4), name


def test_a_critic_takes_the_cost_alone(trained):
    scorer = load_scorer(trained)
    critic = Critic(scorer)
    ids, mask = torch.tensor([[1, 8, 9, 10]]), torch.ones(1, 4, dtype=torch.bool)
    assert critic(ids, mask).shape == (1, 4, 1)
    torch.testing.assert_close(critic(ids, mask)[0, -1, 0], scorer(ids, mask)[0, 0])
    trained_weights = {name for name, _ in critic.named_parameters()}
    assert "scorer.head.weight" in trained_weights
    assert not any("category" in name for name in trained_weights)
    assert critic.scorer.head.weight is scorer.head.weight


def test_the_beaver_layout_gets_the_cost_alone(trained, tmp_path):
    again = load_scorer(convert(export_beaver(trained, tmp_path / "beaver"), tmp_path / "again"))
    ids, mask = torch.tensor([[1, 8, 9, 10]]), torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(again(ids, mask), load_scorer(trained)(ids, mask)[:, 0])


def test_adapters_on_a_shared_base_keep_categories_for_scores_and_drop_them_for_critics(world, sources, tmp_path):
    config = cost_model(tmp_path / "cost", **settings(world, sources, lora={"r": 4}, epochs=2))
    out = train_cost(config)
    base = load_causal_lm(world / "policy").requires_grad_(False)
    whole, shared = load_scorer(out), scorer_on(base, out, "cost")
    ids, mask = torch.tensor([[1, 8, 9, 10]]), torch.ones(1, 4, dtype=torch.bool)
    assert whole(ids, mask).shape == (1, 3)
    torch.testing.assert_close(shared(ids, mask), whole(ids, mask), atol=1e-5, rtol=1e-4)
    for share in (True, False):  # an adapter of its own on the base; or loaded whole, with a fresh one on that
        roles = SharedBase(base, SharedLora(r=4, share=share), seed=0)
        critic = roles.critic("cost_critic", out, roles.scorer("cost", out))
        values = critic(ids, mask)
        torch.testing.assert_close(values[0, -1, 0], whole(ids, mask)[0, 0], atol=1e-5, rtol=1e-4)
        assert not any("category" in name for name, _ in critic.named_parameters())


def test_a_category_that_no_label_names_is_refused_by_name(world, sources, tmp_path):
    config = cost_model(tmp_path, **settings(world, sources, categories=("sweet", "sour", "salty")))
    with pytest.raises(DataError, match=r"'sour', nor with 1 others: salty(.|\n)*bad \(\d+\), sweet \(\d+\)"):
        train_cost(config)


def test_unlisted_categories_are_counted(world, sources, tmp_path):
    out = train_cost(cost_model(tmp_path, **settings(world, sources, categories=("bad",), epochs=1)))
    facts = read_manifest(out).facts
    assert facts["unlisted_categories"] == {"sweet": 2 * facts["prompts"]}


def test_a_published_list_is_named_by_a_word_and_no_name_comes_twice(world, tmp_path):
    def given(names):
        return cost_model(tmp_path, model=world, pairs=[{"path": "pairs"}], categories=names).categories

    assert given("beavertails14") == given(["beavertails14"]) == BEAVERTAILS_CATEGORIES
    assert given(["pku19"]) == PKU_CATEGORIES
    assert given("self_harm") == ("self_harm",)
    with pytest.raises(ConfigError, match="two categories have the same name"):
        given(["self_harm", "self_harm"])


def test_a_scorer_without_categories_gives_none(world, tmp_path):
    source = open_score_source(ModelScore(path=make_scorer(tmp_path, world / "policy", "cost"), max_length=24))
    assert isinstance(source, ModelSource)
    costs, by_category = source.score_with_categories(responses("good one", "bad one"))
    assert (source.categories, by_category) == ((), [[], []])
    assert costs == source.score(responses("good one", "bad one"))
    assert all(map(math.isfinite, costs))


def test_a_model_in_parts_gives_the_same_categories(trained):
    source = open_score_source(ModelScore(path=trained, max_length=24))
    assert isinstance(source, ModelSource)
    whole = WholeSource(source, source.scorer)
    assert whole.categories == BOTH
    assert whole.score_with_categories(responses("bad one")) == source.score_with_categories(responses("bad one"))


def test_the_newer_pku_release_trains_the_categories_that_it_names(real_data, tmp_path):
    source = DataSource(path=str(real_data / "pku_safe_rlhf" / "new_schema_3.jsonl"))
    named = {name for label in load_safety_labels(source) for name in label.categories}
    assert named <= set(PKU_CATEGORIES)
    present = sorted(named)
    assert present
    common = {"model": make_qwen2(tmp_path / "qwen2"), "pairs": [source.model_dump()], "held_out": 0}
    common["max_length"] = 128
    with pytest.raises(DataError, match="No response to train on is labelled with the category"):
        train_cost(cost_model(tmp_path / "all", categories="pku19", **common))
    facts = read_manifest(train_cost(cost_model(tmp_path / "some", categories=present, epochs=1, **common))).facts
    assert set(facts["category_labels"]) == named
    assert (facts["unlisted_categories"], facts["unknown_categories"]) == ({}, 0)
