"""Peak memory of one training pass of an actor with a vocabulary of 128 256, each way in a process of its own.

    python benchmarks/logits.py --out logits.json

The peak is counted above weights, gradients and optimizer, which are there before the pass. `every position` is
`model(...).logits.log_softmax(-1)`, `response` has logits of the response alone. The bar: ours takes at most a
tenth of `every position`. On a CPU it is resident memory, on a GPU what torch had allocated.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import print_table, write_result
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from equipoise.algos.logprobs import response_log_probs
from equipoise.models.backbone import causal_logits, logits_at
from equipoise.plan.probe import resident
from equipoise.rollout.config import Sampling
from equipoise.tokens.batches import Rollout
from equipoise.train.forward import actor_log_probs

VOCABULARY = 128256
PROMPT = 32
BAR = 0.1
MIB = 2**20


def every_position(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    width = rollout.response_mask.shape[1]
    log_probs = causal_logits(model, rollout.input_ids, rollout.attention_mask).float().log_softmax(-1)
    return log_probs[:, -width - 1 : -1].gather(-1, rollout.input_ids[:, -width:, None]).squeeze(-1)


def response(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    width = rollout.response_mask.shape[1]
    picked = torch.zeros_like(rollout.attention_mask)
    picked[:, -width - 1 : -1] = True
    logits = logits_at(model, rollout.input_ids, rollout.attention_mask, picked).unflatten(0, (-1, width))
    return response_log_probs(logits, rollout.input_ids, rollout.attention_mask)


def ours(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    return actor_log_probs(model, rollout, Sampling())


WAYS: dict[str, Callable[[PreTrainedModel, Rollout], Tensor]] = {
    "every position": every_position,
    "response": response,
    "equipoise": ours,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--response", type=int, default=256, help="tokens of each response")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--one", choices=WAYS, help="measure one way in this process")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    found = {way: in_process(way) for way in WAYS}
    most = found["every position"]["peak"]
    table = [
        [way, f"{one['peak'] / MIB:.0f}", f"{one['peak'] / most:.3f}", f"{one['seconds']:.1f}"]
        for way, one in found.items()
    ]
    print_table(
        f"{args.batch} responses of {args.response} tokens, hidden size {args.hidden}, float32, {args.device}",
        ["logits of", "peak (MiB)", "share", "seconds"],
        table,
    )
    write_result(args.out, [{"way": way, **one} for way, one in found.items()])
    if found["equipoise"]["peak"] > BAR * most:
        raise SystemExit(f"The bar is missed: more than {BAR} of the naive peak.")


def in_process(way: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--one", way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Peak bytes and seconds of one forward and backward pass."""
    shape = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=args.hidden, intermediate_size=2 * args.hidden, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=PROMPT + args.response, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(shape).to(args.device).eval()
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 1e-9)
    WAYS[args.one](model, drawn(1, 2, args.device)).sum().backward()  # what is loaded once
    rollout = drawn(args.batch, args.response, args.device)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if args.device == "cuda" else resident("VmRSS")
    began = time.perf_counter()
    WAYS[args.one](model, rollout).sum().backward()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() if args.device == "cuda" else resident("VmHWM")
    return {"peak": peak - before, "seconds": seconds}


def drawn(batch: int, response: int, device: str) -> Rollout:
    ids = torch.randint(VOCABULARY, (batch, PROMPT + response), device=device)
    seen = torch.ones_like(ids, dtype=torch.bool)
    return Rollout(ids, seen, seen[:, PROMPT:], torch.zeros(batch, response, device=device), seen[:, 0])


if __name__ == "__main__":
    main()
