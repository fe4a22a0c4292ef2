"""The networks of RLHF by role: those that the loop runs itself, and two that only have to answer with scores.

Each is a model of its own or, with `lora`, an adapter on frozen weights that they share (`shared_base`). Either is
a network some of whose weights are trained, so the loops do not know which.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from equipoise.errors import ConfigError
from equipoise.models.backbone import check_fit, load_causal_lm
from equipoise.models.devices import pick_dtype
from equipoise.models.score_head import Critic, Scorer, load_scorer, read_head_settings
from equipoise.records import Prompt
from equipoise.rollout.config import ModelScore, ScoreSourceConfig
from equipoise.rollout.score import ScoreSource, model_source, open_score_source
from equipoise.tokens.collate import Example
from equipoise.tokens.template import load_tokenizer, many_prompt_ids, same_tokens
from equipoise.train.config import SharedLora
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.setup import recompute_layers, without_dropout
from equipoise.train.sharded import Network, load_device, shard_network, shard_source
from equipoise.train.shared_base import open_base


@dataclass(frozen=True)
class Roles:
    """Who does what in one RL run."""

    actor: PreTrainedModel  # π_θ, trained
    ref: PreTrainedModel  # π_ref, frozen
    critics: dict[str, Critic]  # V_R and V_C by name, trained; none where advantages need none
    reward: ScoreSource  # R_φ: any source of one number per response
    cost: ScoreSource  # C_ψ: > 0 is unsafe
    tokenizer: PreTrainedTokenizerBase  # of actor, ref and critics; reward and cost have their own

    def trained(self) -> dict[str, nn.Module]:
        """Role → network with an optimizer."""
        return {"actor": self.actor, **self.critics}


def load_roles(config: PpoLagConfig, device: torch.device, mesh: DeviceMesh | None = None) -> Roles:
    """Load every role of a run; with a mesh each is in parts before the next is loaded.

    Raises:
        ModelError: A directory is no model.
        ConfigError: The reference's or a critic's tokenizer is not the actor's, reward and cost are swapped, or an
            adapter belongs to another base than the actor's start, or `recompute_layers` refuses.
    """
    for role, source in (("reward", config.reward), ("cost", config.cost)):
        _check_kind(role, source)
    tokenizer = load_tokenizer(config.actor)
    if config.ref is not None:
        _check_tokens(config.ref, tokenizer, "reference", "Name a reference with the actor's tokenizer in ref.")
    for path in config.critic_starts.values():
        _check_tokens(
            path,
            tokenizer,
            "critic",
            "Name a scorer with the actor's tokenizer in reward_critic or cost_critic "
            "(train one, or start one from the actor with `equipoise reward`).",
        )
    dtype = pick_dtype(config.hardware.precision, device)
    if config.lora is not None:
        roles = _adapters(config, config.lora, tokenizer, dtype, device)
        for network in roles.trained().values():
            recompute_layers(network, config.hardware)
        return roles
    return _full_models(config, tokenizer, dtype, device, mesh)


def _full_models(
    config: PpoLagConfig,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    device: torch.device,
    mesh: DeviceMesh | None,
) -> Roles:
    place = load_device(device, mesh)

    def trained(network: Network) -> Network:
        without_dropout(network)
        recompute_layers(network, config.hardware)
        return shard_network(network, mesh)

    def policy(path: Path) -> PreTrainedModel:
        return load_causal_lm(path, dtype=dtype, device=place)

    def critic(name: str, path: Path) -> Critic:
        return trained(Critic(load_scorer(path, dtype=dtype, device=place), heads=len(config.critics[name])))

    def judge(source: ScoreSourceConfig) -> ScoreSource:
        return shard_source(open_score_source(source, device=place, dtype=dtype), mesh)

    return Roles(
        actor=trained(policy(config.actor)),
        ref=shard_network(policy(config.ref or config.actor).requires_grad_(False), mesh),
        critics={name: critic(name, path) for name, path in config.critic_starts.items()},
        reward=judge(config.reward),
        cost=judge(config.cost),
        tokenizer=tokenizer,
    )


def _adapters(
    config: PpoLagConfig,
    lora: SharedLora,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    device: torch.device,
) -> Roles:
    """Every role on one frozen base, the actor's start, which is also the reference."""
    sources = {"reward": config.reward, "cost": config.cost}
    starts = config.critic_starts
    paths = [source.path for source in sources.values() if isinstance(source, ModelScore)]
    base = open_base(config.actor, lora, config.seed, [*paths, *starts.values()], dtype, device)
    scorers: dict[Path, Scorer] = {}  # frozen, by directory
    judges: dict[str, ScoreSource] = {}
    for role, source in sources.items():
        if isinstance(source, ModelScore):
            scorers[source.path] = scorer = base.scorer(role, source.path)
            judges[role] = model_source(source, scorer)
        else:
            judges[role] = open_score_source(source, device=base.model.device, dtype=base.model.dtype)
    critics = {
        name: base.critic(name, path, scorers.get(path), heads=len(config.critics[name]))
        for name, path in starts.items()
    }
    ref = base.model
    if config.ref is not None:
        ref = load_causal_lm(config.ref, dtype=dtype, device=device, quantize=lora.quantize)
        ref.requires_grad_(False)
    return Roles(base.actor(), ref, critics, judges["reward"], judges["cost"], tokenizer)


def check_lengths(roles: Roles, prompts: Sequence[Prompt], ptx: Sequence[Example], config: PpoLagConfig) -> None:
    """Find what does not fit before the first step.

    Raises:
        ModelError: A prompt with the longest response, or a demonstration, is longer than a network's context.
    """
    longest = max(len(ids) for ids in many_prompt_ids(roles.tokenizer, [prompt.messages for prompt in prompts]))
    answered = longest + config.sampling.max_new_tokens
    check_fit(roles.actor, roles.tokenizer, max([answered, *(len(example.ids) for example in ptx)]))
    for model in (roles.ref, *(critic.scorer.backbone for critic in roles.critics.values())):
        check_fit(model, roles.tokenizer, answered)


def _check_kind(role: str, source: ScoreSourceConfig) -> None:
    """A reward model as cost would teach the opposite of what is meant."""
    if isinstance(source, ModelScore) and (kind := read_head_settings(source.path).kind) != role:
        raise ConfigError(
            f"The {role} is to come from a {kind} model.",
            where=f"{role}.path = {source.path}",
            why="a higher reward is better, a higher cost is worse",
            fix="Check which directory is which; score_head.json says what a model is.",
        )


def _check_tokens(path: Path, tokenizer: PreTrainedTokenizerBase, role: str, fix: str) -> None:
    if not same_tokens(load_tokenizer(path), tokenizer):
        raise ConfigError(
            f"The {role} reads other tokens than the actor writes.",
            where=str(path),
            why=f"the {role} judges every token of the actor, so both need the same tokenizer",
            fix=fix,
        )
