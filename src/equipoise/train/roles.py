"""The six networks of RLHF by role: four that the loop runs itself, two that only have to answer with scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from equipoise.errors import ConfigError
from equipoise.models.backbone import load_causal_lm
from equipoise.models.devices import pick_dtype
from equipoise.models.score_head import Critic, load_scorer
from equipoise.rollout.config import ModelScore, ScoreSourceConfig
from equipoise.rollout.score import ScoreSource, open_score_source
from equipoise.tokens.template import load_tokenizer
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
        ConfigError: A critic's tokenizer is not the actor's.
    """
    dtype = pick_dtype(config.hardware.precision, device)
    tokenizer = load_tokenizer(config.actor)
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
    if _words(load_tokenizer(found)) != _words(tokenizer):
        raise ConfigError(
            "The critic reads other tokens than the actor writes.",
            where=str(found),
            why="a critic gives a value to every token of the actor, so both need the same tokenizer",
            fix="Name a scorer with the actor's tokenizer in reward_critic or cost_critic "
            "(train one, or start one from the actor with `equipoise reward`).",
        )
    critic = Critic(load_scorer(found, dtype=dtype, device=device))
    without_dropout(critic)
    return critic


def _words(tokenizer: PreTrainedTokenizerBase) -> Sequence[tuple[str, int]]:
    return sorted(tokenizer.get_vocab().items())
