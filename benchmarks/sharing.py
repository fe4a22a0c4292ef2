"""One training pass over G answers to each prompt: the prompt read once, against a reading with each answer.

    python benchmarks/sharing.py --threads 1 --clock process --micro-batch 16 --out sharing.json

As many answers whatever G; random weights and tokens, lengths of answers geometric or all full. Both ways in turn,
medians of `--rounds` forward and backward passes of the actor over the whole batch, in micro-batches, as in a
step.
The gradients of both are compared, too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from common import Case, arguments, cases, median, print_table, write_result
from torch import Tensor
from transformers import PreTrainedModel

from equipoise.models import sharing
from equipoise.models.backbone import load_causal_lm
from equipoise.rollout.config import Sampling
from equipoise.tokens.batches import Rollout, by_length, rows, trim
from equipoise.train.forward import actor_log_probs

SAMPLES = (1, 2, 4, 8)
WAYS = {"alone": 0.0, "shared": sharing.GAIN}
"""The share of the work that a new layout may leave: with 0 there is none."""


@dataclass(frozen=True)
class Found:
    """Both ways at one G."""

    samples: int
    seconds: dict[str, float]
    tokens: dict[str, int]  # that the actor reads, padding included
    difference: float  # of the gradients, largest, as a share of the largest entry


def compared(samples: int, case: Case, rounds: int) -> Found:
    model = load_causal_lm(case.world / "policy", dtype=getattr(torch, case.precision), device=case.device)
    rollout = drawn(samples, case, model.config.vocab_size)
    counts: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: counts.append(given[0].numel()))
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    gradients: dict[str, Tensor] = {}
    tokens: dict[str, int] = {}
    for _ in range(rounds + 1):
        for way, gain in WAYS.items():
            counts.clear()
            model.zero_grad()
            began = case.now()
            with allowed(gain):
                learn(model, rollout, case)
            seconds[way].append(case.now() - began)
            tokens[way] = sum(counts)
            gradients[way] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    one, other = gradients.values()
    difference = float((one - other).abs().max() / one.abs().max())
    return Found(samples, {way: median(all_[1:]) for way, all_ in seconds.items()}, tokens, difference)


def learn(model: PreTrainedModel, rollout: Rollout, case: Case) -> None:
    for part in by_length(rollout, case.micro_batch):
        (-actor_log_probs(model, trim(rows(rollout, part)), Sampling()).sum() / case.batch).backward()


def drawn(samples: int, case: Case, vocabulary: int) -> Rollout:
    """`case.batch` answers, `samples` to each prompt."""
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(6, vocabulary, (case.batch // samples, case.prompt), generator=draw).repeat_interleave(
        samples, dim=0
    )
    answers = torch.randint(6, vocabulary, (case.batch, case.response), generator=draw)
    ended = torch.rand(answers.shape, generator=draw) < case.end_share
    mask = ended.cumsum(dim=1) - ended.long() == 0
    seen = torch.cat([torch.ones_like(prompts, dtype=torch.bool), mask], dim=1)
    ids = torch.cat([prompts, answers.masked_fill(~mask, 0)], dim=1)
    return Rollout(ids, seen, mask, torch.zeros(mask.shape), ended.any(dim=1)).to(case.device)


@contextmanager
def allowed(gain: float) -> Iterator[None]:
    before, sharing.GAIN = sharing.GAIN, gain
    try:
        yield
    finally:
        sharing.GAIN = before


def main() -> None:
    args = arguments(__doc__, sizes=("1m", "10m")).parse_args()
    results: list[dict[str, Any]] = []
    for case in cases(args):
        found = [compared(samples, case, args.rounds) for samples in SAMPLES if samples <= case.batch]
        print_table(
            f"{case.size}, {case.lengths}: {case.batch} answers to prompts of {case.prompt} tokens",
            ["G", "tokens alone", "tokens shared", "seconds alone", "seconds shared", "ratio", "gradients differ"],
            [
                [
                    one.samples,
                    *one.tokens.values(),
                    *(f"{value:.2f}" for value in one.seconds.values()),
                    f"{one.seconds['alone'] / one.seconds['shared']:.2f}",
                    f"{one.difference:.0e}",
                ]
                for one in found
            ],
        )
        results += [{"size": case.size, "lengths": case.lengths, **vars(one)} for one in found]
    write_result(args.out, results)


if __name__ == "__main__":
    main()
