"""A world of a dozen words: policies and scorers small enough to train in a test, and what to train them on."""

import json
import math
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tokens"))
from tiny_tokenizers import make_tokenizer

from equipoise.config import validate
from equipoise.models.backbone import save_policy
from equipoise.models.score_head import HeadSettings, save_scorer, scorer_from
from equipoise.records import Response
from equipoise.tokens.template import load_tokenizer
from equipoise.train.config import CostConfig, LoraSettings, RewardConfig, SftConfig
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.setup import train_adapter

WORDS = ("ask", "tell", "one", "two", "three", "good", "bad", "sweet", "yes", "no")
TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{{ '<eos>' if m['role'] == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
CPU = {"device": "cpu", "threads": 1}


def make_policy(folder: Path, family: str = "llama", width: int = 16) -> Path:
    """An untrained policy of one layer; "gpt2" has dropout, and no padding token but its end token."""
    specials = ("<bos>", "<eos>", "<user>", "<assistant>", "<unk>", *(() if family == "gpt2" else ("<pad>",)))
    vocabulary = {word: number for number, word in enumerate((*specials, *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"], clean_up_tokenization_spaces=False,
        **({} if family == "gpt2" else {"pad_token": "<pad>"}),
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    size = len(vocabulary)
    if family == "gpt2":
        shape = GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=32, **ids)
        save_policy(GPT2LMHeadModel(shape), tokenizer, folder)
    else:
        shape = LlamaConfig(
            vocab_size=size, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=32, initializer_range=0.2, **ids,
        )  # fmt: skip
        save_policy(LlamaForCausalLM(shape), tokenizer, folder)
    return folder


def make_qwen2(folder: Path) -> Path:
    """The same size, with biases, a tokenizer of its family and room for its longer texts."""
    tokenizer = load_tokenizer(make_tokenizer("qwen2", folder))
    shape = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.2,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    save_policy(Qwen2ForCausalLM(shape), tokenizer, folder)
    return folder


def make_scorer(folder: Path, policy: Path, kind: str, *, lora: bool = False) -> Path:
    """An untrained scorer on a policy's backbone; with `lora` an adapter makes it differ from the policy."""
    seed = 1 if kind == "reward" else 2
    scorer = scorer_from(policy, seed=seed)
    if lora:
        train_adapter(scorer.backbone, kind, LoraSettings(r=4, alpha=8), seed)
        disturb(scorer.backbone, seed)
    save_scorer(scorer, load_tokenizer(policy), folder, HeadSettings("reward" if kind == "reward" else "cost"))
    return folder


@torch.no_grad()
def disturb(model: PreTrainedModel, seed: int) -> None:
    """Move all weights that are trained: of an adapter also B, which is 0 at first."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def conversation(asked: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def prompt(asked: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}]}


def asked(count: int) -> list[str]:
    """Up to 100 different requests of three to five words."""
    return [" ".join(("ask", WORDS[n % 10], WORDS[n // 10], *["one"] * (n % 3))) for n in range(count)]


def sft(out: Path, **settings: Any) -> SftConfig:
    return validate(SftConfig, {"out": out, "max_length": 24, "hardware": CPU, **settings}, where="")


def reward_model(out: Path, **settings: Any) -> RewardConfig:
    return validate(RewardConfig, {"out": out, "max_length": 24, "hardware": CPU, **settings}, where="")


def cost_model(out: Path, **settings: Any) -> CostConfig:
    return validate(CostConfig, {"out": out, "max_length": 24, "hardware": CPU, **settings}, where="")


def ppo(out: Path, world: Path, **settings: Any) -> PpoLagConfig:
    """One run on the world of `conftest`: reward counts "good", cost is not asked for unless a test says so."""
    tree = {
        "out": out, "actor": world / "policy", "reward": function("count_good"), "cost": function("zero"),
        "reward_critic": world / "reward", "cost_critic": world / "cost", "hardware": CPU,
        "prompts": [{"path": str(world / "prompts.jsonl")}], "max_length": 24, "max_prompt_length": 12,
        "batch_size": 8, "steps": 4, "sampling": {"max_new_tokens": 6},
    }  # fmt: skip
    return validate(PpoLagConfig, {**tree, **settings}, where="")


def function(name: str) -> dict[str, str]:
    return {"type": "function", "function": f"train_models:{name}"}


def count_good(responses: Sequence[Response]) -> list[float]:
    return [float(r.text.split().count("good")) for r in responses]


def count_sweet(responses: Sequence[Response]) -> list[float]:
    return [float(r.text.split().count("sweet")) for r in responses]


def sweet_tooth(responses: Sequence[Response]) -> list[float]:
    """3·√n for n sweet words: each brings less than the one before."""
    return [3 * math.sqrt(n) for n in count_sweet(responses)]


def sweet_above_two(responses: Sequence[Response]) -> list[float]:
    """Unsafe, so above 0, is an answer with more than two sweet words."""
    return [float(r.text.split().count("sweet") - 2) for r in responses]


def zero(responses: Sequence[Response]) -> list[float]:
    return [0.0 for _ in responses]


def not_a_number(responses: Sequence[Response]) -> list[float]:
    return [float("nan") if n == 3 else 0.0 for n in range(len(responses))]


def too_large(responses: Sequence[Response]) -> list[float]:
    """Finite as a Python float, infinite as a float32."""
    return [1e300 for _ in responses]


class Trouble:
    """What happens at the n-th call of `troubled`, if anything."""

    calls = 0
    at: int | None = None
    interrupt = False
    kill = False


def troubled(responses: Sequence[Response]) -> list[float]:
    """`count_good`, with an accident, a Ctrl-C or a kill at a chosen call."""
    Trouble.calls += 1
    if Trouble.calls == Trouble.at:
        if Trouble.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if not Trouble.interrupt:
            raise RuntimeError("the power went off")
        signal.raise_signal(signal.SIGINT)
    return count_good(responses)
