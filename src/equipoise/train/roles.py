"""The six networks of RLHF by role: four that the loop runs itself, two that only have to answer with scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from equipoise.errors import ConfigError
from equipoise.models.backbone import check_fit, load_causal_lm
from equipoise.models.devices import pick_dtype
from equipoise.models.score_head import Critic, load_scorer, read_head_settings
from equipoise.records import Prompt
from equipoise.rollout.config import ModelScore, ScoreSourceConfig
from equipoise.rollout.score import ScoreSource, open_score_source
from equipoise.tokens.collate import Example
from equipoise.tokens.template import load_tokenizer, many_prompt_ids
from equipoise.train.config import PpoLagConfig
from equipoise.train.setup import without_dropout


@dataclass(frozen=True)
class Roles:
    """Who does what in one RL run."""

    actor: PreTrainedModel  # π_θ, trained
    ref: PreTrainedModel  # π_ref, frozen
    reward_critic: Critic  # V_R, trained
    cost_critic: Critic  # V_C, trained
    reward: ScoreSource  # R_φ: any source of one number per response
    cost: ScoreSource  # C_ψ: > 0 is unsafe
    tokenizer: PreTrainedTokenizerBase  # of actor, ref and critics; reward and cost have their own

    def trained(self) -> dict[str, nn.Module]:
        """Role → network with an optimizer."""
        return {"actor": self.actor, "reward_critic": self.reward_critic, "cost_critic": self.cost_critic}


def load_roles(config: PpoLagConfig, device: torch.device) -> Roles:
    """Load every role of a run.

    Raises:
        ModelError: A directory is no model.
        ConfigError: The reference's or a critic's tokenizer is not the actor's, or reward and cost are swapped.
    """
    for role, source in (("reward", config.reward), ("cost", config.cost)):
        _check_kind(role, source)
    dtype = pick_dtype(config.hardware.precision, device)
    tokenizer = load_tokenizer(config.actor)
    if config.ref is not None:
        _check_tokens(config.ref, tokenizer, "reference", "Name a reference with the actor's tokenizer in ref.")
    actor = load_causal_lm(config.actor, dtype=dtype, device=device)
    ref = load_causal_lm(config.ref or config.actor, dtype=dtype, device=device)
    without_dropout(actor)
    ref.requires_grad_(False)
    return Roles(
        actor=actor,
        ref=ref,
        reward_critic=_load_critic(config.reward_critic, config.reward, tokenizer, dtype, device),
        cost_critic=_load_critic(config.cost_critic, config.cost, tokenizer, dtype, device),
        reward=open_score_source(config.reward, device=device, dtype=dtype),
        cost=open_score_source(config.cost, device=device, dtype=dtype),
        tokenizer=tokenizer,
    )


def _load_critic(
    path: Path | None,
    source: ScoreSourceConfig,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    device: torch.device,
) -> Critic:
    """The critic, head included, from its own directory or from the model that gives the scores."""
    found = path or (source.path if isinstance(source, ModelScore) else None)
    assert found is not None  # PpoLagConfig refuses a source without a critic
    _check_tokens(
        found,
        tokenizer,
        "critic",
        "Name a scorer with the actor's tokenizer in reward_critic or cost_critic "
        "(train one, or start one from the actor with `equipoise reward`).",
    )
    critic = Critic(load_scorer(found, dtype=dtype, device=device))
    without_dropout(critic)
    return critic


def check_lengths(roles: Roles, prompts: Sequence[Prompt], ptx: Sequence[Example], config: PpoLagConfig) -> None:
    """Find what does not fit before the first step.

    Raises:
        ModelError: A prompt with the longest response, or a demonstration, is longer than a network's context.
    """
    longest = max(len(ids) for ids in many_prompt_ids(roles.tokenizer, [prompt.messages for prompt in prompts]))
    answered = longest + config.sampling.max_new_tokens
    check_fit(roles.actor, roles.tokenizer, max([answered, *(len(example.ids) for example in ptx)]))
    for model in (roles.ref, roles.reward_critic.scorer.backbone, roles.cost_critic.scorer.backbone):
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
    if _words(load_tokenizer(path)) != _words(tokenizer):
        raise ConfigError(
            f"The {role} reads other tokens than the actor writes.",
            where=str(path),
            why=f"the {role} judges every token of the actor, so both need the same tokenizer",
            fix=fix,
        )


def _words(tokenizer: PreTrainedTokenizerBase) -> Sequence[tuple[str, int]]:
    return sorted(tokenizer.get_vocab().items())
