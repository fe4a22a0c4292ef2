"""A run that nobody here has made: PPO-Lag at 70 billion parameters, from `equipoise plan` and arithmetic.

    python benchmarks/scaling.py

Memory is planned on a config of Llama-3-70B's shape; traffic and hours follow from the formulas that are printed
beside them. Nothing is measured: utilisations are assumptions, named as constants here.
"""

import argparse
import json
import tempfile
from pathlib import Path

from common import print_table

from equipoise.config import validate
from equipoise.plan.config import Options
from equipoise.plan.plan import Plan, gib, make_plan
from equipoise.train.ppo_config import PpoLagConfig

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, VOCABULARY = 8192, 28672, 80, 64, 8, 128256
NODES, GPUS = 16, 8
PROMPTS, BATCH, PROMPT, RESPONSE = 100_000, 1024, 512, 512
FLOPS, USED = 989e12, 0.4
"""bfloat16 of an H100, and the share of it that training and scoring reach."""
NETWORK, NETWORK_USED = 8 * 50e9, 0.75
"""Bytes per second in and out of a node (8 × 400 Gb/s), and the share that a collective operation reaches."""
HBM, HBM_USED = 3.35e12, 0.6
"""Bytes per second of a GPU's memory, and the share that decoding reaches."""
DISK = 5e9
"""Bytes per second of a shared file system, through which an engine is given weights."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro-batch", type=int, default=8)
    args = parser.parse_args()
    plan = planned(args.micro_batch)
    print_table("Memory of one GPU by role", ["role", "weights", "gradients", "optimizer"], by_role(plan))
    rows = [[name, gib(size)] for name, size in plan.memory.phases.items()]
    rows += [[f"of it {name}", gib(size)] for name, size in plan.memory.parts.items()]
    print_table("Memory of one GPU by phase", ["phase", "peak"], rows)
    passes = -(-BATCH // (NODES * GPUS) // args.micro_batch)
    print_table("A step", ["part", "what it takes", "s"], seconds(passes))


def planned(micro_batch: int) -> Plan:
    shape = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCABULARY, "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for role in ("policy", "reward", "cost"):
            folder = Path(name) / role
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")
            head = {"kind": role, "pooling": "last", "normalizer": {}}
            (folder / "score_head.json").write_text(json.dumps(head), encoding="utf-8")
            (folder / "score_head.safetensors").touch()
        length = PROMPT + RESPONSE
        judge = {"type": "model", "batch_size": BATCH // (NODES * GPUS), "max_length": length}
        tree = {
            "out": "unused", "actor": f"{name}/policy", "prompts": ["prompts.jsonl"], "ptx": ["demos.jsonl"],
            "reward": {**judge, "path": f"{name}/reward"}, "cost": {**judge, "path": f"{name}/cost"},
            "batch_size": BATCH, "micro_batch": micro_batch, "max_length": length, "max_prompt_length": PROMPT,
            "sampling": {"max_new_tokens": RESPONSE},
            "hardware": {"precision": "bfloat16", "shard": True, "gradient_checkpointing": True},
        }  # fmt: skip
        config = validate(PpoLagConfig, tree, where="scaling")
        return make_plan("ppo-lag", config, Options(gpu="h100", processes=NODES * GPUS))


def by_role(plan: Plan) -> list[list[str]]:
    sizes = [(r.name, r.weights, r.gradients, r.optimizer) for r in plan.memory.roles]
    sizes.append(("together", *(sum(size[k] for size in sizes) for k in (1, 2, 3))))
    return [[name, *map(gib, of_role)] for name, *of_role in sizes]


def seconds(passes: int) -> list[list[str]]:
    """Every part of a step, without overlap of sending and computing."""
    backbone = LAYERS * HIDDEN * (2 * HIDDEN + 2 * HIDDEN * KV_HEADS // HEADS + 3 * INNER) + HIDDEN * VOCABULARY
    policy = backbone + HIDDEN * VOCABULARY
    mine = BATCH // (NODES * GPUS) * (PROMPT + RESPONSE)  # tokens of one GPU
    rate, link, memory = FLOPS * USED, NETWORK * NETWORK_USED, HBM * HBM_USED
    cache = 2 * LAYERS * KV_HEADS * HIDDEN // HEADS * 2  # bytes of keys and values per token
    held = BATCH // NODES * (PROMPT + RESPONSE / 2) * cache / GPUS  # on one GPU, on average, spread over a node
    decode = RESPONSE * (2 * policy / GPUS + held) / memory
    prefill = 2 * policy * BATCH // NODES * PROMPT / GPUS / rate
    trained = (("critics", 2 * backbone), ("actor", policy), ("PTX", policy))
    table = [
        ["sync by files", f"2 × {2 * policy / 1e9:.0f} GB, written and read", f"{2 * 2 * policy / DISK:.1f}"],
        ["sync by network", f"{2 * policy / 1e9:.0f} GB into each node", f"{2 * policy / link:.1f}"],
        ["prefill", f"2 × {policy / 1e9:.1f} B × {BATCH // NODES * PROMPT} tokens per node", f"{prefill:.1f}"],
        ["decode", f"{RESPONSE} × {(2 * policy / GPUS + held) / 1e9:.1f} GB from a GPU's memory", f"{decode:.1f}"],
        ["score: compute", f"2 × {(policy + 2 * backbone) / 1e9:.1f} B × {mine} tokens per GPU",
         f"{2 * (policy + 2 * backbone) * mine / rate:.1f}"],
        ["score: gather", f"{2 * (policy + 2 * backbone) / 1e9:.0f} GB into each node",
         f"{2 * (policy + 2 * backbone) / link:.1f}"],
    ]  # fmt: skip
    for name, weights in trained:
        sent = passes * (2 + 2) * 2 * weights  # gathered twice, and gradients of twice the width once
        table.append([f"{name}: compute", f"8 × {weights / 1e9:.1f} B × {mine} tokens per GPU",
                      f"{8 * weights * mine / rate:.1f}"])  # fmt: skip
        table.append([f"{name}: gather, reduce", f"{passes} × 8 × {weights / 1e9:.1f} B = {sent / 1e9:.0f} GB",
                      f"{sent / link:.1f}"])  # fmt: skip
    total = sum(float(row[2]) for row in table if row[0] != "sync by files")
    hours = total * PROMPTS / BATCH / 3600
    table.append(
        ["step", f"{PROMPTS:,} prompts: {hours:.1f} h, {hours * NODES * GPUS:.0f} GPU hours", f"{total:.1f}"]
    )
    return table


if __name__ == "__main__":
    main()
