"""The memory of each stage that trains: its networks, then one step of its loop, phase by phase."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from equipoise.models.backbone import CPU, check_length
from equipoise.models.devices import pick_dtype
from equipoise.models.score_head import Critic, Scorer
from equipoise.plan import networks
from equipoise.plan.config import Machine
from equipoise.plan.ledger import Ledger, nothing_loaded
from equipoise.plan.memory import Memory, Tally, as_read, blank, logits_size, target_loss
from equipoise.plan.sampling import sample
from equipoise.plan.workload import PpoWork, Work
from equipoise.rollout.config import ModelScore, Sampling, ScoreSourceConfig
from equipoise.rollout.native import NativeSampler
from equipoise.rollout.sampler import evaluating
from equipoise.tokens.batches import Rollout
from equipoise.train.config import ScoreModelConfig, SftConfig
from equipoise.train.forward import actor_log_probs, critic_values
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.setup import recompute_layers, train_adapter, without_dropout
from equipoise.train.shared_base import SharedBase


def sft_memory(config: SftConfig, work: Work, machine: Machine) -> Memory:
    """What `sft` takes.

    Args:
        config: The stage's settings.
        work: Its batches.
        machine: GPU or not, and how many processes.

    Raises:
        ModelError: The folder holds no such model, or its context is too short.
    """
    with nothing_loaded() as ledger:
        tally = Tally(ledger, machine, config.hardware)
        with tally.role("policy"):
            model = networks.causal_lm(config.model, pick_dtype(config.hardware.precision, CPU), config.quantize)
            train_adapter(model, "policy", config.lora, config.seed)
            recompute_layers(model, config.hardware)
            tally.divide(model)
        check_length(model, work.largest.length)
        settings = {"policy": config.optimizer}
        tally.start_training({"policy": model}, settings)
        model.train()
        tally.learn("train", model, lambda: target_loss(model, work.largest, tally), work.passes)
        tally.update(settings)
        tally.files(model)
        return tally.memory


def score_model_memory(config: ScoreModelConfig, work: Work, machine: Machine) -> Memory:
    """What `reward` or `cost` takes; arguments and errors as in `sft_memory`."""
    with nothing_loaded() as ledger:
        tally = Tally(ledger, machine, config.hardware)
        with tally.role("scorer"):
            scorer = networks.fresh_scorer(
                config.model, config.pooling, pick_dtype(config.hardware.precision, CPU), config.quantize
            )
            train_adapter(scorer.backbone, "scorer", config.lora, config.seed)
            recompute_layers(scorer, config.hardware)
            tally.divide(scorer)
        check_length(scorer.backbone, work.largest.length)
        settings = {"scorer": config.optimizer}
        tally.start_training({"scorer": scorer}, settings)
        scorer.train()
        read = as_read(scorer.backbone, work.parts)
        responses = blank(read.rows, read.length)
        tally.learn("train", scorer, lambda: cast("Tensor", scorer(*responses).sum()), work.passes)
        tally.update(settings)
        tally.files(scorer)
        return tally.memory


def ppo_lag_memory(config: PpoLagConfig, work: PpoWork, machine: Machine) -> Memory:
    """What `ppo-lag` takes; arguments and errors as in `sft_memory`."""
    with nothing_loaded() as ledger:
        tally = Tally(ledger, machine, config.hardware)
        roles = _Roles(config, tally)
        longest = work.prompt + config.sampling.max_new_tokens
        check_length(roles.actor, max(longest, work.ptx.length))
        for model in (roles.ref, *(c.scorer.backbone for c in roles.critics.values())):
            check_length(model, longest)
        trained = {"actor": roles.actor, **roles.critics}
        settings = {
            role: config.actor_optimizer if role == "actor" else config.critic_optimizer for role in trained
        }
        tally.start_training(trained, settings)
        with ledger.phase("sample"), evaluating(roles.actor), tally.gathered(roles.actor):
            rows = min(work.rows, NativeSampler.slots)
            tally.part("KV cache", sample(roles.actor, rows, work.prompt, config.sampling, tally))
        with ledger.phase("score"), torch.no_grad():
            for judge in roles.judges:
                with tally.gathered(judge.network):
                    _ask(judge, work.rows, longest)
            with tally.gathered(roles.ref), _rollout(ledger, roles.ref, work) as answers:
                actor_log_probs(roles.ref, answers, config.sampling)
        for role, critic in roles.critics.items():
            with _rollout(ledger, critic.scorer.backbone, work) as answers:
                tally.learn(role, critic, partial(_value_loss, critic, answers), work.passes)
        tally.part("logits", logits_size(roles.actor, work.largest.targets))
        with _rollout(ledger, roles.actor, work) as answers:
            tally.learn(
                "actor", roles.actor, partial(_policy_loss, roles.actor, answers, config.sampling), work.passes
            )
        if work.ptx_passes:
            tally.learn("ptx", roles.actor, lambda: target_loss(roles.actor, work.ptx, tally), work.ptx_passes)
        tally.update(settings)
        tally.files(roles.actor)
        return tally.memory


class _Roles:
    """Networks as `train.roles` puts them together, each counted once."""

    def __init__(self, config: PpoLagConfig, tally: Tally) -> None:
        dtype, self.base = pick_dtype(config.hardware.precision, CPU), None
        if config.lora is not None:
            with tally.role("base", "the actor's start, shared by all adapters on it"):
                model = networks.causal_lm(config.actor, dtype, config.quantize).requires_grad_(False)
            self.base = SharedBase(model, config.lora, config.seed)
        with tally.role("actor", "adapter" if self.base else ""):
            self.actor = self.base.actor() if self.base else networks.causal_lm(config.actor, dtype)
            self._train(self.actor, config, tally)
        with tally.role("ref", "the base" if self.base and config.ref is None else ""):
            if self.base and config.ref is None:
                self.ref = self.base.model
            else:
                whole = networks.causal_lm(config.ref or config.actor, dtype, config.quantize)
                self.ref = whole.requires_grad_(False)
                tally.divide(self.ref)
        self.judges: list[networks.Judge] = []
        self.critics: dict[str, Critic] = {}
        scorers: dict[Path, nn.Module | None] = {}
        starts = {config.critics[name][0]: (name, start) for name, start in config.critic_starts.items()}
        for role, source in (("reward", config.reward), ("cost", config.cost)):
            with tally.role(role, _note(source, config)):
                judge = networks.judge(source, role, config, self.base, dtype)
                if judge.network is not None:
                    tally.divide(judge.network)
            self.judges.append(judge)
            if isinstance(source, ModelScore):
                scorers[source.path] = judge.network
            if role in starts:
                self._add_critic(*starts[role], scorers, config, tally)

    def _add_critic(
        self, name: str, start: Path, scorers: Mapping[Path, nn.Module | None], config: PpoLagConfig, tally: Tally
    ) -> None:
        is_adapter = self.base and (start in scorers or networks.gives_adapter(start, config.lora))
        dtype = pick_dtype(config.hardware.precision, CPU)
        with tally.role(name, "adapter" if is_adapter else ""):
            self.critics[name] = networks.critic(start, name, config, self.base, scorers.get(start), dtype)
            self._train(self.critics[name], config, tally)

    def _train(self, network: nn.Module, config: PpoLagConfig, tally: Tally) -> None:
        without_dropout(network)
        recompute_layers(network, config.hardware)
        tally.divide(network)


def _note(source: ScoreSourceConfig, config: PpoLagConfig) -> str:
    """What is to be known about where scores come from."""
    if not isinstance(source, ModelScore):
        return "a guard, whole" if source.type == "guard" else f"{source.type}: takes nothing here"
    if config.lora is None:
        return ""
    if networks.gives_adapter(source, config.lora):
        return "adapter"
    return "not an adapter on the actor's start: loaded whole, its weights are what that costs"


def _ask(judge: networks.Judge, rows: int, length: int) -> None:
    """Scores of so many responses, if a network gives them."""
    ids, mask = blank(min(judge.batch_size, rows), min(judge.max_length, length))
    if isinstance(judge.network, Scorer):
        judge.network(ids, mask)
    elif judge.network is not None:
        judge.network(input_ids=ids, attention_mask=mask.long())


def _value_loss(critic: Critic, rollout: Rollout) -> Tensor:
    return critic_values(critic, rollout).sum()


def _policy_loss(actor: PreTrainedModel, rollout: Rollout, sampling: Sampling) -> Tensor:
    return actor_log_probs(actor, rollout, sampling).sum()


@contextmanager
def _rollout(ledger: Ledger, model: PreTrainedModel, work: PpoWork) -> Iterator[Rollout]:
    """Responses that are all as long as the limit, as a model reads them."""
    read = as_read(model, work.parts)
    (ids, mask), limit = blank(read.rows, read.length), read.targets // read.rows
    with ledger.reading(read.targets, read.length):
        yield Rollout(ids, mask, mask[:, -limit:], torch.zeros(read.rows, limit), mask[:, 0])
