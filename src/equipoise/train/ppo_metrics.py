"""What a step of PPO-Lag says of itself: whether its numbers are finite, its metrics, a sample for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from equipoise.algos import credit
from equipoise.algos.masking import masked_sum
from equipoise.records import Response
from equipoise.tokens.batches import ScoredRollout
from equipoise.train.constraints import ALL, Constraint, FixedWeight, MeanCost, Unconstrained, UpperBound
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.processes import process_sums
from equipoise.train.setup import finite

Sums = dict[str, float]
"""Numbers of the passes of one step, added up in this process."""
LOSSES = (
    "actor_loss",
    "ptx_loss",
    "reward_critic_loss",
    "cost_critic_loss",
    "actor_grad_norm",
    "reward_critic_grad_norm",
    "cost_critic_grad_norm",
    "critic_grad_norm",
    "kl_loss",
)


def check_finite(
    sums: Sums, scored: ScoredRollout, step: int, prompt_ids: Sequence[str], accelerator: Accelerator
) -> None:
    """Stop all processes before an optimizer step would spread a NaN.

    Raises:
        TrainingError: Names what is not finite and the prompts of the batch.
    """
    scores = {"rewards": float(scored.rewards.sum()), "costs": float(scored.costs.sum())}
    for key, value in process_sums({**scores, **sums}, accelerator).items():
        finite(value, f"the sum of {key}", step, prompt_ids)


def summarise(
    scored: ScoredRollout,
    responses: Sequence[Response],
    sums: Sums,
    config: PpoLagConfig,
    accelerator: Accelerator,
) -> dict[str, float]:
    """The metrics of one step, over all processes; docs/metrics.md has each one's formula."""
    mask = scored.rollout.response_mask
    kl = credit.kl_estimate(scored.rollout.log_probs, scored.ref_log_probs)
    totals = {
        "mean_reward": float(scored.rewards.sum()),
        "mean_cost": float(scored.costs.sum()),
        "unsafe_share": float((scored.costs > 0).sum()),
        "kl": float(masked_sum(kl, mask)),
        "response_length": float(mask.sum()),
        "unfinished_share": float((~scored.rollout.finished).sum()),
        "repeated_share": _most_common([r.text for r in responses]),
        "same_start_share": _most_common([" ".join(r.text.split()[:3]) for r in responses]),
    }
    count = config.batch_size * config.samples_per_prompt
    means = {key: value / count for key, value in process_sums(totals, accelerator).items()}
    passes = process_sums(sums, accelerator)
    shaped = "clamped" in passes  # standardised advantages have no per-token rewards
    drawn = {}
    if "sampled" in passes:  # by an engine
        drawn["sampler_mismatch"] = passes["sampler_distance"] / passes["sampled"]
        drawn["truncated_share"] = passes["truncated"] / passes["sampled"]
    return {
        **means,
        **{key: passes[key] / config.update_iters / accelerator.num_processes for key in LOSSES if key in passes},
        "clipped_share": passes["clipped"] / passes["tokens"],
        "approx_kl": passes["approx_kl"] / passes["tokens"],
        **({"clamped_share": passes["clamped"] * config.update_iters / passes["tokens"]} if shaped else {}),
        **drawn,
    }


def multipliers(
    lams: Mapping[str, float], exceeded: Mapping[str, float], constraint: Constraint
) -> dict[str, float]:
    """λ and by how much its constraint is exceeded; of several the largest, and each under its name.

    Args:
        lams: Name → λ.
        exceeded: Name → ĝ, as far as it is known.
        constraint: Has the limit.
    """
    match constraint:
        case FixedWeight(nu=nu):
            return {"lambda": nu}
        case Unconstrained():
            return {"lambda": 0.0}
    found = {"lambda": max(lams.values())}
    if exceeded:
        found["excess"] = max(exceeded.values())
    if isinstance(constraint, MeanCost | UpperBound):
        found["cost_limit"] = constraint.limit
    if set(lams) != {ALL}:
        found |= {f"lambda/{name}": lam for name, lam in lams.items()}
        found |= {f"excess/{name}": by for name, by in exceeded.items()}
    return found


def add(sums: Sums, **values: Tensor) -> None:
    """Add detached numbers to running sums."""
    for key, value in values.items():
        sums[key] = sums.get(key, 0.0) + float(value.detach())


def samples(responses: Sequence[Response], scored: ScoredRollout) -> list[dict[str, Any]]:
    """The first response of the batch, for people."""
    first = responses[0]
    return [
        {
            "prompt": first.prompt.text,
            "response": first.text,
            "reward": float(scored.rewards[0]),
            "cost": float(scored.costs[0]),
        }
    ]


def _most_common(texts: Sequence[str]) -> float:
    """How often the most frequent text occurs."""
    return float(Counter(texts).most_common(1)[0][1])
