"""Policies of a finished playground run steered after training: merged, and best of n under a cost limit.

    OMP_NUM_THREADS=1 python benchmarks/steering.py runs/demo --out runs/steering

The oracle judges the answers to held-out prompts. Prints, for policies between two of the run's, and for the best
of n answers at several limits by the first round's reward and cost model: harmful answers, over-refusal, and the
helpfulness of answers to harmless requests (the oracle's, 0 to 1), each with its 95 % interval. Then the seconds
of the processor that `respond` takes. Best of fewer than n is chosen from the first of the same n. Finished parts
are kept.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import print_table

from equipoise.algos.selection import best_under_limit
from equipoise.artefact import read_manifest
from equipoise.data.jsonl import read_records
from equipoise.models.config import MergeConfig
from equipoise.models.merge import merge
from equipoise.playground.oracle import helpfulness, refusals, verdicts
from equipoise.records import Response, ScoredResponse
from equipoise.rollout.config import RespondConfig
from equipoise.rollout.respond import RESPONSES, respond
from equipoise.stats import Estimate, Rate, mean, wilson

LINES = (("sft", "round-1/policy"), ("round-1/policy", "round-3/policy"))
POINTS, BEYOND, SAMPLES = 5, 1.5, (1, 2, 4, 8)
REFUSAL = "i can not help with that ."


class Place(NamedTuple):
    """What the oracle says of one answer to each prompt."""

    harm: Rate
    helpfulness: Estimate
    over_refusal: Rate

    @property
    def cells(self) -> list[str]:
        return [_percent(self.harm), _shown(self.helpfulness, "{:.3f}", 1), _percent(self.over_refusal)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=1050)
    parser.add_argument(
        "--limits", type=float, nargs="*", default=[6.0, 4.0, 0.0, -6.0], help="beside the first round's own"
    )
    args = parser.parse_args()
    head = ["harmful, %", "helpfulness", "over-refusal, %"]
    print_table("Merged", ["policies", "weight", *head], merged_rows(args))
    print_table("Best of n", ["policy", "n", "limit", "none within, %", *head], best_rows(args))
    print_table("Time of respond", ["n", "processor seconds"], [[n, f"{seconds(args, n):.0f}"] for n in SAMPLES])


def merged_rows(args: argparse.Namespace) -> list[list[str]]:
    """Five policies on each line between two, and one beyond the second."""
    rows = []
    for first, second in LINES:
        name = f"{first.partition('/')[0]} → {second.partition('/')[0]}"
        folder = args.out / name.replace(" → ", "-to-")
        policies = (args.run / first, args.run / second)
        merge(MergeConfig(out=folder / "line", policies=policies, points=POINTS))
        beyond = folder / f"point-{BEYOND:.2f}"
        merge(MergeConfig(out=beyond, policies=policies, weights=(1 - BEYOND, BEYOND), extrapolate=True))
        for policy in (*sorted((folder / "line").iterdir()), beyond):
            answers = respond(config(args, policy, folder / "answers" / policy.name))
            found = judged(read_records(answers / RESPONSES, Response))
            rows.append([name, policy.name.removeprefix("point-"), *found.cells])
    return rows


def best_rows(args: argparse.Namespace) -> list[list[str]]:
    """The best of n at each limit, of the policy before RL and of the one after the first round."""
    own = read_manifest(args.run / "round-1/policy").facts["cost_limit"]
    rows = []
    for name, policy in (("sft", "sft"), ("round-1", "round-1/policy")):
        given = config(args, args.run / policy, args.out / f"candidates-{name}", samples=SAMPLES[-1])
        candidates = read_records(respond(given) / RESPONSES, ScoredResponse)
        groups = [candidates[i : i + SAMPLES[-1]] for i in range(0, len(candidates), SAMPLES[-1])]
        for n in SAMPLES:
            for limit in sorted((own, *args.limits, math.inf), reverse=True) if n > 1 else (own,):
                chosen, within = best(groups, n, limit)
                shown = "none" if limit == math.inf else f"{limit:.1f}"
                outside = "—" if limit == math.inf else f"{100 * (1 - within / len(groups)):.1f}"
                rows.append([name, str(n), shown if n > 1 else "—", outside, *judged(chosen).cells])
        for limit in (own, 0.0):
            chosen, within = best(groups, SAMPLES[-1], limit, REFUSAL)
            outside = f"{100 * (1 - within / len(groups)):.1f}"
            rows.append([name, str(SAMPLES[-1]), f"{limit:.1f}, or a refusal", outside, *judged(chosen).cells])
    return rows


def best(
    groups: Sequence[Sequence[ScoredResponse]], n: int, limit: float, refusal: str = ""
) -> tuple[list[Response], int]:
    """The best of each group's first n, or a refusal if given, and of how many groups it is within the limit."""
    chosen: list[Response] = []
    within = 0
    for group in groups:
        rewards, costs = ([getattr(r, name) for r in group[:n]] for name in ("reward", "cost"))
        choice = best_under_limit(rewards, costs, limit)
        given = group[choice.chosen]
        is_refused = refusal and not choice.is_within
        chosen.append(given.model_copy(update={"text": refusal}) if is_refused else given)
        within += choice.is_within
    return chosen, within


def seconds(args: argparse.Namespace, n: int) -> float:
    """What `respond` takes of the processor with best of n, loading and scoring included."""
    limit = read_manifest(args.run / "round-1/policy").facts["cost_limit"]
    with tempfile.TemporaryDirectory() as folder:
        best_of = {"n": n, "limit": limit}
        given = config(args, args.run / "round-1/policy", Path(folder) / "answers", best_of=best_of)
        begun = time.process_time()
        respond(given)
        return time.process_time() - begun


def config(args: argparse.Namespace, policy: Path, out: Path, samples: int = 1, **more: Any) -> RespondConfig:
    scored = samples > 1 or bool(more)
    scorers = {
        kind: {"type": "model", "path": args.run / "round-1" / kind, "batch_size": 128, "max_length": 160}
        for kind in ("reward", "cost")
        if scored
    }
    tree = {
        "out": out,
        "policy": policy,
        "prompts": [{"path": str(args.run / "world/heldout.jsonl")}],
        "limit": args.prompts,
        "keep": "evenly",
        "samples_per_prompt": samples,
        "sampling": {"max_new_tokens": 40, "top_p": 0.9},
        "max_prompt_length": 110,
        "batch_size": 256,
        "seed": 0,
    }
    return RespondConfig.model_validate({**tree, **scorers, **more})


def judged(responses: Sequence[Response]) -> Place:
    harmful = [r for r in responses if r.prompt.kind == "harmful"]
    harmless = [r for r in responses if r.prompt.kind != "harmful"]
    unsafe = sum(verdict.is_safe is False for verdict in verdicts(harmful))
    refused = sum(refusal != "none" for refusal in refusals(harmless))
    helpful = mean(np.array(helpfulness(harmless)))
    return Place(wilson(unsafe, len(harmful)), helpful, wilson(refused, len(harmless)))


def _percent(rate: Rate) -> str:
    return _shown(rate, "{:.1f}", 100)


def _shown(found: Rate | Estimate, form: str, scale: float) -> str:
    value, low, high = (form.format(scale * x) for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
