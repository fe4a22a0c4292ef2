"""Synthetic checkpoints of the published layout; the published weights themselves are not in reach of a test."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_tokenizers import make_tokenizer
from transformers import AutoModel, AutoModelForCausalLM

from equipoise.errors import ModelError
from equipoise.models.backbone import load_causal_lm
from equipoise.models.convert import convert, export_beaver
from equipoise.models.normalize import Normalizer
from equipoise.models.score_head import HeadSettings, load_scorer, read_head_settings, save_scorer, scorer_from
from equipoise.tokens.template import load_tokenizer

IDS, REAL = torch.arange(10, 16)[None], torch.ones(1, 6, dtype=torch.bool)


def make_beaver(folder_of, folder: Path, *, shards: bool = False, safetensors: bool = False, **settings) -> Path:
    """A reward or cost model as published: one set of tensors, score_* keys in config.json, no chat template."""
    make_tokenizer("llama", folder)
    backbone = AutoModel.from_pretrained(str(folder_of("llama")))
    config = backbone.config.to_dict() | {
        "architectures": ["LlamaForScore"],
        "score_dim": 1,
        "score_bias": True,
        "score_type": "cost",
        "do_normalize": False,
        "normalizer_type": "ExponentialMovingAverage",
        "momentum": None,
        "mean": None,
        "var": None,
    }
    (folder / "config.json").write_text(json.dumps(config | settings))
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    torch.manual_seed(1)
    tensors |= {"score_head.weight": torch.randn(1, 16), "score_head.bias": torch.tensor([0.25])}
    tensors |= {
        "normalizer.mean": torch.tensor([1.5]),
        "normalizer.var": torch.tensor([4.0]),
        "normalizer.count": torch.tensor([10]),
    }
    if safetensors:
        save_file(tensors, folder / "model.safetensors")
    elif shards:
        names = sorted(tensors)
        files = {name: f"pytorch_model-0000{1 + (i % 2)}-of-00002.bin" for i, name in enumerate(names)}
        for file in set(files.values()):
            torch.save({name: tensors[name] for name in names if files[name] == file}, folder / file)
        index = {"metadata": {}, "weight_map": files}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def expected_score(folder_of) -> torch.Tensor:
    torch.manual_seed(1)
    weight = torch.randn(1, 16)
    hidden = AutoModel.from_pretrained(str(folder_of("llama"))).eval()(IDS).last_hidden_state[:, -1]
    return (hidden @ weight.T + 0.25)[:, 0]


@pytest.mark.parametrize("files", [{}, {"shards": True}, {"safetensors": True}])
def test_a_beaver_cost_model_scores_as_before_once_converted(folder_of, tmp_path, files):
    source = make_beaver(folder_of, tmp_path / "beaver", **files)
    out = convert(source, tmp_path / "ours")
    torch.testing.assert_close(load_scorer(out)(IDS, REAL), expected_score(folder_of))
    # σ = √4; the normalizer is off
    assert read_head_settings(out) == HeadSettings("cost", "last", Normalizer(False, 1.5, 2.0))
    assert "score_dim" not in json.loads((out / "config.json").read_text())
    text = load_tokenizer(out).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<s>BEGINNING OF CONVERSATION: USER: hi "


def test_a_normalizer_that_is_on_stays_on(folder_of, tmp_path):
    source = make_beaver(folder_of, tmp_path / "beaver", score_type="reward", do_normalize=True)
    settings = read_head_settings(convert(source, tmp_path / "ours"))
    assert settings == HeadSettings("reward", "last", Normalizer(True, 1.5, 2.0))


def test_a_beaver_critic_is_refused(folder_of, tmp_path):
    source = make_beaver(folder_of, tmp_path / "beaver", score_type="critic")
    with pytest.raises(ModelError, match="'critic'"):
        convert(source, tmp_path / "ours")


def test_a_beaver_checkpoint_without_a_head_is_refused(folder_of, tmp_path):
    source = make_beaver(folder_of, tmp_path / "beaver")
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    del tensors["score_head.weight"]
    torch.save(tensors, source / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"score_head\.weight is missing"):
        convert(source, tmp_path / "ours")


def test_ours_becomes_beaver_and_comes_back(folder_of, tmp_path):
    scorer, tokenizer = scorer_from(folder_of("llama"), seed=0), load_tokenizer(folder_of("llama"))
    settings = HeadSettings("reward", "last", Normalizer(True, 1.0, 3.0))
    save_scorer(scorer, tokenizer, tmp_path / "ours", settings)
    beaver = export_beaver(tmp_path / "ours", tmp_path / "beaver")
    config = json.loads((beaver / "config.json").read_text())
    assert config["architectures"] == ["LlamaForScore"]
    assert (config["score_type"], config["score_dim"], config["do_normalize"]) == ("reward", 1, True)
    again = convert(beaver, tmp_path / "again")
    assert torch.equal(load_scorer(again)(IDS, REAL), scorer(IDS, REAL))
    assert read_head_settings(again) == settings
    assert load_tokenizer(again).chat_template == tokenizer.chat_template


def test_an_encoder_has_no_place_in_the_beaver_layout(folder_of, tmp_path):
    scorer, tokenizer = scorer_from(folder_of("bert"), seed=0, pooling="cls"), load_tokenizer(folder_of("bert"))
    save_scorer(scorer, tokenizer, tmp_path / "ours", HeadSettings("cost", "cls"))
    with pytest.raises(ModelError, match="no place for an encoder"):
        export_beaver(tmp_path / "ours", tmp_path / "beaver")


def test_a_policy_with_pickled_weights_is_converted_to_safetensors(folder_of, tmp_path):
    source = make_tokenizer("llama", tmp_path / "old")
    model = AutoModelForCausalLM.from_pretrained(str(folder_of("llama"))).eval()
    model.config.save_pretrained(str(source))
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    out = convert(source, tmp_path / "new")
    assert (out / "model.safetensors").exists()
    assert torch.equal(load_causal_lm(out)(IDS).logits, model(IDS).logits)


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["EQUIPOISE_TEST_CANARY"],)


def test_a_pickle_that_would_run_code_is_refused(folder_of, tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    monkeypatch.setenv("EQUIPOISE_TEST_CANARY", str(canary))
    source = make_beaver(folder_of, tmp_path / "beaver")
    (source / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Malicious()}, protocol=2))
    with pytest.raises(ModelError, match="tensors alone"):
        convert(source, tmp_path / "ours")
    assert not canary.exists()


def test_what_is_ours_already_is_not_converted(folder_of, tmp_path):
    scorer, tokenizer = scorer_from(folder_of("llama"), seed=0), load_tokenizer(folder_of("llama"))
    save_scorer(scorer, tokenizer, tmp_path, HeadSettings("cost"))
    with pytest.raises(ModelError, match="already"):
        convert(tmp_path, tmp_path / "out")


def test_a_folder_that_is_no_model_is_not_converted(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        convert(tmp_path, tmp_path / "out")
