"""Scores for stored responses: from any source, and from what a policy learnt from preferences."""

from pathlib import Path
from typing import Any

import pytest
import torch
from train_models import disturb, function, prompt, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from equipoise.artefact import read_manifest
from equipoise.config import validate
from equipoise.data.jsonl import read_records
from equipoise.errors import ConfigError, DataError
from equipoise.models.backbone import load_causal_lm, save_policy
from equipoise.models.score_head import HeadSettings, save_scorer, scorer_from
from equipoise.records import ScoredResponse
from equipoise.rollout.stored_config import ScoreConfig
from equipoise.tokens.template import load_tokenizer
from equipoise.train.rescore import score_stored

ROWS: list[dict[str, Any]] = [
    {"prompt": prompt("ask one two"), "text": "good sweet one", "reward": 7.0, "cost": -2.0},
    {"prompt": prompt("tell"), "text": "no", "reward": 7.0},
    {"prompt": prompt("tell one"), "text": "good good sweet", "finished": False, "reward": 7.0},
    {"prompt": prompt("ask"), "text": ""},
]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """The policy of the world, with other weights."""
    folder = tmp_path_factory.mktemp("trained") / "policy"
    model = load_causal_lm(world / "policy")
    disturb(model, 3)
    save_policy(model, load_tokenizer(world / "policy"), folder)
    return folder


def scored(out: Path, **settings: Any) -> list[ScoredResponse]:
    file = write_lines(out.with_suffix(".jsonl"), ROWS)
    tree = {"out": out, "responses": [str(file)], "device": "cpu", **settings}
    return read_records(
        score_stored(validate(ScoreConfig, tree, where="test")) / "responses.jsonl", ScoredResponse
    )


def log_prob(folder: Path, row: dict[str, Any]) -> float:
    """The log-probability of a response by plain transformers, one response at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    before = tokenizer.apply_chat_template(
        row["prompt"]["messages"], add_generation_prompt=True, return_dict=False
    )
    after = tokenizer(row["text"], add_special_tokens=False).input_ids
    after += [tokenizer.eos_token_id] if row.get("finished", True) else []
    with torch.no_grad():
        steps = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1].log_softmax(-1)
    return float(steps.gather(1, torch.tensor(after)[:, None]).sum())


def test_a_log_ratio_is_that_of_plain_transformers_and_a_cost_has_the_other_sign(
    tmp_path: Path, world: Path, other: Path
) -> None:
    source = {"type": "log_ratio", "policy": other, "ref": world / "policy", "beta": 0.5, "batch_size": 3}
    found = scored(tmp_path / "out", reward=source, cost=source)
    expected = [0.5 * (log_prob(other, row) - log_prob(world / "policy", row)) for row in ROWS]
    assert max(map(abs, expected)) > 0.01
    assert [r.reward for r in found] == pytest.approx(expected, abs=1e-5)
    assert [r.cost for r in found] == pytest.approx([-value for value in expected], abs=1e-5)


def test_a_score_that_is_not_asked_for_stays_and_what_lacks_is_counted(tmp_path: Path) -> None:
    found = scored(tmp_path / "out", cost=function("count_sweet"))
    assert [(r.reward, r.cost) for r in found] == [(7.0, 1.0), (7.0, 0.0), (7.0, 1.0), (None, 0.0)]
    facts = read_manifest(tmp_path / "out").facts
    assert facts == {"responses": 4, "without_reward": 1, "without_cost": 0}


def test_costs_by_category_are_those_of_the_source_of_the_cost(tmp_path: Path, world: Path) -> None:
    model, names = tmp_path / "cost", ("hate", "drugs")
    scorer = scorer_from(world / "policy", seed=1, categories=2)
    save_scorer(scorer, load_tokenizer(world / "policy"), model, HeadSettings("cost", categories=names))
    by_model = scored(tmp_path / "a", cost={"type": "model", "path": model})
    assert {tuple(r.category_costs or ()) for r in by_model} == {names}
    again = [str(tmp_path / "a" / "responses.jsonl")]
    by_function = scored(tmp_path / "b", responses=again, cost=function("count_sweet"))
    assert [r.category_costs for r in by_function] == [None] * 4  # and not those of the model before
    rewarded = scored(tmp_path / "c", responses=again, reward=function("count_sweet"))
    assert [r.category_costs for r in rewarded] == [r.category_costs for r in by_model]


def test_policies_with_different_tokens_are_refused(tmp_path: Path, world: Path) -> None:
    source = {"type": "log_ratio", "policy": world / "gpt2", "ref": world / "policy"}
    with pytest.raises(ConfigError, match="read different tokens"):
        scored(tmp_path / "out", reward=source)


def test_a_response_is_never_cut_for_its_log_probability(tmp_path: Path, world: Path) -> None:
    source = {"type": "log_ratio", "policy": world / "policy", "ref": world / "policy", "max_length": 9}
    with pytest.raises(DataError, match="have 10 tokens"):  # <bos> <user> 3 words <assistant> 3 words <eos>
        scored(tmp_path / "out", reward=source)


def test_scoring_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to score"):
        scored(tmp_path / "out")
