"""Direct preference training: what it learns from a pair, what it leaves out, and that the loop is exact."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_models import CPU, conversation, function, make_policy, prompt, read_lines, write_lines

from equipoise.artefact import read_manifest
from equipoise.config import validate
from equipoise.data.split import prompt_position
from equipoise.errors import ConfigError, DataError
from equipoise.models.adapters import base_at, base_of_adapter
from equipoise.models.backbone import load_causal_lm
from equipoise.records import Demonstration, PreferencePair, Prompt
from equipoise.tokens.collate import collate_sft, many_sft_examples
from equipoise.tokens.template import load_tokenizer
from equipoise.train import direct as module
from equipoise.train.direct import train_direct
from equipoise.train.direct_config import DirectConfig, Dpo, SafeDpo
from equipoise.train.direct_methods import Ranked, rank
from equipoise.train.direct_pairs import choose_pairs, collate, split, tokenize
from equipoise.train.forward import target_log_probs
from equipoise.train.processes import begin

FAST = {"lr": 1e-2, "schedule": "constant", "warmup": 0.0}
DPO = {"type": "dpo"}
SAFE = {"type": "safe_dpo", "margin": 1.0}


def direct(out: Path, world: Path, **settings: Any) -> DirectConfig:
    tree = {
        "out": out, "policy": world / "policy", "pairs": [str(world / "pairs.jsonl")], "method": DPO,
        "max_length": 24, "batch_size": 8, "optimizer": FAST, "hardware": CPU,
    }  # fmt: skip
    return validate(DirectConfig, {**tree, **settings}, where="")


def pair(**labels: Any) -> PreferencePair:
    return PreferencePair(prompt=Prompt.from_text("ask one"), responses=("yes good", "no bad"), **labels)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("more_helpful", [0, 1])
@pytest.mark.parametrize(
    ("winner_is_safe", "loser_is_safe", "won_by_labelled", "gap"),
    [(True, True, True, 0.0), (True, False, True, 1.0), (False, True, False, 1.0), (False, False, None, None)],
)
def test_safe_dpo_ranks_every_case_of_two_labels(
    more_helpful, winner_is_safe, loser_is_safe, won_by_labelled, gap
):
    is_safe = (winner_is_safe, loser_is_safe) if more_helpful == 0 else (loser_is_safe, winner_is_safe)
    found = rank(pair(more_helpful=more_helpful, is_safe=is_safe), SafeDpo(), "drop")
    if won_by_labelled is None:
        assert found == "both_unsafe"
    else:
        assert found == Ranked(more_helpful if won_by_labelled else 1 - more_helpful, gap)


def test_dpo_takes_the_preference_that_it_is_told_and_neither_label_of_the_other():
    both = pair(more_helpful=0, safer=1)
    assert rank(both, Dpo(), "drop") == Ranked(0, 0.0)
    assert rank(both, Dpo(by="harmlessness"), "drop") == Ranked(1, 0.0)
    assert rank(pair(safer=1), Dpo(), "drop") == "no_preference"
    assert rank(pair(more_helpful=1), Dpo(by="harmlessness"), "drop") == "no_preference"
    assert rank(pair(more_helpful=1, is_safe=(True, None)), SafeDpo(), "drop") == "no_safety_label"


def test_a_contradiction_follows_the_sources_policy_only_where_safety_is_asked_for():
    odd = pair(more_helpful=0, safer=0, is_safe=(False, True))
    assert rank(odd, Dpo(), "drop") == Ranked(0, 0.0)
    assert rank(odd, Dpo(by="harmlessness"), "drop") == rank(odd, SafeDpo(), "drop") == "contradiction"
    assert rank(odd, Dpo(by="harmlessness"), "trust_label") == Ranked(1, 0.0)
    assert rank(odd, SafeDpo(), "trust_label") == Ranked(1, 1.0)  # swapped: 0 is unsafe
    assert rank(odd, SafeDpo(), "trust_rank") == Ranked(0, 1.0)


def test_every_pair_is_used_or_counted(world, tmp_path):
    said = {"prompt": prompt("ask one"), "responses": ["yes good", "no bad"]}
    safe, unsafe = {"is_safe": [True, True]}, {"is_safe": [False, False]}
    rows = [
        {**said, **safe, "more_helpful": 0},
        {**said, **safe, "more_helpful": 1, "prompt": prompt("ask two")},
        {**said, **safe, "more_helpful": None},
        {**said, "more_helpful": 0},
        {**said, **unsafe, "more_helpful": 0},
        {**said, **safe, "more_helpful": 0, "responses": ["yes", "yes"]},
        {**said, **safe, "more_helpful": 0, "responses": ["yes", "no " * 30]},
        {**said, "more_helpful": 0, "safer": 0, "is_safe": [False, True]},
        {**said, "more_helpful": 0, "safer": 1, "is_safe": [False, True]},
    ]
    pairs = [str(write_lines(tmp_path / "pairs.jsonl", rows))]
    out = train_direct(direct(tmp_path / "out", world, pairs=pairs, method=SAFE, held_out=0))
    facts = read_manifest(out).facts
    reasons = ("no_preference", "no_safety_label", "both_unsafe", "same_response", "too_long", "contradiction")
    assert facts["left_out_pairs"] == dict.fromkeys(sorted(reasons), 1)
    assert (facts["pairs"], facts["swapped_pairs"], facts["prompts"]) == (3, 1, 2)
    [warning] = read_lines(out / "warnings.jsonl")
    assert "both_unsafe 1, contradiction 1" in warning["message"]


def test_a_response_in_many_pairs_is_computed_once_and_ends_with_the_end_token(world, tmp_path):
    said = [{"prompt": prompt("ask one"), "responses": sides, "more_helpful": 0}
            for sides in (["yes", "no bad"], ["yes", "two"], ["no bad", "two"])]  # fmt: skip
    config = direct(tmp_path, world, pairs=[str(write_lines(tmp_path / "pairs.jsonl", said))], held_out=0)
    tokenizer = load_tokenizer(world / "policy")
    [one] = split(tokenize(choose_pairs(config), tokenizer, config), config).train
    batch = collate(tokenizer, [module.Item(one, (0.0, 0.0, 0.0))])
    assert batch.answers.input_ids.shape[0] == 3
    assert (batch.winners.tolist(), batch.losers.tolist()) == ([0, 0, 1], [1, 2, 2])
    lengths = batch.answers.attention_mask.sum(dim=1)
    last = batch.answers.input_ids.gather(1, lengths[:, None] - 1).squeeze(1)
    assert (last == tokenizer.eos_token_id).all()
    assert batch.answers.target_mask.sum(dim=1).tolist() == [2, 3, 2]  # the words and the end


def test_the_winners_become_likelier_than_the_losers_on_prompts_never_trained_on(world, tmp_path):
    out = train_direct(direct(tmp_path / "out", world, epochs=8, held_out=0.25))
    facts, lines = read_manifest(out).facts, read_lines(out / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # π_θ = π_ref
    assert lines[0]["margin"] == pytest.approx(0.0, abs=1e-6)
    assert facts["held_out_loss"] < 0.9 * math.log(2)
    assert facts["held_out_implicit_accuracy"]["value"] > 0.9
    assert facts["held_out_winner_log_ratio"] > facts["held_out_loser_log_ratio"]
    assert facts["pairs"] + facts["held_out_pairs"] == 48


def test_what_the_manifest_says_is_what_the_saved_policy_does(world, tmp_path):
    config = direct(tmp_path / "out", world, epochs=2, held_out=0.25, beta=0.3)
    facts = read_manifest(train_direct(config)).facts
    held = [r for r in read_lines(world / "pairs.jsonl") if prompt_position(_id(r), config.seed) < 0.25]
    assert len(held) == facts["held_out_pairs"] > 4
    won, lost = (
        log_ratios(config.out, world, [(asked_of(r), r["responses"][r["more_helpful"] ^ turned]) for r in held])
        for turned in (0, 1)
    )
    assert facts["held_out_margin"] == pytest.approx(0.3 * float((won - lost).mean()), abs=1e-4)
    assert facts["held_out_winner_log_ratio"] == pytest.approx(float(won.mean()), abs=1e-4)
    assert facts["held_out_implicit_accuracy"]["value"] == pytest.approx(float((won > lost).float().mean()))


def _id(row: dict[str, Any]) -> str:
    return Prompt.model_validate(row["prompt"]).id


def test_safe_dpo_turns_away_from_the_unsafe_answer_that_dpo_prefers(world, tmp_path):
    # in this world the more helpful answer is the unsafe one: SafeDPO swaps every pair
    lead = {}
    for name, method in (("dpo", DPO), ("safe", SAFE)):
        out = train_direct(direct(tmp_path / name, world, method=method, epochs=4, held_out=0.25))
        facts = read_manifest(out).facts
        assert facts["swapped_pairs"] == (48 if name == "safe" else 0)
        lead[name] = unsafe_against_safe(out, world)
    assert lead["dpo"] > 1 and lead["safe"] < -1


def test_where_people_are_split_modpo_learns_the_other_score_and_no_more(world, tmp_path):
    # Each answer wins once, so the loss is least at β·h = w₁·Δ_other: w₁ = 0.4 and costs 2, 0 give −0.8.
    said = {"prompt": prompt("ask one"), "responses": ["good good one", "no two"]}
    pairs = [str(write_lines(tmp_path / "pairs.jsonl", [{**said, "more_helpful": side} for side in (0, 1)]))]
    method = {"type": "modpo", "weight": 0.6, "other": function("count_good")}
    out = train_direct(direct(tmp_path / "out", world, pairs=pairs, method=method, epochs=60, held_out=0))
    good, no = log_ratios(out, world, [("ask one", text) for text in said["responses"]]).tolist()
    assert 0.1 * (good - no) == pytest.approx(-0.8, abs=0.05)


def unsafe_against_safe(out: Path, world: Path) -> float:
    """Mean ln(π/π_ref) of the unsafe answers of the world's pairs less that of the safe ones."""
    rows = read_lines(world / "pairs.jsonl")
    safe, unsafe = (
        log_ratios(out, world, [(asked_of(row), row["responses"][row["safer"] ^ turned]) for row in rows])
        for turned in (0, 1)
    )
    return float((unsafe - safe).mean())


def asked_of(row: dict[str, Any]) -> str:
    return row["prompt"]["messages"][0]["content"]


def log_ratios(out: Path, world: Path, said: list[tuple[str, str]]) -> torch.Tensor:
    """ln(π/π_ref) of answers, as SFT reads them."""
    tokenizer = load_tokenizer(out)
    shown = [Demonstration.model_validate(conversation(asked, answer)) for asked, answer in said]
    batch = collate_sft(tokenizer, many_sft_examples(tokenizer, shown, 32))
    with torch.no_grad():
        mine, base = (target_log_probs(load_causal_lm(path), batch).sum(dim=1) for path in (out, world / "policy"))
    return mine - base


def test_scores_of_the_other_objective_are_taken_of_winner_less_loser_and_costs_turned(world, tmp_path):
    config = direct(tmp_path, world, method={"type": "modpo", "other": function("count_good")})
    rewards = direct(
        tmp_path, world, method={"type": "modpo", "by": "harmlessness", "other": function("count_good")}
    )
    tokenizer = load_tokenizer(world / "policy")
    for settings, sign in ((config, -1), (rewards, 1)):
        groups = tokenize(choose_pairs(settings), tokenizer, settings)
        for one in module.score_other(groups, settings, begin(settings), None):
            counts = [text.split().count("good") for text in one.group.texts]
            for won in one.group.pairs:
                assert won.gap == sign * (counts[won.winner] - counts[won.loser])


def test_micro_batches_give_the_same_policy(world, tmp_path):
    found = []
    for limit in ({}, {"micro_batch": 3}, {"micro_batch": 1}, {"micro_tokens": 40}):
        out = train_direct(direct(tmp_path / str(limit), world, method=SAFE, epochs=2, **limit))
        found.append(weights(out))
    for name, tensor in found[0].items():
        for other in found[1:]:
            assert torch.allclose(tensor, other[name], atol=1e-4), name


def test_a_resumed_run_is_the_unbroken_one(world, tmp_path, monkeypatch):
    settings = {"epochs": 2, "checkpoint_every": 3, "micro_batch": 3, "lora": {"r": 4}}
    whole = train_direct(direct(tmp_path / "whole", world, **settings))
    keep = module.apply_gradients
    calls = iter(range(100))

    def fail_once(*given: Any) -> torch.Tensor:
        if next(calls) == 5:
            raise RuntimeError("the power went off")
        return keep(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "apply_gradients", fail_once)
        with pytest.raises(RuntimeError, match="power"):
            train_direct(direct(tmp_path / "broken", world, **settings))
    again = train_direct(direct(tmp_path / "broken", world, **settings))
    for name in ("metrics.jsonl", "warnings.jsonl", "model.safetensors"):
        if (whole / name).exists():
            assert (whole / name).read_bytes() == (again / name).read_bytes(), name
    assert read_manifest(whole).facts == read_manifest(again).facts


def test_an_adapter_starts_at_its_base_and_is_merged(world, tmp_path):
    out = train_direct(direct(tmp_path / "out", world, lora={"r": 4}, epochs=4))
    lines = read_lines(out / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert base_of_adapter(out) == base_at(world / "policy")


def test_dropout_of_a_model_is_off_so_that_it_begins_at_its_reference(world, tmp_path):
    out = train_direct(direct(tmp_path / "out", world, policy=world / "gpt2", epochs=1))
    assert read_lines(out / "metrics.jsonl")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_a_second_step_pulls_towards_the_reference_that_it_is_given(world, tmp_path):
    # SACPO: DPO by helpfulness, then DPO by harmlessness from there and against that
    first = train_direct(direct(tmp_path / "first", world, epochs=4))
    harmless = {"method": {"type": "dpo", "by": "harmlessness"}, "epochs": 2, "policy": first}
    second = train_direct(direct(tmp_path / "second", world, **harmless))
    given = train_direct(direct(tmp_path / "given", world, ref=first, **harmless))
    far = train_direct(direct(tmp_path / "far", world, ref=world / "policy", **harmless))
    starts = [read_lines(out / "metrics.jsonl")[0] for out in (second, given, far)]
    assert starts[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert weights(second).keys() == weights(given).keys()
    assert all(torch.equal(tensor, weights(given)[name]) for name, tensor in weights(second).items())
    assert starts[2]["margin"] < -0.1  # against the first policy it begins on the wrong side
    assert unsafe_against_safe(second, world) < unsafe_against_safe(first, world)


def test_what_cannot_work_is_refused_before_a_model_loads(world, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_causal_lm", lambda *_, **__: pytest.fail("a model was loaded"))
    swapped = {"type": "modpo", "other": {"type": "model", "path": world / "reward"}}
    with pytest.raises(ConfigError, match=r"is to be a cost model, and this is a reward model"):
        train_direct(direct(tmp_path / "a", world, method=swapped))
    other = make_policy(tmp_path / "other", "gpt2")
    with pytest.raises(ConfigError, match=r"reference reads other tokens"):
        train_direct(direct(tmp_path / "b", world, ref=other))
    guard = {"type": "guard", "path": world / "policy", "unsafe_labels": ["unsafe"]}
    with pytest.raises(ConfigError, match=r"a guard, whose scores are costs(.|\n)*give rewards"):
        direct(tmp_path / "c", world, method={"type": "modpo", "by": "harmlessness", "other": guard})
    with pytest.raises(DataError, match=r"of use to safe_dpo(.|\n)*of 1 pairs left out: no_safety_label 1"):
        bare = write_lines(
            tmp_path / "bare.jsonl", [{"prompt": prompt("ask"), "responses": ["yes", "no"], "more_helpful": 0}]
        )
        train_direct(direct(tmp_path / "d", world, method=SAFE, pairs=[str(bare)]))
    with pytest.raises(DataError, match=r"of use to dpo(.|\n)*too_long 48(.|\n)*Raise max_length"):
        train_direct(direct(tmp_path / "e", world, max_length=8))
