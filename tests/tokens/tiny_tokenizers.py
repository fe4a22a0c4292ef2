"""Tokenizers small enough to train in a test, each with the special tokens of a known family."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = ("how do i bake bread", "mix flour and water , then bake it", "i will not help with that", "ok thanks")
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
FAMILIES = ("llama", "qwen2", "gemma", "mistral", "phi3", "gpt2", "llama3", "bert", "bare")
TURN_ENDS = {
    "llama": "</s>",
    "qwen2": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "mistral": "</s>",
    "phi3": "<|end|>",
    "gpt2": "<|endoftext|>",
    "llama3": "<|eot_id|>",
    "bert": "[SEP]",
}
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def make_tokenizer(family: str, folder: Path) -> Path:
    """Train the family's tokenizer and save it into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    {"bert": _bert, "bare": _bare}.get(family, lambda: _bpe(family))().save_pretrained(str(folder))
    return folder


def _bpe(family: str) -> PreTrainedTokenizerFast:
    named, extra, template = {
        "llama": ({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, (), None),
        "qwen2": (
            {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
            ("<|im_start|>", "<|im_end|>"),
            None,
        ),
        "gemma": (
            {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
            ("<start_of_turn>", "<end_of_turn>"),
            GEMMA,
        ),
        "mistral": ({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, (), MISTRAL),
        "phi3": (
            {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"},
            ("<|user|>", "<|assistant|>", "<|end|>"),
            PHI3,
        ),
        "gpt2": (dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"), (), None),
        "llama3": (
            {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
            ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
            LLAMA3,
        ),
    }[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = list(dict.fromkeys([*named.values(), *extra]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if family in ("llama", "mistral"):
        start = (named["bos_token"], tokenizer.token_to_id(named["bos_token"]))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=list(extra), **named)
    fast.chat_template = template
    return fast


def _bert() -> PreTrainedTokenizerFast:
    words = sorted({word for line in CORPUS for word in line.split()} | {"user", "assistant", ":", "a"})
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )


def _bare() -> PreTrainedTokenizerFast:
    vocab = {word: i for i, word in enumerate(["<unk>", "a", "b"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
