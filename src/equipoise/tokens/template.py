"""Tokenizers, and the one way a conversation becomes tokens.

A prompt is the chat template's text up to the assistant's turn; a response is its text's tokens and the token
that ends an assistant's turn. Training, sampling and scoring all join these two, so they see the same tokens.
Left out: padding and cutting (`collate`).
"""

import difflib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from equipoise.errors import ConfigError, DataError, ModelError
from equipoise.records import Message
from equipoise.tokens.folder import model_folder

Ids = list[int]

TEMPLATES: dict[str, str] = {
    "plain": (
        "START{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
        "{% elif message['role'] == 'user' %}{{ 'User:\n' + message['content'] + '\n\n' }}"
        "{% else %}{{ 'Assistant:\n' + message['content'] }}END{{ '\n\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
    ),
    "beaver": (
        "START{{ 'BEGINNING OF CONVERSATION: ' }}{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}"
        "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
        "{% else %}{{ 'ASSISTANT:' + message['content'] }}END{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "chatml": (
        "START{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
"""Chat templates by name. START becomes the tokenizer's own first token, END what ends a turn."""


def load_tokenizer(path: str | Path, *, template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder, ready to use: it has a chat template, an end of turn and a padding token.

    Args:
        path: The folder, or a hub name.
        template: A name in `TEMPLATES`, which replaces the tokenizer's own. None keeps its own, else "plain".

    Raises:
        ModelError: No folder, no tokenizer in it, or one with neither EOS nor SEP.
        ConfigError: No template of that name, or one whose tokens this tokenizer lacks.
    """
    folder = model_folder(path)
    try:
        tokenizer = cast(
            "PreTrainedTokenizerBase",
            AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True),
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise ModelError(
            "The folder holds no tokenizer that can be loaded.",
            where=str(folder),
            why=str(error).split("\n")[0],
            fix="Put tokenizer.json and tokenizer_config.json beside the model.",
        ) from error
    end = tokenizer.eos_token or tokenizer.sep_token
    if end is None:
        raise ModelError(
            "The tokenizer has neither an EOS nor a SEP token, so nothing can end a response.",
            where=str(folder),
            fix="Name one as eos_token in tokenizer_config.json.",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = end
    if template is not None or not tokenizer.chat_template:
        tokenizer.chat_template = _written_template(tokenizer, template or "plain")
    return tokenizer


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Ids:
    """The tokens of a conversation up to where the assistant begins to answer."""
    return many_prompt_ids(tokenizer, [messages])[0]


def many_prompt_ids(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]) -> list[Ids]:
    """`prompt_ids` of many conversations in one call, each distinct one read once.

    Special tokens inside a message's text stay plain text.

    Raises:
        DataError: The tokenizer's chat template refuses a conversation (a system turn, two user turns in a row).
    """
    distinct = list(dict.fromkeys(tuple(messages) for messages in conversations))
    if len(distinct) < len(conversations):
        known = dict(zip(distinct, many_prompt_ids(tokenizer, distinct), strict=True))
        return [known[tuple(messages)] for messages in conversations]
    if not conversations:
        return []
    plain = [[{"role": m.role, "content": m.content} for m in messages] for messages in conversations]
    specials = _special_tokens(tokenizer)
    injected = any(token in m.content for messages in conversations for m in messages for token in specials)
    try:
        ids = tokenizer.apply_chat_template(
            plain,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=injected,
            tokenizer_kwargs={"verbose": False},
        )
    except TemplateError as error:
        if len(conversations) > 1:
            return [prompt_ids(tokenizer, messages) for messages in conversations]  # raises for the one it refuses
        raise DataError(
            "The tokenizer's chat template refuses a conversation.",
            where=f"{' / '.join(m.role for m in conversations[0])}: {conversations[0][-1].content[:60]!r}",
            why=str(error),
            fix="Merge the turns it does not allow, or choose a named template: " + ", ".join(TEMPLATES),
        ) from error
    return cast("list[Ids]", ids)


def same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether every token has the same number in both."""
    return bool(one.get_vocab() == other.get_vocab())


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an assistant's turn.

    It is the special token that the chat template writes after the assistant's text (<end_of_turn>, <|eot_id|>,
    <|im_end|> …); where there is none, EOS; for encoders, SEP.
    """
    return _end_id(tokenizer, str(tokenizer.chat_template))


def response_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, finished: bool = True) -> Ids:
    """The tokens of a response: those of its text, in which nothing is special, and the end of the turn.

    Args:
        tokenizer: The tokenizer.
        text: What the assistant says.
        finished: False leaves the end token out.
    """
    return many_response_ids(tokenizer, [text])[0] + ([end_id(tokenizer)] if finished else [])


def many_response_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Ids]:
    """The tokens of many responses in one call, without the end of the turn."""
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return cast("list[Ids]", encoded["input_ids"])


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of some tokens, special ones left out."""
    return cast("str", tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


@lru_cache(maxsize=32)
def _end_id(tokenizer: PreTrainedTokenizerBase, template: str) -> int:
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    text = cast("str", tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False))
    after = text.rpartition("answer")[2].lstrip()
    written = [token for token in _special_tokens(tokenizer) if after.startswith(token)]
    token = max(written, key=len, default=tokenizer.eos_token or tokenizer.sep_token)
    return cast("int", tokenizer.convert_tokens_to_ids(token))


@lru_cache(maxsize=32)
def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


def _written_template(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """The named template with this tokenizer's own first token and end of turn in it."""
    if name not in TEMPLATES:
        near = difflib.get_close_matches(name, TEMPLATES, n=1)
        raise ConfigError(
            f"There is no chat template called {name!r}" + (f"; did you mean {near[0]!r}?" if near else "."),
            fix="Choose one of: " + ", ".join(TEMPLATES),
        )
    missing = {"<|im_start|>", "<|im_end|>"} - set(_special_tokens(tokenizer))
    if name == "chatml" and missing:
        raise ConfigError(
            "The chatml template needs tokens that this tokenizer lacks: " + ", ".join(sorted(missing)),
            fix="Choose the plain template.",
        )
    first = cast("list[int]", tokenizer("a")["input_ids"])[:1]
    names = {tokenizer.bos_token_id: "bos_token", tokenizer.cls_token_id: "cls_token"}
    start = f"{{{{ {names[first[0]]} }}}}" if first and first[0] in names else ""
    end = "{{ eos_token }}" if tokenizer.eos_token else "{{ sep_token }}"
    return TEMPLATES[name].replace("START", start).replace("END", end)
