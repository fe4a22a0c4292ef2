import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from equipoise.errors import ModelError
from equipoise.models import files
from equipoise.models.backbone import load_causal_lm
from equipoise.models.normalize import Normalizer
from equipoise.models.score_head import (
    Critic,
    HeadSettings,
    load_scorer,
    read_head_settings,
    save_scorer,
    scorer_from,
)
from equipoise.records import Prompt
from equipoise.tokens.collate import collate_scores
from equipoise.tokens.template import load_tokenizer

ASK = Prompt.from_text("how do i bake bread").messages
ANSWERED = [(ASK, "ok thanks"), (ASK, "mix flour and water , then bake it")]
POOLINGS = {"llama": "last", "qwen2": "last", "gemma": "last", "mistral": "last", "phi3": "last", "gpt2": "last"}
CASES = [*POOLINGS.items(), ("bert", "cls"), ("bert", "mean")]


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_a_scorer_comes_back_as_it_was_saved(folder_of, tmp_path, family, pooling):
    scorer = scorer_from(folder_of(family), seed=0, pooling=pooling)
    tokenizer = load_tokenizer(folder_of(family))
    batch, _ = collate_scores(tokenizer, ANSWERED, 100)
    scores = scorer(batch.input_ids, batch.attention_mask)
    assert scores.shape == (2,)
    assert scores.dtype == torch.float32
    assert scores[0] != scores[1]
    settings = HeadSettings("cost", pooling, Normalizer(True, 0.5, 2.0))
    save_scorer(scorer, tokenizer, tmp_path, settings)
    assert read_head_settings(tmp_path) == settings
    assert torch.equal(load_scorer(tmp_path)(batch.input_ids, batch.attention_mask), scores)


@pytest.mark.parametrize(("family", "pooling"), [("llama", "last"), ("bert", "mean")])
def test_a_scorer_with_categories_comes_back_and_its_score_is_that_without_them(
    folder_of, tmp_path, family, pooling
):
    scorer = scorer_from(folder_of(family), seed=0, pooling=pooling, categories=3)
    tokenizer = load_tokenizer(folder_of(family))
    batch, _ = collate_scores(tokenizer, ANSWERED, 100)
    outputs = scorer(batch.input_ids, batch.attention_mask)
    assert outputs.shape == (2, 4)
    plain = scorer_from(folder_of(family), seed=0, pooling=pooling)
    assert torch.equal(plain(batch.input_ids, batch.attention_mask), outputs[:, 0])
    settings = HeadSettings("cost", pooling, categories=("a", "b", "c"))
    save_scorer(scorer, tokenizer, tmp_path, settings)
    assert read_head_settings(tmp_path) == settings
    assert torch.equal(load_scorer(tmp_path)(batch.input_ids, batch.attention_mask), outputs)


def test_a_head_file_without_the_categories_that_its_settings_name_is_refused(folder_of, tmp_path):
    scorer, tokenizer = scorer_from(folder_of("llama"), seed=0), load_tokenizer(folder_of("llama"))
    save_scorer(scorer, tokenizer, tmp_path, HeadSettings("cost"))
    tree = json.loads((tmp_path / "score_head.json").read_text())
    (tmp_path / "score_head.json").write_text(json.dumps(tree | {"categories": ["a", "b"]}))
    with pytest.raises(ModelError, match=r"does not fit its backbone(.|\n)*category_weight"):
        load_scorer(tmp_path)


def test_a_saved_scorer_is_automodel_and_one_tensor_file(folder_of, tmp_path):
    scorer, tokenizer = scorer_from(folder_of("llama"), seed=0), load_tokenizer(folder_of("llama"))
    save_scorer(scorer, tokenizer, tmp_path, HeadSettings("reward"))
    # the snippet of docs/models.md
    plain, tokens = AutoModel.from_pretrained(str(tmp_path)), AutoTokenizer.from_pretrained(str(tmp_path))
    head = load_file(tmp_path / "score_head.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in head.items()} == {"weight": (1, 16), "bias": (1,)}
    turns = [{"role": "user", "content": "how do i bake bread"}]
    text = tokens.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    text += "ok thanks" + tokens.eos_token
    ids = tokens(text, add_special_tokens=False, return_tensors="pt").input_ids
    hidden = plain.eval()(ids).last_hidden_state[:, -1].float()
    score = hidden @ head["weight"].T + head["bias"]
    batch, _ = collate_scores(tokenizer, ANSWERED[:1], 100)
    torch.testing.assert_close(score[0], scorer(batch.input_ids, batch.attention_mask))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_padding_on_either_side_gives_the_same_scores(folder_of, family):
    scorer = scorer_from(folder_of(family), seed=0)
    torch.manual_seed(1)
    ids, real = torch.randint(10, 300, (2, 6)), torch.ones(2, 6, dtype=torch.bool)
    pad, hole = torch.full((2, 4), 3), torch.zeros(2, 4, dtype=torch.bool)
    alone = scorer(ids, real)
    torch.testing.assert_close(scorer(torch.cat([pad, ids], 1), torch.cat([hole, real], 1)), alone)
    torch.testing.assert_close(scorer(torch.cat([ids, pad], 1), torch.cat([real, hole], 1)), alone)


def test_the_score_is_the_token_score_at_the_last_real_token(folder_of):
    scorer = scorer_from(folder_of("llama"), seed=0)
    batch, _ = collate_scores(load_tokenizer(folder_of("llama")), ANSWERED, 100)
    scores = scorer(batch.input_ids, batch.attention_mask)
    both = Critic(scorer, heads=2)(batch.input_ids, batch.attention_mask)
    assert both.shape == (*batch.input_ids.shape, 2)
    values, fresh = both.unbind(-1)
    assert not fresh.any()
    last = batch.attention_mask.sum(dim=1) - 1
    torch.testing.assert_close(values[torch.arange(2), last], scores)


def test_a_critics_value_does_not_know_what_comes_after(folder_of):
    scorer = scorer_from(folder_of("llama"), seed=0)
    ids, mask = torch.randint(10, 300, (1, 8)), torch.ones(1, 8, dtype=torch.bool)
    changed = ids.clone()
    changed[0, 5:] = 7
    before, after = scorer.token_scores(ids, mask), scorer.token_scores(changed, mask)
    torch.testing.assert_close(before[:, :5], after[:, :5])


def test_mean_pooling_leaves_padding_out(folder_of):
    scorer = scorer_from(folder_of("bert"), seed=0, pooling="mean")
    ids = torch.tensor([[2, 5, 6, 3]])
    padded = torch.tensor([[2, 5, 6, 3, 0, 0, 0]])
    torch.testing.assert_close(scorer(padded, padded > 0), scorer(ids, torch.ones_like(ids, dtype=torch.bool)))


def test_an_encoder_that_does_not_count_from_zero_keeps_its_positions(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("roberta", vocab_size=50, max_position_embeddings=34, pad_token_id=1, **sizes)
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(str(tmp_path))
    scorer = scorer_from(tmp_path, seed=0, pooling="cls")
    ids = torch.tensor([[0, 9, 8, 2]])
    plain = model(ids).last_hidden_state[:, 0] @ scorer.head.weight.T
    padded = torch.tensor([[0, 9, 8, 2, 1, 1]])
    torch.testing.assert_close(scorer(padded, padded != 1)[None], plain)


def test_an_encoder_is_no_critic(folder_of):
    scorer = scorer_from(folder_of("bert"), seed=0, pooling="cls")
    with pytest.raises(ModelError, match="cannot be a critic"):
        scorer.token_scores(torch.tensor([[2, 3]]), torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize(("family", "pooling"), [("bert", "last"), ("llama", "cls"), ("gpt2", "mean")])
def test_pooling_must_suit_the_backbone(folder_of, family, pooling):
    with pytest.raises(ModelError, match="does not suit"):
        scorer_from(folder_of(family), seed=0, pooling=pooling)


def test_the_fresh_head_depends_on_its_seed_alone(folder_of):
    torch.manual_seed(5)
    first = scorer_from(folder_of("llama"), seed=3).head.weight
    torch.manual_seed(6)
    again, other = (scorer_from(folder_of("llama"), seed=seed).head.weight for seed in (3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_head_computes_in_float32_even_in_a_bfloat16_model_under_autocast(folder_of):
    scorer = scorer_from(folder_of("llama"), seed=0, dtype=torch.bfloat16)
    assert scorer.head.weight.dtype == torch.float32
    ids, mask = torch.randint(10, 300, (2, 5)), torch.ones(2, 5, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert scorer(ids, mask).dtype == torch.float32
        assert scorer.token_scores(ids, mask).dtype == torch.float32


def test_every_trained_weight_of_an_encoder_gets_a_gradient(folder_of):
    scorer = scorer_from(folder_of("bert"), seed=0, pooling="cls")
    scorer(torch.tensor([[2, 5, 3]]), torch.ones(1, 3, dtype=torch.bool)).sum().backward()
    assert [name for name, p in scorer.named_parameters() if p.grad is None] == []


def test_a_sequence_without_a_real_token_is_an_error(folder_of):
    scorer = scorer_from(folder_of("llama"), seed=0)
    with pytest.raises(ValueError, match="real token"):
        scorer(torch.tensor([[4, 5]]), torch.zeros(1, 2, dtype=torch.bool))


def test_a_policy_is_no_scorer(folder_of):
    with pytest.raises(ModelError, match="no score head"):
        load_scorer(folder_of("llama"))


def test_a_head_that_does_not_fit_its_backbone_is_refused(folder_of, tmp_path):
    folder = saved(folder_of, tmp_path)
    save_file({"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}, folder / "score_head.safetensors")
    with pytest.raises(ModelError, match="does not fit its backbone"):
        load_scorer(folder)


def test_broken_head_settings_are_refused(folder_of, tmp_path):
    folder = saved(folder_of, tmp_path)
    (folder / "score_head.json").write_text(json.dumps({"kind": "cost"}))
    with pytest.raises(ModelError, match="settings cannot be read"):
        load_scorer(folder)


def test_a_scorers_backbone_can_start_another_scorer_but_is_no_policy(folder_of, tmp_path):
    folder = saved(folder_of, tmp_path)
    scorer_from(folder, seed=1)
    with pytest.raises(ModelError, match="lacks"):
        load_causal_lm(folder)


def test_a_full_disk_leaves_the_earlier_scorer_as_it_was(folder_of, tmp_path, monkeypatch):
    folder = saved(folder_of, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(ModelError, match="No space left"):
        save_scorer(scorer_from(folder, seed=9), load_tokenizer(folder), folder, HeadSettings("cost"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def saved(folder_of, tmp_path: Path) -> Path:
    folder = tmp_path / "scorer"
    tokenizer = load_tokenizer(folder_of("llama"))
    save_scorer(scorer_from(folder_of("llama"), seed=0), tokenizer, folder, HeadSettings("reward"))
    return folder


def test_reward_and_policy_may_have_different_tokenizers(folder_of):
    # The same text through two tokenizers: each scorer sees its own end of turn last.
    for family in ("gpt2", "gemma"):
        tokenizer = load_tokenizer(folder_of(family))
        batch, _ = collate_scores(tokenizer, ANSWERED, 100)
        assert scorer_from(folder_of(family), seed=0)(batch.input_ids, batch.attention_mask).isfinite().all()
