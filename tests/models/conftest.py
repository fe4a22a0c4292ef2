import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PretrainedConfig,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tokens"))
from tiny_tokenizers import make_tokenizer

from equipoise.tokens.template import load_tokenizer

SIZES = {
    "vocab_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "gemma": "gemma2",
    "mistral": "mistral",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "bert": "bert",
}
CAUSAL = [family for family in ARCHITECTURES if family != "bert"]
FolderOf = Callable[[str], Path]


def tiny_config(family: str, width: int = 16) -> PretrainedConfig:
    """A configuration of a few thousand weights."""
    if family == "gpt2":
        return AutoConfig.for_model("gpt2", vocab_size=320, n_embd=width, n_layer=2, n_head=2, n_positions=128)
    wide = {"hidden_size": width, "intermediate_size": 2 * width, "head_dim": width // 2}
    return AutoConfig.for_model(ARCHITECTURES[family], **SIZES | wide)


def make_model(family: str, folder: Path, width: int = 16) -> Path:
    """Save a tiny random model of an architecture with its tokenizer, as anybody would."""
    make_tokenizer(family, folder)
    tokenizer = load_tokenizer(folder)
    config = tiny_config(family, width)
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    torch.manual_seed(0)
    kind = AutoModel if family == "bert" else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """The folder of a tiny model, made once; not to be written to."""
    known: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in known:
            known[family] = make_model(family, tmp_path_factory.mktemp(family))
        return known[family]

    return get


@pytest.fixture(scope="session")
def new_model() -> Callable[[str, Path, int], Path]:
    """`make_model`, for tests that need another width or a folder of their own."""
    return make_model
