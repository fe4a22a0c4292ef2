"""What the speed benchmarks share: models with random weights and known lengths, turns, medians, tables.

Every benchmark reads a "world": a directory with a policy, a reward and a cost model, prompts and demonstrations.
The lengths of responses are in the policy's weights, so that every library samples the same distribution without a
hook: no weight writes to hidden unit 0, which therefore is the same for every token, and the language-model head
reads from it how likely the end token is.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from equipoise.config import validate
from equipoise.models.backbone import save_policy
from equipoise.models.score_head import HeadSettings, save_scorer, scorer_from
from equipoise.train.config import LoraSettings
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.setup import train_adapter

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>", "<user>", "<assistant>")
TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{{ '<eos>' if m['role'] == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
PROMPTS = 256
RANK = 16
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
NEVER = -30.0
"""The logit of a token that is never drawn; those of words are about 0."""


class Shape(NamedTuple):
    """A Llama with untied embeddings."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int

    @property
    def layer_weights(self) -> int:
        """Of the linear maps of one layer."""
        kv = self.hidden * self.kv_heads // self.heads
        return 2 * self.hidden * (self.hidden + kv) + 3 * self.hidden * self.intermediate

    def adapter(self, rank: int) -> int:
        """Weights of an adapter on all linear maps of all layers."""
        kv = self.hidden * self.kv_heads // self.heads
        attention = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + kv)
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))

    @property
    def table(self) -> int:
        """Weights of the embeddings, and of the head."""
        return self.hidden * self.vocabulary


SIZES = {
    "tiny": Shape(32, 1, 2, 2, 64, 64),
    "small": Shape(64, 2, 2, 2, 128, 512),
    "1m": Shape(128, 3, 4, 4, 344, 2048),
    "10m": Shape(320, 6, 5, 5, 864, 4096),
    "60m": Shape(640, 8, 10, 10, 1728, 16384),
    "1b": Shape(2048, 16, 32, 8, 8192, 128256),
    "8b": Shape(4096, 32, 32, 8, 14336, 128256),
}
LARGE = ("1b", "8b")  # on disk in bfloat16
LENGTHS = ("fixed", "geometric")


@dataclass(frozen=True)
class Case:
    """What is measured, the same for every peer."""

    world: Path
    size: str
    lengths: str
    batch: int
    prompt: int  # tokens, exactly
    response: int  # tokens at most
    device: str
    precision: str
    threads: int
    micro_batch: int | None  # ours only: responses of similar length together
    ptx: bool  # ours and the original's structure only
    clock: str
    rank: int | None = None  # ours only: all roles as adapters of this rank on one base

    def now(self) -> float:
        """Seconds, once the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return CLOCKS[self.clock]()

    @property
    def end_share(self) -> float:
        """p(end) at each token: 0, or such that a response has half of the limit on average."""
        if self.lengths == "fixed":
            return 0.0
        low, high = 0.0, 1.0  # the mean Σ_{t<n} (1 − p)^t falls with p
        for _ in range(60):
            p = (low + high) / 2
            mean = sum((1 - p) ** t for t in range(self.response))
            low, high = (p, high) if mean > self.response / 2 else (low, p)
        return low


def arguments(description: str | None, sizes: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all these benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(sizes))
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=5, help="timed steps; the median of them counts")
    parser.add_argument("--batch", type=int, default=32, help="prompts per step, and demonstrations per step")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--response", type=int, default=128, help="most tokens of a response")
    parser.add_argument("--micro-batch", type=int, help="ours: sequences per forward pass; unset: the whole batch")
    parser.add_argument("--no-ptx", action="store_true", help="without the batch of demonstrations")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="process: CPU time, for busy machines")
    parser.add_argument("--world", type=Path, default=Path("runs/benchmark"), help="where the models are written")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    parser.add_argument("--quick", action="store_true", help="a smoke test: a tiny model, one timed step")
    return parser


def cases(args: argparse.Namespace) -> list[Case]:
    """Every size with every kind of length, the models on disk."""
    if args.clock == "process" and (args.threads > 1 or args.device != "cpu"):
        raise SystemExit("--clock process adds up the CPU time of all threads: it needs --threads 1 on a CPU")
    if args.quick:
        args.sizes, args.rounds, args.batch, args.prompt, args.response = ["tiny"], 1, 4, 8, 8
    torch.set_num_threads(args.threads)
    found = []
    for size in args.sizes:
        for lengths in args.lengths:
            case = Case(
                world=args.world / f"{size}-{lengths}-{args.prompt}-{args.response}",
                size=size,
                lengths=lengths,
                batch=args.batch,
                prompt=args.prompt,
                response=args.response,
                device=args.device,
                precision=args.precision,
                threads=args.threads,
                micro_batch=args.micro_batch,
                ptx=not args.no_ptx,
                clock=args.clock,
            )
            make_world(case)
            found.append(case)
    return found


def make_world(case: Case) -> None:
    """Write models and data, unless they are there."""
    folder = case.world
    if (folder / "complete").exists():
        return
    tokenizer = make_tokenizer(SIZES[case.size].vocabulary)
    save_policy(_policy(case, tokenizer), tokenizer, folder / "policy")
    for seed, kind in enumerate(("reward", "cost")):
        settings = HeadSettings("reward" if kind == "reward" else "cost")
        scorer = scorer_from(folder / "policy", seed=seed, dtype="auto")
        save_scorer(scorer, tokenizer, folder / kind, settings)
        train_adapter(scorer.backbone, kind, LoraSettings(r=RANK), seed)
        save_scorer(scorer, tokenizer, folder / f"lora-{kind}", settings)
    draw = random.Random(0)
    asked = [_words(draw, case, case.prompt - 3) for _ in range(PROMPTS)]  # <bos> <user> … <assistant>
    turns = [{"role": "user", "content": text} for text in asked]
    write_lines(folder / "prompts.jsonl", [{"messages": [turn]} for turn in turns])
    answers = [_words(draw, case, _drawn_length(draw, case) - 1) for _ in range(PROMPTS)]  # … <eos>
    write_lines(
        folder / "demonstrations.jsonl",
        [
            {"messages": [turn, {"role": "assistant", "content": answer}]}
            for turn, answer in zip(turns, answers, strict=True)
        ],
    )
    (folder / "complete").touch()


def ppo_config(case: Case, out: Path, steps: int) -> PpoLagConfig:
    """A run of ours on a world; learning rates so small that lengths stay what they are."""
    model = {"type": "model", "max_length": case.prompt + case.response + 8, "batch_size": case.micro_batch or 64}
    judges = {kind: case.world / (f"lora-{kind}" if case.rank else kind) for kind in ("reward", "cost")}
    tree: dict[str, Any] = {
        "out": out, "actor": case.world / "policy", "steps": steps, "batch_size": case.batch,
        **{kind: {**model, "path": path} for kind, path in judges.items()},
        "lora": {"r": case.rank} if case.rank else None,
        "prompts": [{"path": str(case.world / "prompts.jsonl")}], "max_prompt_length": case.prompt,
        "ptx": [{"path": str(case.world / "demonstrations.jsonl")}] if case.ptx else [],
        "max_length": case.prompt + case.response, "sampling": {"max_new_tokens": case.response},
        "hardware": {"device": case.device, "precision": case.precision, "threads": case.threads},
        "actor_optimizer": {"lr": 1e-7}, "critic_optimizer": {"lr": 1e-7}, "micro_batch": case.micro_batch,
        "checkpoint_every": 10**9,
    }  # fmt: skip
    return validate(PpoLagConfig, tree, where="benchmark")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """Half the range of the middle half, as a share of the median: how noisy the machine was."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]
    return (middle[-1] - middle[0]) / 2 / median(values)


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table, so that it can go into a page as it is."""
    lines = [head, ["---"] * len(head), *rows]
    print(f"\n{title}\n")
    for line in lines:
        print("| " + " | ".join(map(str, line)) + " |")


def write_result(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """The numbers and the machine that they hold for."""
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": os.getloadavg(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        tree = {"machine": machine, "rows": list(rows)}
        path.write_text(json.dumps(tree, indent=1, default=str) + "\n", encoding="utf-8")


def facts(case: Case) -> dict[str, Any]:
    """A case for the JSON file, without where it lies."""
    return {key: value for key, value in asdict(case).items() if key != "world"}


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    names = (*SPECIALS, *(f"w{n}" for n in range(vocabulary - len(SPECIALS))))
    backend = Tokenizer(WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>",
        additional_special_tokens=["<user>", "<assistant>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@torch.no_grad()
def _policy(case: Case, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama that draws words alike, the end token with probability `end_share`, other special tokens never."""
    shape = SIZES[case.size]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
            intermediate_size=shape.intermediate, tie_word_embeddings=False,
            max_position_embeddings=2 * (case.prompt + case.response), bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    root = math.sqrt(shape.hidden)
    model.model.embed_tokens.weight[:, 0] = 100 * 0.02 * root  # far above what the layers add to the others
    for layer in model.model.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight[0] = 0.0
    head: nn.Linear = model.lm_head
    head.weight[:, 0] = 0.0
    head.weight[: len(SPECIALS)] = 0.0
    head.weight[: len(SPECIALS), 0] = NEVER / root  # after the last norm, unit 0 is √H
    p, words = case.end_share, shape.vocabulary - len(SPECIALS)
    if p > 0:
        head.weight[tokenizer.eos_token_id, 0] = math.log(words * p / (1 - p)) / root
    return model.to(torch.bfloat16) if case.size in LARGE else model


def _words(draw: random.Random, case: Case, count: int) -> str:
    words = SIZES[case.size].vocabulary - len(SPECIALS)
    return " ".join(f"w{draw.randrange(words)}" for _ in range(count))


def _drawn_length(draw: random.Random, case: Case) -> int:
    """Tokens of a demonstration's answer, end token included: as those of a response."""
    length = 2  # an empty answer is no demonstration
    while length < case.response and draw.random() >= case.end_share:
        length += 1
    return length


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
