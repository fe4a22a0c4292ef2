"""Models small enough to make in a test."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tokens"))
from tiny_tokenizers import make_tokenizer

from equipoise.models.backbone import save_policy
from equipoise.models.normalize import Normalizer
from equipoise.models.score_head import HeadSettings, Kind, Scorer, save_scorer
from equipoise.tokens.template import load_tokenizer

END, PAD, VOCABULARY = 2, 0, 30
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": END, "pad_token_id": PAD,
}  # fmt: skip


def tiny_llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(num_attention_heads=2, initializer_range=0.5, **SHAPE)
    return LlamaForCausalLM(config)


def tiny_gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5,
        bos_token_id=END, eos_token_id=END,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def tiny_mistral() -> PreTrainedModel:
    """Its attention sees the last 4 tokens only, so its cache layers are of the sliding kind."""
    torch.manual_seed(0)
    config = MistralConfig(
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.5, sliding_window=4, **SHAPE
    )
    return MistralForCausalLM(config)


def tiny_mistral_with_a_wide_window() -> PreTrainedModel:
    model = tiny_mistral()
    model.config.sliding_window = 64
    return model


def tiny_qwen2() -> PreTrainedModel:
    """Two heads share keys and values; its projections have biases."""
    torch.manual_seed(0)
    config = Qwen2Config(num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5, **SHAPE)
    return Qwen2ForCausalLM(config)


def tiny_gemma() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GemmaConfig(num_attention_heads=2, num_key_value_heads=1, head_dim=8, initializer_range=0.3, **SHAPE)
    return GemmaForCausalLM(config)


def tiny_phi() -> PreTrainedModel:
    """Only a part of each head carries positions."""
    torch.manual_seed(0)
    config = PhiConfig(num_attention_heads=2, initializer_range=0.3, **SHAPE)
    return PhiForCausalLM(config)


def tiny_falcon(alibi: bool) -> PreTrainedModel:
    """With `alibi` it reads the positions off the attention mask, though it takes position_ids."""
    torch.manual_seed(0)
    config = FalconConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, alibi=alibi,
        max_position_embeddings=64, initializer_range=0.3, bos_token_id=1, eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    return FalconForCausalLM(config)


def tiny_bloom() -> PreTrainedModel:
    """It knows no position_ids."""
    torch.manual_seed(0)
    config = BloomConfig(
        vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.5,
        eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    return BloomForCausalLM(config)


MODELS = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    "mistral": tiny_mistral,
    "wide mistral": tiny_mistral_with_a_wide_window,
    "qwen2": tiny_qwen2,
    "gemma": tiny_gemma,
    "phi": tiny_phi,
}


def bert_shape(words: int) -> dict[str, Any]:
    return {
        "vocab_size": words, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.5,
    }  # fmt: skip


def make_scorer(folder: Path, kind: Kind, normalizer: Normalizer, categories: tuple[str, ...] = ()) -> Path:
    """A tiny random encoder with a score head and a tokenizer of its own."""
    make_tokenizer("bert", folder)
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(0)
    backbone = BertModel(BertConfig(**bert_shape(len(tokenizer))), add_pooling_layer=False).eval()
    scorer = Scorer(backbone, "mean", len(categories))
    save_scorer(scorer, tokenizer, folder, HeadSettings(kind, "mean", normalizer, categories))
    return folder


def make_guard(folder: Path, labels: tuple[str, ...], problem: str | None = None) -> Path:
    """A tiny random classifier."""
    make_tokenizer("bert", folder)
    torch.manual_seed(0)
    config = BertConfig(
        **bert_shape(len(load_tokenizer(folder))), id2label=dict(enumerate(labels)), problem_type=problem
    )
    config.label2id = {label: number for number, label in enumerate(labels)}
    BertForSequenceClassification(config).save_pretrained(str(folder))
    return folder


def make_policy(folder: Path) -> Path:
    """A tiny random Llama with a tokenizer, saved as a policy."""
    make_tokenizer("llama", folder)
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=96, initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    save_policy(LlamaForCausalLM(config), tokenizer, folder)
    return folder
