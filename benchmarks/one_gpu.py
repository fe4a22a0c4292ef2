"""Does Safe RLHF of an 8 B model fit one GPU? Two PPO-Lag steps with a recipe's settings, beside what was planned.

    python benchmarks/one_gpu.py --recipe 1x80 --out runs/1x80.json
    python benchmarks/one_gpu.py --recipe 1x24 --out runs/1x24.json

Six roles are adapters on one base of the shape of Llama 3 8B, prompts of 512 and responses of at most 512 tokens.
The weights are random: made on the device tensor by tensor and written layer by layer, so that the host never
holds more than one layer of them. Needs 40 GB of disk, half of it where temporary files go, and memory of the host
for the base once (it is merged there in the end); `1x24` needs the extra `quant`.
"""

import argparse
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from common import LARGE, SIZES, Shape, make_tokenizer, print_table, write_lines, write_result
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from equipoise.artefact import write_json
from equipoise.cli.layering import find_recipe
from equipoise.config import merge, read_toml, validate
from equipoise.models.adapters import BASE, Base, adapted_layers, add_adapter, base_at, save_adapter
from equipoise.models.files import ADAPTER
from equipoise.models.score_head import HEAD_FILE, HEAD_SETTINGS
from equipoise.plan.config import GPUS, Options, fits
from equipoise.plan.plan import make_plan
from equipoise.train.ppo_config import PpoLagConfig

STEPS = 2
"""So that optimizer states exist in the last one."""
GPU_OF = {"1x24": "a10", "1x80": "h100"}


@dataclass(frozen=True)
class Run:
    """What is measured."""

    world: Path
    recipe: str
    size: str = "8b"
    prompt: int = 512  # tokens, exactly
    response: int = 512  # tokens at most; an end token is as likely as any other
    device: str = "cuda"
    precision: str = "bfloat16"

    @property
    def length(self) -> int:
        return self.prompt + self.response


@dataclass(frozen=True)
class Peak:
    """Bytes."""

    predicted: int
    measured: int
    fits: bool  # whether what was measured leaves a tenth of the recipe's GPU free

    @property
    def off_by(self) -> float:
        """+0.1: a tenth too much was predicted."""
        return self.predicted / self.measured - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=GPU_OF, required=True)
    parser.add_argument("--size", choices=LARGE, default="8b")
    parser.add_argument("--world", type=Path, default=Path("runs/benchmark/one-gpu"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    run = Run(args.world, args.recipe, args.size)
    found = measure(run, {})
    sizes = [f"{size / 2**30:.2f}" for size in (found.predicted, found.measured)]
    head = ["recipe", "model", "predicted (GiB)", "measured (GiB)", "off by", f"fits {GPU_OF[run.recipe]}"]
    print_table("Peak memory", head, [[run.recipe, run.size, *sizes, f"{found.off_by:+.1%}", found.fits]])
    write_result(args.out, [asdict(found) | {"recipe": run.recipe, "size": run.size}])


def measure(run: Run, changes: Mapping[str, Any]) -> Peak:
    """Plan and take a few steps.

    Args:
        run: What to measure.
        changes: To the settings of the recipe.
    """
    config = settings(run, changes)
    make_world(run, config)
    plan = make_plan("ppo-lag", config, Options(probe=STEPS))
    assert plan.probed is not None
    [gpu] = [gpu for gpu in GPUS if gpu.name == GPU_OF[run.recipe]]
    return Peak(plan.memory.peak, plan.probed.peak, fits(gpu, plan.probed.peak))


def settings(run: Run, changes: Mapping[str, Any]) -> PpoLagConfig:
    """Those of the recipe, with the lengths of the run."""
    folder = run.world
    judges = {kind: {"path": str(folder / kind), "max_length": run.length} for kind in ("reward", "cost")}
    given = {
        "out": "unused", "actor": str(folder / "policy"), "prompts": [str(folder / "prompts.jsonl")],
        "ptx": [str(folder / "demonstrations.jsonl")], "max_prompt_length": run.prompt, "max_length": run.length,
        "sampling": {"max_new_tokens": run.response},
        "hardware": {"device": run.device, "precision": run.precision}, **judges,
    }  # fmt: skip
    recipe = read_toml(find_recipe(run.recipe))["ppo_lag"]
    return validate(PpoLagConfig, merge([recipe, given, changes]), where=run.recipe)


def make_world(run: Run, config: PpoLagConfig) -> None:
    """Write a policy, two score models that are adapters on it, and data, unless they are there."""
    folder = run.world
    if (folder / "complete").exists():
        return
    assert config.lora is not None
    shape = SIZES[run.size]
    tokenizer = make_tokenizer(shape.vocabulary)
    generator = torch.Generator(run.device).manual_seed(0)
    write_policy(folder / "policy", llama(shape, run), generator)
    tokenizer.save_pretrained(str(folder / "policy"))
    base, lora = base_at(folder / "policy"), config.lora
    for kind in ("reward", "cost"):
        write_judge(folder / kind, base, kind, LoraConfig(r=lora.r, lora_alpha=lora.alpha))
        tokenizer.save_pretrained(str(folder / kind))
    draw, count = random.Random(0), STEPS * max(config.batch_size, config.ptx_batch_size or 0)

    def words(number: int) -> str:
        return " ".join(f"w{draw.randrange(shape.vocabulary // 2)}" for _ in range(number))

    # in their places: <bos> <user> … <assistant> … <eos>
    turns = [{"role": "user", "content": words(run.prompt - 3)} for _ in range(count)]
    answers = [{"role": "assistant", "content": words(run.response - 1)} for _ in range(count)]
    write_lines(folder / "prompts.jsonl", [{"messages": [turn]} for turn in turns])
    shown = [{"messages": list(pair)} for pair in zip(turns, answers, strict=True)]
    write_lines(folder / "demonstrations.jsonl", shown)
    (folder / "complete").touch()


def llama(shape: Shape, run: Run) -> LlamaConfig:
    """Llama 3's architecture; the tokens are those of `make_tokenizer`."""
    return LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.intermediate,
        max_position_embeddings=run.length, tie_word_embeddings=False, pad_token_id=0, bos_token_id=2,
        eos_token_id=3, dtype=run.precision,
    )  # fmt: skip


def write_policy(folder: Path, config: LlamaConfig, generator: torch.Generator) -> None:
    """A model's folder; each weight is drawn on the generator's device, each layer a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    with torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(config, dtype=config.dtype).state_dict()
    units = [(unit, list(names)) for unit, names in groupby(weights, _unit)]
    places, size = {}, 0
    for number, (_, names) in enumerate(units, start=1):
        file = f"model-{number:05d}-of-{len(units):05d}.safetensors"
        save_file({name: drawn(weights[name], generator) for name in names}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(names, file)
        size += sum(weights[name].nbytes for name in names)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def _unit(name: str) -> str:
    """The layer that a weight belongs to, or its own name."""
    parts = name.split(".")
    return ".".join(parts[:3]) if "layers" in parts else name


def drawn(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Contents for a weight that has a shape alone: norms are 1."""
    if weight.ndim == 1:
        return torch.ones(weight.shape, dtype=weight.dtype)
    drawn = torch.randn(weight.shape, dtype=weight.dtype, device=generator.device, generator=generator)
    return drawn.mul_(0.02).cpu()


def write_judge(folder: Path, base: Base, kind: str, shape: LoraConfig) -> None:
    """What of a score model a shared base needs: adapter and head, and no weights of a model."""
    (folder / ADAPTER).mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModel.from_config(LlamaConfig.from_pretrained(base.path))
        shape.target_modules = "all-linear"
        add_adapter(model, kind, shape, seed=0)
    model.config.save_pretrained(str(folder))
    generator = torch.Generator().manual_seed(1)
    for _, layer in adapted_layers(model):
        for matrices in (layer.lora_A, layer.lora_B):
            matrices[kind].to_empty(device="cpu")
            with torch.no_grad():
                matrices[kind].weight.normal_(std=0.01, generator=generator)
    save_adapter(model, folder / ADAPTER)
    write_json(folder / ADAPTER / BASE, asdict(base))
    width: int = model.config.hidden_size
    head = {"weight": torch.randn(1, width, generator=generator) / math.sqrt(width), "bias": torch.zeros(1)}
    save_file(head, folder / HEAD_FILE)
    write_json(folder / HEAD_SETTINGS, {"kind": kind, "pooling": "last", "normalizer": {}})


if __name__ == "__main__":
    main()
