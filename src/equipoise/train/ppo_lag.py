"""PPO-Lagrangian (METHOD §5) and its relatives: maximise reward while a constraint on cost holds.

One step, in this order: sample, score, move λ, advantages, update. The maths is in `algos`; this file says when.
What a token is worth (`advantages`), what must not be exceeded (`constraints`) and how λ follows (`duals`) are
choices; with the default ones this is Safe RLHF.
Old values are the critics' own output in the first pass over a rollout batch, before any optimizer step, so
that no pass is spent on them; old log-probabilities come from the sampler, or like the old values from the first
pass if what samples has weights of its own (`engine`).
Left out: how roles are loaded (`roles`), what a step says of itself (`ppo_metrics`), held-out evaluation and
export (`ppo_validate`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from equipoise import artefact
from equipoise.algos import credit, lagrange, policy
from equipoise.algos.lagrange import LagrangeState
from equipoise.data.load import load_demonstrations, load_prompts
from equipoise.data.source import input_paths
from equipoise.records import Response
from equipoise.rollout.config import GuardScore, ModelScore
from equipoise.rollout.opening import check_sampler, open_sampler
from equipoise.rollout.respond import fitting_prompts, to_responses
from equipoise.runlog import RunLog
from equipoise.tokens.batches import Advantages, Rollout, ScoredRollout, by_length, part_of, rows, trim
from equipoise.tokens.collate import Example, answered_turns, collate_prompts, collate_sft, turn_examples
from equipoise.train.advantages import compare, critics_loss, fit, kl_in_loss, mixed_advantages
from equipoise.train.alarms import alarms
from equipoise.train.checkpoint import drop_checkpoints, load_checkpoint, save_checkpoint
from equipoise.train.config import OptimizerSettings
from equipoise.train.constraints import Costs, Limited, excess, limits_of, names_of, watched, weigh
from equipoise.train.duals import first_state, move
from equipoise.train.engine import OldPolicy, old_policy, publish
from equipoise.train.forward import actor_log_probs, critic_values, target_log_probs
from equipoise.train.limit import check_costs, costs_of, count_limit_from, load_safe_answers
from equipoise.train.memory import SAMPLING, SCORING, UPDATING, memory_for, training
from equipoise.train.ppo_config import PpoLagConfig, Stream
from equipoise.train.ppo_metrics import Sums, add, check_finite, multipliers, samples, summarise
from equipoise.train.ppo_validate import Best, export, keep_best, load_held_out, validate
from equipoise.train.processes import (
    agreed,
    begin,
    end,
    gather,
    is_finished,
    lost_processes_named,
    open_run,
    prepared,
    process_sum,
    shard,
)
from equipoise.train.roles import Roles, check_lengths, load_roles
from equipoise.train.setup import (
    apply_gradients,
    batch_at,
    learning_rate,
    make_optimizer,
    micro_batches,
    step_generator,
    stop_on_interrupt,
)
from equipoise.train.sharded import open_mesh, whole, whole_copy

SHOWN = ("lambda", "mean_cost", "mean_reward", "unsafe_share", "kl", "response_length")
"""What the console line of a step shows; the file has all metrics."""


@dataclass(frozen=True)
class LoopState:
    """All that a run remembers between steps besides weights and optimizers."""

    step: int  # finished steps
    duals: dict[str, LagrangeState]  # λ of each constraint by name; none without a limit
    windows: dict[str, tuple[float, ...]]  # what each watched of the last W responses, oldest first
    best: Best | None  # the best feasible policy so far

    @property
    def lams(self) -> dict[str, float]:
        """λ by name."""
        return {name: dual.lam for name, dual in self.duals.items()}


@lost_processes_named()
def train_ppo_lag(config: PpoLagConfig) -> Path:
    """Train a policy for reward under a cost limit.

    Args:
        config: Settings; `out` becomes a Hugging Face model directory with a manifest.

    Returns:
        `config.out`.

    Raises:
        DataError, ModelError, ConfigError: Bad input, before the first step.
        TrainingError, EndpointError: A loss or a score is not finite, the device runs out of memory, a sampler
            does not answer.
        KeyboardInterrupt: After Ctrl-C, once the step is finished and saved.
    """
    accelerator = begin(config)
    finished = is_finished(config)
    prompts = [prompt for source in (() if finished else config.prompts) for prompt in load_prompts(source)]
    safe = load_safe_answers(() if finished else config.limit_from)
    build = open_run(accelerator, "policy", config, _inputs(config))
    if build.is_finished:
        return config.out
    check_sampler(config.sampler, config.longest)
    names = names_of(config.constraint, prompts, check_costs(config))
    held_out = load_held_out(config, names)
    roles = load_roles(config, accelerator.device, open_mesh(config.hardware, accelerator))
    config = count_limit_from(safe, config, roles.cost, accelerator)
    prompts = fitting_prompts(roles.tokenizer, prompts, config.max_prompt_length, config.too_long)
    total = config.steps or math.ceil(config.epochs * len(prompts) / config.batch_size)
    ptx = ptx_batches(config, roles.tokenizer, total)
    check_lengths(roles, [*prompts, *held_out], [one for batch in ptx for one in batch], config)
    adam = {role: make_optimizer(model, _settings(role, config)) for role, model in roles.trained().items()}
    state = resume(config, names, roles, adam)
    networks = {role: prepared(model, accelerator) for role, model in roles.trained().items()}
    optimizers = {role: accelerator.prepare(optimizer) for role, optimizer in adam.items()}
    actor = networks["actor"]
    sampler = open_sampler(config.sampler, roles.actor, roles.tokenizer, config.longest)
    with (
        RunLog(config.out, total_steps=total, show=SHOWN, quiet=not accelerator.is_main_process) as log,
        stop_on_interrupt() as stop,
    ):
        log.cut_back(state.step)
        history = log.history(total)
        while state.step < total:
            step = state.step
            drawn = [prompts[i] for i in batch_at(len(prompts), config.batch_size, config.seed, step)]
            mine = shard(drawn, accelerator)
            my_ptx = shard(ptx[step], accelerator) if ptx else []

            # sample
            publish(sampler, roles.actor, config.out, accelerator)
            batch = collate_prompts(roles.tokenizer, [p.messages for p in mine], config.max_prompt_length).batch
            generator = step_generator(config.seed, step, accelerator.process_index, accelerator.device)
            with memory_for("sampling", SAMPLING), whole(roles.actor):
                rollout = sampler.sample(
                    batch.to(accelerator.device), config.sampling, generator, config.samples_per_prompt
                )

            # score
            responses = to_responses(mine, rollout, roles.tokenizer, samples=config.samples_per_prompt)
            scores = score(responses, rollout, roles, config)
            seen = watched(config.constraint, names, [r.prompt for r in responses], scores.costs)

            # move λ: once per rollout batch, over all processes
            state = move_lambda(state, {k: gather([*v.values()], accelerator) for k, v in seen.items()}, config)
            weights = weigh(config.constraint, seen, scores.costs, state.lams)
            scored = together(rollout, scores, weights, config)

            # advantages, update: one network after the other, so that one graph at a time is in memory
            sums: Sums = {}
            sequences = config.batch_size * config.samples_per_prompt / accelerator.num_processes
            limits = (config.micro_batch, config.micro_tokens)
            parts = by_length(rollout, *limits)
            pieces = [part_of(scored, part) for part in parts]
            worth = compare(scored, parts, config, sums)
            fits: list[dict[Stream, Advantages]] = [{} for _ in pieces]
            old: list[OldPolicy] = []
            for iteration in range(config.update_iters):
                for name, streams in config.critics.items():
                    critic = networks[name]
                    for i, piece in enumerate(pieces):
                        with training(critic, name.replace("_", " "), i, len(pieces), accelerator, config):
                            values = dict(zip(streams, critic_values(critic, piece.rollout), strict=True))
                            if iteration == 0:
                                fits[i] |= {s: fit(s, piece, v, config, sums) for s, v in values.items()}
                                worth[i] |= {s: fits[i][s].advantages for s in streams}
                            accelerator.backward(critics_loss(values, fits[i], piece, sequences, config, sums))
                for i, piece in enumerate(pieces):
                    mixed = mixed_advantages(worth[i], piece.lams)
                    with training(actor, "actor", i, len(pieces), accelerator, config):
                        log_probs = actor_log_probs(actor, piece.rollout, config.sampling)
                        if iteration == 0:
                            old.append(old_policy(log_probs, piece.rollout, sampler, config, sums))
                        actor_loss, moved = policy.actor_loss(
                            log_probs,
                            old[i].log_probs,
                            mixed * old[i].weights,
                            piece.rollout.response_mask,
                            config.clip_ratio,
                            sequences,
                        )
                        accelerator.backward(actor_loss + kl_in_loss(log_probs, piece, sequences, config, sums))
                    add(sums, actor_loss=actor_loss, clipped=moved.clipped, tokens=moved.tokens)
                    add(sums, approx_kl=moved.approx_kl)
                targets = process_sum(sum(len(e.ids) - e.target_from for e in my_ptx), accelerator)
                ptx_parts = micro_batches(my_ptx, [e.shape for e in my_ptx], *limits)
                for i, examples in enumerate(ptx_parts):
                    data = collate_sft(roles.tokenizer, examples).to(accelerator.device)
                    with training(actor, "actor on demonstrations", i, len(ptx_parts), accelerator, config):
                        log_probs = target_log_probs(actor, data)
                        ptx_loss, _ = policy.sft_loss(
                            log_probs, data.target_mask[:, 1:], targets / accelerator.num_processes
                        )
                        accelerator.backward(config.ptx_coef * ptx_loss)
                    add(sums, ptx_loss=ptx_loss)
                check_finite(sums, scored, step, [prompt.id for prompt in drawn], accelerator)
                update(networks, optimizers, (step, total), config, sums)

            # log, evaluate, save
            state = replace(state, step=step + 1)
            metrics = summarise(scored, responses, sums, config, accelerator)
            metrics |= multipliers(state.lams, excess(config.constraint, state.windows), config.constraint)
            if config.validation and (state.step % config.validation.every == 0 or state.step == total):
                with memory_for("answering and scoring held-out prompts", SAMPLING), whole(roles.actor):
                    found = validate(roles, held_out, names, sampler, config, accelerator)
                state = replace(state, best=keep_best(found, state.best, state.step, roles, config, accelerator))
                metrics |= found.metrics()
            log.log(state.step, metrics)
            log.sample(state.step, samples(responses, scored))
            accelerator.log(metrics, step=state.step)
            history.append(metrics)
            for message in alarms(history, *_bounds(config)):
                log.warn(state.step, message)
            stopping = agreed(stop, accelerator)
            due = state.step % config.checkpoint_every == 0 and state.step < total
            if stopping or due:
                kept, writes = config.checkpoints_kept, accelerator.is_main_process
                save_checkpoint(config.out, asdict(state), roles.trained(), adam, kept=kept, writes=writes)
            if stopping:
                end(accelerator)
                raise KeyboardInterrupt
    last = whole_copy(roles.actor, accelerator)
    if last is not None:
        facts = export(last, roles.tokenizer, state.best, config)
        drop_checkpoints(config.out)
        facts |= {"steps": total, "prompts": len(prompts), "limits": limits_of(config.constraint, names)}
        facts |= multipliers(state.lams, excess(config.constraint, state.windows), config.constraint)
        artefact.finish(build, facts)
    end(accelerator)
    return config.out


def ptx_batches(config: PpoLagConfig, tokenizer: PreTrainedTokenizerBase, steps: int) -> list[list[Example]]:
    """The demonstrations of each step, over all processes; empty without any. Only those are made tokens."""
    turns = answered_turns([d for source in config.ptx for d in load_demonstrations(source)])
    if not turns:
        return []
    size = config.ptx_batch_size or config.batch_size
    drawn = [batch_at(len(turns), size, config.seed + 1, step) for step in range(steps)]
    needed = sorted({number for batch in drawn for number in batch})
    examples = turn_examples(tokenizer, [turns[number] for number in needed], config.max_length)
    known = dict(zip(needed, examples, strict=True))
    return [[known[number] for number in batch] for batch in drawn]


def resume(
    config: PpoLagConfig, names: Sequence[str], roles: Roles, optimizers: Mapping[str, Optimizer]
) -> LoopState:
    """The state of the newest checkpoint, with its weights and optimizers in place; else that before step 0."""
    saved = load_checkpoint(config.out, roles.trained(), optimizers)
    if saved is None:
        return LoopState(0, {name: first_state(config.dual) for name in names}, dict.fromkeys(names, ()), None)
    best = Best(**saved["best"]) if saved["best"] else None
    duals = {name: LagrangeState(**dual) for name, dual in saved["duals"].items()}
    return LoopState(saved["step"], duals, {name: tuple(seen) for name, seen in saved["windows"].items()}, best)


def update(
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    at: tuple[int, int],
    config: PpoLagConfig,
    sums: Sums,
) -> None:
    """One optimizer step of each network; `at` is the step and how many there are."""
    for role, network in networks.items():
        settings = _settings(role, config)
        with memory_for(f"updating the {role.replace('_', ' ')}", UPDATING):
            norm = apply_gradients(network, optimizers[role], settings, learning_rate(settings, *at))
        add(sums, **{f"{role}_grad_norm": norm})


class Scores(NamedTuple):
    """What is asked about the responses of a rollout."""

    rewards: Sequence[float]
    costs: Costs
    ref_log_probs: Tensor  # (B, R) float32, nats


@torch.no_grad()
def score(responses: Sequence[Response], rollout: Rollout, roles: Roles, config: PpoLagConfig) -> Scores:
    """Reward and cost of each response, and the reference's log-probabilities of its tokens."""
    with memory_for("scoring by the reward model", SCORING):
        rewards = roles.reward.score(responses)
    with memory_for("scoring by the cost model", SCORING):
        costs = costs_of(responses, roles.cost, config.constraint)
    ref_log_probs = torch.zeros_like(rollout.log_probs)
    with memory_for("reading the responses with the reference", SCORING), whole(roles.ref):
        for part in by_length(rollout, config.micro_batch, config.micro_tokens):
            piece = trim(rows(rollout, part))
            known = actor_log_probs(roles.ref, piece, config.sampling)
            ref_log_probs[part, : piece.response_mask.shape[1]] = known
    return Scores(rewards, costs, ref_log_probs)


def together(
    rollout: Rollout, scores: Scores, weights: Sequence[tuple[float, float]], config: PpoLagConfig
) -> ScoredRollout:
    """Everything that is known of a rollout before the first update; `weights` are those of `weigh`."""
    device = rollout.input_ids.device
    rewards = torch.tensor(scores.rewards, device=device)
    return ScoredRollout(
        rollout=rollout,
        ref_log_probs=scores.ref_log_probs,
        rewards=credit.penalize_unfinished(rewards, rollout.finished, config.unfinished_penalty),
        costs=torch.tensor(scores.costs.overall, device=device),
        watched=torch.tensor([cost for cost, _ in weights], device=device),
        lams=torch.tensor([lam for _, lam in weights], device=device),
    )


def move_lambda(state: LoopState, seen: Mapping[str, Sequence[float]], config: PpoLagConfig) -> LoopState:
    """Every λ after one rollout batch; what nothing was seen of stays.

    Args:
        state: Before it.
        seen: Name → what each constraint watches, of the responses of all processes.
        config: Has the constraint and the dual.
    """
    newest = {name: values for name, values in seen.items() if values}
    windows = state.windows | {
        name: lagrange.slide_window(state.windows[name], values, config.dual.window or len(values))
        for name, values in newest.items()
    }
    exceeded = excess(config.constraint, {name: windows[name] for name in newest})
    moved = {name: move(config.dual, state.duals[name], by) for name, by in exceeded.items()}
    return replace(state, duals=state.duals | moved, windows=windows)


def _settings(role: str, config: PpoLagConfig) -> OptimizerSettings:
    return config.actor_optimizer if role == "actor" else config.critic_optimizer


def _bounds(config: PpoLagConfig) -> tuple[float, float]:
    """Ceiling and floor of λ; where nothing is limited it has no bounds to be pinned at."""
    limited = isinstance(config.constraint, Limited)
    return (config.dual.ceiling, config.dual.floor) if limited else (math.inf, -math.inf)


def _inputs(config: PpoLagConfig) -> dict[str, Path]:
    sources = {"prompts": config.prompts, "ptx": config.ptx}
    sources["limit_from"] = config.limit_from
    if config.validation:
        sources["validation"] = config.validation.prompts
    paths = {"ref": config.ref, "reward_critic": config.reward_critic, "cost_critic": config.cost_critic}
    paths |= {
        role: source.path
        for role, source in (("reward", config.reward), ("cost", config.cost))
        if isinstance(source, ModelScore | GuardScore)
    }
    found = {name: path for name, path in paths.items() if path is not None}
    return {
        "actor": config.actor,
        **found,
        **{k: v for name, s in sources.items() for k, v in input_paths(s, name).items()},
    }
