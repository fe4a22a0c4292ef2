from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_tokenizers import make_tokenizer
from transformers import PreTrainedTokenizerBase

from equipoise.tokens.template import load_tokenizer


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PreTrainedTokenizerBase]:
    """The loaded tokenizer of a family, trained once."""
    known: dict[str, PreTrainedTokenizerBase] = {}

    def get(family: str) -> PreTrainedTokenizerBase:
        if family not in known:
            known[family] = load_tokenizer(folder_of(family))
        return known[family]

    def folder_of(family: str) -> Path:
        return make_tokenizer(family, tmp_path_factory.mktemp(family))

    return get
