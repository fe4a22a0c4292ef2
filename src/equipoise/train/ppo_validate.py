"""Held-out evaluation during RL, and which policy is the result.

A policy is feasible when its constraint holds on the held-out prompts, every one of several; the best is the
feasible one with the highest mean reward. It lies in `checkpoints/best` until the run ends. Left out: confidence
in that cost, which is the evaluation's work.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from equipoise.artefact import CHECKPOINTS
from equipoise.data.load import load_prompts
from equipoise.models.backbone import save_policy
from equipoise.models.files import replace_files
from equipoise.records import Prompt, Response
from equipoise.rollout.respond import fitting_prompts, to_responses
from equipoise.rollout.sampler import Sampler
from equipoise.tokens.collate import collate_prompts
from equipoise.tokens.template import load_tokenizer
from equipoise.train.constraints import Limited, check_held_out, excess, watched
from equipoise.train.engine import publish
from equipoise.train.limit import costs_of
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.processes import gather, process_sums, shard
from equipoise.train.roles import Roles
from equipoise.train.setup import batch_at, step_generator
from equipoise.train.sharded import whole_copy


@dataclass(frozen=True)
class Best:
    """The best feasible policy so far."""

    step: int
    reward: float
    cost: float


@dataclass(frozen=True)
class Validated:
    """Means over the held-out prompts."""

    mean_reward: float  # less the penalty of responses that never end, as in training
    mean_cost: float
    unsafe_share: float
    excess: float | None  # by which a constraint is exceeded, the most of several; None: nothing is limited

    def metrics(self) -> dict[str, float]:
        """As they appear in metrics.jsonl."""
        return {f"validation_{name}": value for name, value in vars(self).items() if value is not None}


def load_held_out(config: PpoLagConfig, names: Sequence[str]) -> list[Prompt]:
    """The held-out prompts of a run: always the same ones, evenly drawn from the files.

    Args:
        config: Settings.
        names: Of the constraints.

    Raises:
        DataError: A source is unusable, or these prompts cannot say of each constraint whether it holds.
    """
    if config.validation is None:
        return []
    prompts = [prompt for source in config.validation.prompts for prompt in load_prompts(source)]
    tokenizer = load_tokenizer(config.actor)
    prompts = fitting_prompts(tokenizer, prompts, config.max_prompt_length, config.too_long)
    count = min(config.validation.limit, len(prompts))
    found = [prompts[i] for i in batch_at(len(prompts), count, config.seed, 0)]
    check_held_out(config.constraint, names, found)
    return found


def validate(
    roles: Roles,
    prompts: Sequence[Prompt],
    names: Sequence[str],
    sampler: Sampler,
    config: PpoLagConfig,
    accelerator: Accelerator,
) -> Validated:
    """Answer the held-out prompts, with the same random numbers every time, and score the answers.

    Args:
        roles: The networks.
        prompts: Held out, of all processes.
        names: Of the constraints.
        sampler: What draws.
        config: Settings.
        accelerator: Each process answers its share.
    """
    publish(sampler, roles.actor, config.out, accelerator)
    mine = shard(prompts, accelerator)
    generator = step_generator(config.seed, 0, accelerator.process_index, accelerator.device)
    responses: list[Response] = []
    size = -(-config.batch_size * config.samples_per_prompt // accelerator.num_processes)  # as in training
    for start in range(0, len(mine), size):
        part = mine[start : start + size]
        batch = collate_prompts(roles.tokenizer, [p.messages for p in part], config.max_prompt_length).batch
        rollout = sampler.sample(batch.to(accelerator.device), config.sampling, generator)
        responses += to_responses(part, rollout, roles.tokenizer)
    costs = costs_of(responses, roles.cost, config.constraint)
    unfinished = sum(not response.finished for response in responses)
    totals = {
        "mean_reward": sum(roles.reward.score(responses)) - config.unfinished_penalty * unfinished,
        "mean_cost": sum(costs.overall),
        "unsafe_share": sum(cost > 0 for cost in costs.overall),
    }
    means = {key: value / len(prompts) for key, value in process_sums(totals, accelerator).items()}
    seen = watched(config.constraint, names, mine, costs)
    gathered = {name: gather([*values.values()], accelerator) for name, values in seen.items()}
    exceeded = excess(config.constraint, gathered)
    return Validated(**means, excess=max(exceeded.values(), default=None))


def keep_best(
    found: Validated, best: Best | None, step: int, roles: Roles, config: PpoLagConfig, accelerator: Accelerator
) -> Best | None:
    """Save the actor if it is feasible and better than the best so far."""
    feasible = found.excess is None or found.excess <= 0
    if not feasible or (best is not None and found.mean_reward <= best.reward):
        return best
    if config.keep == "best_feasible":
        actor = whole_copy(roles.actor, accelerator)
        if actor is not None:
            save_policy(actor, roles.tokenizer, config.out / CHECKPOINTS / "best")
    return Best(step, found.mean_reward, found.mean_cost)


def export(
    actor: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, best: Best | None, config: PpoLagConfig
) -> dict[str, Any]:
    """Put the resulting policy into the run's directory; the main process does.

    Args:
        actor: The last policy, whole.
        tokenizer: Its tokenizer.
        best: The best feasible policy so far.
        config: Says which of the two is the result.

    Returns:
        Facts for the manifest: which step it is from, and whether it met the limit on held-out prompts.
    """
    chosen = best if config.keep == "best_feasible" else None
    if chosen is None:
        save_policy(actor, tokenizer, config.out)
    else:
        saved = config.out / CHECKPOINTS / "best"
        replace_files(config.out, lambda folder: shutil.copytree(saved, folder, dirs_exist_ok=True))
    if config.validation is None:
        return {"kept": "last"}
    if best is None:
        return {"kept": "last", "feasible": False}
    return {
        "kept": f"step {chosen.step}" if chosen else "last",
        **({"feasible": True} if isinstance(config.constraint, Limited) else {}),
        "best_step": best.step,
        "held_out_reward": best.reward,
        "held_out_cost": best.cost,
    }
