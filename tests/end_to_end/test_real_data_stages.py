"""The commands on real files with small models of several families, as a user would type them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from equipoise.artefact import read_manifest
from equipoise.cli.main import main

SETS = {
    "pku_safe_rlhf/pairs_32.json": "32 PreferencePair",
    "pku_safe_rlhf/new_schema_3.jsonl": "3 PreferencePair",
    "pku_safe_rlhf/safety_pairs_dev.jsonl": "2431 PreferencePair",
    "beavertails/beavertails_3011.jsonl": "3011 SafetyLabel",
    "beavertails/BeaverTails-Evaluation.json": "691 Prompt",
    "hh_rlhf/test.jsonl.gz": "2312 PreferencePair",
    "pandalm/testset-v1.json": "993 Comparison",
    "xstest/xstest_prompts.csv": "450 Prompt",
    "xstest/xstest_v2_completions_gpt4.csv": "450 RefusalLabel",
    "xstest/xstest_v2_completions_llama2new.csv": "450 RefusalLabel",
    "xstest/xstest_v2_completions_mistralguard.csv": "450 RefusalLabel",
    "xstest/xstest_v2_completions_mistralinstruct.csv": "450 RefusalLabel",
    "redteam_prompts/harmful_train.json": "259 Prompt",
    "redteam_prompts/harmful_val.json": "38 Prompt",
    "redteam_prompts/harmless_val.json": "6264 Prompt",
    "redteam_prompts/jailbreakbench.json": "97 Prompt",
    "redteam_prompts/malicious_instruct.json": "100 Prompt",
    "redteam_prompts/strongreject.json": "307 Prompt",
    "sft/seed_tasks.jsonl": "175 Demonstration",
}
CAUSAL = ("llama", "qwen2", "gpt2")
COST_OF = {"llama": "bert", "qwen2": "gpt2", "gpt2": "llama"}
"""Whose cost model judges an actor: one with another tokenizer."""
SMALL = ("--max-length", "192", "--seed", "0", "--hardware.device", "cpu", "--hardware.threads", "1")
SCORER = (*SMALL, "--batch-size", "16", "--optimizer.lr", "3e-3", "--too-long", "drop")


@pytest.fixture(scope="module")
def runs(real_data, folder_of, tmp_path_factory) -> Path:
    """A reward model per causal family, on the pairs with both labels, and a cost model per family."""
    out = tmp_path_factory.mktemp("runs")
    helpful, safety = (real_data / "pku_safe_rlhf" / name for name in ("pairs_32.json", "safety_pairs_dev.jsonl"))
    for family in CAUSAL:
        run("reward", "--model", folder_of(family), "--pairs", helpful, "--out", out / f"reward-{family}", *SCORER)
    for family in (*CAUSAL, "bert"):
        pooling = "mean" if family == "bert" else "last"
        pairs = ("--pairs", json.dumps({"path": str(safety), "limit": 120}), "--pooling", pooling)
        run("cost", "--model", folder_of(family), *pairs, "--out", out / f"cost-{family}", *SCORER)
    return out


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", SETS)
def test_data_check_reads_every_set(real_data, name, capsys):
    run("data", "check", real_data / name)
    assert SETS[name] in capsys.readouterr().out


def test_data_check_refuses_replies_without_a_prompt_naming_the_field(real_data, capsys):
    assert main(["data", "check", str(real_data / "gptfuzz" / "train.csv")]) == 2
    assert "lacks `prompt`" in capsys.readouterr().err


@pytest.mark.parametrize("family", [*CAUSAL, "bert"])
def test_data_check_shows_real_text_as_a_model_s_tokens(real_data, folder_of, family, capsys):
    run("data", "check", real_data / "sft" / "seed_tasks.jsonl", "--tokenizer", folder_of(family))
    shown = capsys.readouterr().out.partition("between ⟦ and ⟧")[2]
    assert shown.count("⟦") == shown.count("⟧") == 3


def test_reward_refuses_pairs_without_a_helpfulness_label(real_data, folder_of, tmp_path, capsys):
    pairs = real_data / "pku_safe_rlhf" / "safety_pairs_dev.jsonl"
    words = ["reward", "--model", folder_of("llama"), "--pairs", pairs, "--out", tmp_path / "reward"]
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert "`better_response_id`" in said
    assert str(pairs) in said
    assert not (tmp_path / "reward").exists()


@pytest.mark.parametrize("family", CAUSAL)
def test_reward_trains_on_the_pairs_with_both_labels(runs, family):
    facts = read_manifest(runs / f"reward-{family}", ("reward",)).facts
    assert facts["prompts"] + facts["held_out_prompts"] == 31  # two of the 32 pairs share a prompt
    assert all(math.isfinite(line["loss"]) for line in lines(runs / f"reward-{family}" / "metrics.jsonl"))


@pytest.mark.parametrize("family", [*CAUSAL, "bert"])
def test_cost_learns_from_real_labels(runs, family):
    facts = read_manifest(runs / f"cost-{family}", ("cost",)).facts
    assert facts["safety_accuracy"]["n"] > 0
    losses = [line["loss"] for line in lines(runs / f"cost-{family}" / "metrics.jsonl")]
    third = len(losses) // 3
    assert sum(losses[-third:]) < sum(losses[:third])


@pytest.mark.parametrize("actor", CAUSAL)
def test_ppo_lag_with_a_cost_model_of_another_tokenizer(runs, real_data, folder_of, actor, tmp_path):
    prompts = {"path": str(real_data / "pku_safe_rlhf" / "safety_pairs_dev.jsonl"), "limit": 60}
    run(
        "ppo-lag", "--actor", folder_of(actor), "--prompts", json.dumps(prompts), "--out", tmp_path / "policy",
        "--reward.type", "model", "--reward.path", runs / f"reward-{actor}",
        "--cost.type", "model", "--cost.path", runs / f"cost-{COST_OF[actor]}",
        "--cost-critic", runs / f"cost-{actor}", "--validation.prompts", json.dumps(prompts | {"limit": 8}),
        "--ptx", real_data / "sft" / "seed_tasks.jsonl", "--ptx-batch-size", "4", "--keep", "last",
        "--steps", "3", "--batch-size", "8", "--sampling.max-new-tokens", "12", *SMALL,
    )  # fmt: skip
    steps = lines(tmp_path / "policy" / "metrics.jsonl")
    before = [1.0, *(step["lambda"] for step in steps)]
    for old, step in zip(before, steps, strict=False):
        assert (step["lambda"] > old) == (step["mean_cost"] > 0)  # the limit is 0; λ starts at 1
    assert "validation_mean_cost" in steps[-1]
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert policy.config.model_type == actor
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").chat_template


def test_safe_dpo_trains_on_the_pairs_from_their_file_alone(real_data, folder_of, tmp_path):
    pairs = real_data / "pku_safe_rlhf" / "pairs_32.json"
    run(
        "direct", "--policy", folder_of("llama"), "--pairs", pairs, "--out", tmp_path, "--max-length", "512",
        "--method.type", "safe_dpo", "--method.margin", "2", "--held-out", "0.2", "--batch-size", "8",
        "--hardware.device", "cpu", "--hardware.threads", "1",
    )  # fmt: skip
    # Of the 32 pairs, 16 have two unsafe answers; in 4 the more helpful one is unsafe and the other safe.
    facts = read_manifest(tmp_path, ("policy",)).facts
    assert facts["left_out_pairs"] == {"both_unsafe": 16}
    assert facts["pairs"] + facts["held_out_pairs"] == 16
    assert facts["swapped_pairs"] == 4
    assert lines(tmp_path / "metrics.jsonl")[0]["loss"] > math.log(2)  # Δ for pairs with an unsafe answer
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.model_type == "llama"


def test_reward_refuses_too_long_prompts_by_name_before_the_first_step(real_data, folder_of, tmp_path, capsys):
    source = {"path": str(real_data / "hh_rlhf" / "test.jsonl.gz"), "hh_preference": "more_helpful", "limit": 50}
    words = ["reward", "--model", folder_of("gpt2"), "--pairs", json.dumps(source), "--out", tmp_path / "reward"]
    words += ["--max-length", "64"]
    assert main([str(word) for word in words]) == 2
    assert "prompts are longer than 62 tokens" in capsys.readouterr().err
    assert not (tmp_path / "reward" / "metrics.jsonl").exists()
    run(*words, "--too-long", "drop", "--epochs", "0.5")  # the same directory: nothing was written there


def test_sft_refuses_sequences_beyond_the_model_s_context(real_data, folder_of, tmp_path, capsys):
    tasks = real_data / "sft" / "seed_tasks.jsonl"
    words = ["sft", "--model", folder_of("gpt2"), "--demonstrations", tasks, "--out", tmp_path / "sft"]
    assert main([*map(str, words), "--max-length", "4096"]) == 2
    assert "do not fit the model's context of 512" in capsys.readouterr().err


LABELLERS = """
from equipoise.records import Verdict

class Panelist:
    def __init__(self, name):
        self.name = name

    def judge_safety(self, prompt, response):
        return Verdict(is_safe=len(response) % 2 == 0)

    def rank(self, prompt, responses, question, verdicts):
        unsafe = [question != "helpfulness" and not verdict.is_safe for verdict in verdicts]
        keys = [(bad, -len(text)) for bad, text in zip(unsafe, responses, strict=True)]
        return tuple(sorted(set(keys)).index(key) for key in keys)

def panel(count, seed):
    return [Panelist(f"panelist-{i}") for i in range(count)]
"""


def test_labellers_beside_the_command_label_answers_to_real_prompts(real_data, folder_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_labellers.py").write_text(LABELLERS)
    prompts = real_data / "beavertails" / "BeaverTails-Evaluation.json"
    limits = ("--limit", "6", "--samples-per-prompt", "3", "--max-prompt-length", "128")
    short = ("--sampling.max-new-tokens", "8")
    run("respond", "--policy", folder_of("qwen2"), "--prompts", prompts, "--out", "responses", *limits, *short)
    asked = ("--labellers", "my_labellers:panel", "--labeller-count", "3")
    run("annotate", "simulate", "--responses", "responses", *asked, "--out", "labels")
    run("aggregate", "--labels", "labels", "--out", "preferences")
    pairs = lines(tmp_path / "preferences" / "pairs.jsonl")
    assert len(pairs) == 6 * 3  # K(K−1)/2 = 3 pairs of 3 different answers
    run("cost", "--model", folder_of("llama"), "--pairs", "preferences", "--out", "cost", *SCORER)


def test_a_model_on_the_hub_goes_through_the_stages_by_its_name(real_data, folder_of, tmp_path, monkeypatch):
    asked = []

    def download(name: str, **_: object) -> str:
        asked.append(name)
        return str(folder_of("llama"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    tasks = real_data / "sft" / "seed_tasks.jsonl"
    small = (*SMALL, "--epochs", "0.1")
    run("sft", "--model", "org/tiny-llama", "--demonstrations", tasks, "--out", tmp_path / "sft", *small)
    assert set(asked) == {"org/tiny-llama"}
    assert read_manifest(tmp_path / "sft", ("policy",)).config["model"] == "org/tiny-llama"
