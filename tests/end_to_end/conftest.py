"""What somebody brings along: real data, and small models of several families, each with its own tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

FolderOf = Callable[[str], Path]
LINES = 400
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Family(NamedTuple):
    """How the models of a family differ here."""

    words: int  # of the tokenizer
    names: dict[str, str]  # special tokens by role
    extra: tuple[str, ...] = ()
    frame: tuple[str, str] = ("", "")  # what stands around every text
    template: str | None = None
    config: dict[str, Any] | None = None


SHAPE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 512,
}  # fmt: skip
FAMILIES = {
    "llama": Family(1500, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, frame=("<s>", "")),
    "qwen2": Family(
        1200,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        extra=("<|im_start|>",),
        template=CHATML,
    ),
    "gpt2": Family(
        1800,
        dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
        config={"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512},
    ),
    "bert": Family(
        1100,
        {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"},
        frame=("[CLS]", "[SEP]"),
    ),
}


@pytest.fixture(scope="session")
def folder_of(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """The folder of a small untrained model, made once; not to be written to."""
    rows = (real_data / "beavertails" / "beavertails_3011.jsonl").read_text(encoding="utf-8").splitlines()[:LINES]
    texts = [f"{row['prompt']}\n{row['response']}" for row in map(json.loads, rows)]
    known: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in known:
            known[family] = make_model(family, texts, tmp_path_factory.mktemp(family))
        return known[family]

    return get


def make_model(family: str, texts: list[str], folder: Path) -> Path:
    """Train a byte-level tokenizer on some texts and save it with a random model, as anybody would."""
    tokenizer = make_tokenizer(FAMILIES[family], texts)
    ids = {role: getattr(tokenizer, role) for role in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = FAMILIES[family].config or SHAPE
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **shape, **ids)
    kind = AutoModel if family == "bert" else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def make_tokenizer(family: Family, texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=family.words,
        special_tokens=list(dict.fromkeys([*family.names.values(), *family.extra])),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    before, after = family.frame
    if before:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{before} $A {after}".strip(),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in family.frame if token],
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=list(family.extra), **family.names
    )
    fast.chat_template = family.template
    return fast
