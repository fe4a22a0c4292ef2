import errno
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from equipoise.errors import ModelError
from equipoise.models import files
from equipoise.models.backbone import (
    causal_logits,
    check_fit,
    context_length,
    is_encoder,
    load_backbone,
    load_causal_lm,
    logits_at,
    save_policy,
)
from equipoise.records import Demonstration, Message, Prompt
from equipoise.tokens.collate import collate_prompts, collate_sft, sft_examples
from equipoise.tokens.template import end_id, load_tokenizer

CAUSAL = ["llama", "qwen2", "gemma", "mistral", "phi3", "gpt2"]
SHOWN = Demonstration(
    messages=(
        Message(role="user", content="how do i bake bread"),
        Message(role="assistant", content="mix flour and water"),
    )
)


@pytest.mark.parametrize("family", CAUSAL)
def test_any_causal_model_trains_saves_and_loads_with_plain_transformers(folder_of, tmp_path, family):
    model, tokenizer = load_causal_lm(folder_of(family)), load_tokenizer(folder_of(family))
    batch = collate_sft(tokenizer, sft_examples(tokenizer, SHOWN, 100))
    logits = causal_logits(model, batch.input_ids, batch.attention_mask)
    assert logits.shape == (*batch.input_ids.shape, 320)
    torch.nn.functional.cross_entropy(
        logits[:, :-1][batch.target_mask[:, 1:]], batch.input_ids[:, 1:][batch.target_mask[:, 1:]]
    ).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    save_policy(model, tokenizer, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(str(tmp_path)).eval()
    again = AutoTokenizer.from_pretrained(str(tmp_path))
    assert torch.equal(causal_logits(plain, batch.input_ids, batch.attention_mask), logits)
    assert again.chat_template == tokenizer.chat_template
    assert again.pad_token_id == tokenizer.pad_token_id
    stops = plain.generation_config.eos_token_id
    assert end_id(tokenizer) in (stops if isinstance(stops, list) else [stops])


@pytest.mark.parametrize("family", CAUSAL)
def test_padding_on_either_side_gives_the_same_log_probs(folder_of, family):
    model = load_causal_lm(folder_of(family))
    torch.manual_seed(1)
    ids = torch.randint(10, 300, (1, 7))
    alone = causal_logits(model, ids, torch.ones(1, 7, dtype=torch.bool)).log_softmax(-1)
    pad, hole = torch.full((1, 5), 3), torch.zeros(1, 5, dtype=torch.bool)
    real = torch.ones(1, 7, dtype=torch.bool)
    left = causal_logits(model, torch.cat([pad, ids], 1), torch.cat([hole, real], 1)).log_softmax(-1)
    right = causal_logits(model, torch.cat([ids, pad], 1), torch.cat([real, hole], 1)).log_softmax(-1)
    torch.testing.assert_close(left[:, 5:], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(right[:, :7], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", CAUSAL)
def test_logits_at_some_positions_are_those_of_all_with_their_gradients(folder_of, family):
    ids, mask = torch.randint(10, 300, (3, 7)), torch.ones(3, 7, dtype=torch.bool)
    picked = torch.rand(3, 7, generator=torch.Generator().manual_seed(0)) < 0.4
    gradients = []
    for compute in (lambda m: causal_logits(m, ids, mask)[picked], lambda m: logits_at(m, ids, mask, picked)):
        model = load_causal_lm(folder_of(family), dtype=torch.float64)
        logits = compute(model)
        logits.square().sum().backward()
        gradients.append((logits.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_padding_carries_no_gradient_and_no_nan(folder_of):
    model = load_causal_lm(folder_of("llama"))
    tokenizer = load_tokenizer(folder_of("llama"))
    prompts = [Prompt.from_text("ok").messages, SHOWN.messages[:1]]
    batch, _ = collate_prompts(tokenizer, prompts, 100)
    causal_logits(model, batch.input_ids, batch.attention_mask)[:, -1].square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_a_missing_folder_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        load_causal_lm(tmp_path / "none")


def test_a_folder_without_config_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_causal_lm(tmp_path)


def test_pickled_weights_are_refused_with_the_command_that_converts_them(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("llama"), tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"equipoise convert .*m"):
        load_causal_lm(folder)


def test_a_folder_without_weights_is_refused(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("llama"), tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        load_causal_lm(folder)


def test_broken_weights_are_refused(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("llama"), tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot load this folder"):
        load_causal_lm(folder)


def test_an_encoder_is_no_policy(folder_of):
    with pytest.raises(ModelError, match="lacks"):
        load_causal_lm(folder_of("bert"))


def test_weights_that_are_missing_are_never_made_up(folder_of, tmp_path):
    model = AutoModel.from_pretrained(str(folder_of("llama")))
    model.save_pretrained(str(tmp_path))  # no language-model head
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        load_causal_lm(tmp_path)


def test_an_unknown_architecture_is_refused(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("llama"), tmp_path / "m")
    config = (folder / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "lama"')
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError, match="cannot load this folder"):
        load_causal_lm(folder)


def test_context_length_is_the_configured_number_of_positions(folder_of):
    assert context_length(load_backbone(folder_of("llama"))) == 128
    assert context_length(load_backbone(folder_of("gpt2"))) == 128
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    roberta = AutoModel.from_config(
        AutoConfig.for_model("roberta", vocab_size=50, max_position_embeddings=34, pad_token_id=1, **sizes)
    )
    assert context_length(roberta) == 32  # 34 places, the first two of which it never uses
    bloom = AutoModel.from_config(
        AutoConfig.for_model("bloom", vocab_size=50, hidden_size=16, n_layer=1, n_head=2, seq_length=None)
    )
    assert context_length(bloom) is None


def test_sequences_longer_than_the_context_and_foreign_tokenizers_are_refused(folder_of, tmp_path):
    model, tokenizer = load_causal_lm(folder_of("llama")), load_tokenizer(folder_of("llama"))
    check_fit(model, tokenizer, 128)
    with pytest.raises(ModelError, match="129 tokens do not fit the model's context of 128"):
        check_fit(model, tokenizer, 129)
    tokenizer.add_tokens([f"new{i}" for i in range(100)])
    with pytest.raises(ModelError, match="embeddings for 320"):
        check_fit(model, tokenizer, 10)


def test_only_bidirectional_models_are_encoders(folder_of):
    assert is_encoder(load_backbone(folder_of("bert")))
    assert not any(is_encoder(load_causal_lm(folder_of(family))) for family in CAUSAL)


def test_a_full_disk_leaves_the_earlier_policy_as_it_was(folder_of, tmp_path, monkeypatch):
    model, tokenizer = load_causal_lm(folder_of("llama")), load_tokenizer(folder_of("llama"))
    save_policy(model, tokenizer, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        next(model.parameters()).add_(1.0)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(ModelError, match=r"(?s)what was there before is untouched.*No space left"):
        save_policy(model, tokenizer, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    load_causal_lm(tmp_path)


def test_a_full_disk_inside_the_library_leaves_the_earlier_policy_as_it_was(folder_of, tmp_path, monkeypatch):
    model, tokenizer = load_causal_lm(folder_of("llama")), load_tokenizer(folder_of("llama"))
    save_policy(model, tokenizer, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def half_written(folder: str) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", half_written)
    with pytest.raises(ModelError, match="could not be saved"):
        save_policy(model, tokenizer, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_removes_the_shards_of_an_earlier_model_and_keeps_other_files(folder_of, tmp_path):
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"old")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("{}")
    (tmp_path / ".saving").mkdir()  # left by a run that was killed
    save_policy(load_causal_lm(folder_of("llama")), load_tokenizer(folder_of("llama")), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert not any("00001" in name or "index" in name for name in names)
    assert {"model.safetensors", "metrics.jsonl", "config.json"} <= names
    assert ".saving" not in names
    load_causal_lm(tmp_path)


def test_saving_does_not_change_the_model_in_memory(folder_of, tmp_path):
    model = load_causal_lm(folder_of("gemma"))
    before = model.generation_config.to_dict()
    save_policy(model, load_tokenizer(folder_of("gemma")), tmp_path)
    assert model.generation_config.to_dict() == before


def test_weights_are_loaded_in_the_type_asked_for(folder_of):
    assert load_causal_lm(folder_of("llama"), dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_causal_lm(folder_of("llama")).dtype == torch.float32
