"""One frozen base under the roles of RL: the actor's start, in memory once, with an adapter for each role.

The reference is the base as it is. A reward or cost model that was trained on that base gives its adapter and head
alone; any other one is loaded whole, and its critic is an adapter on its weights. Left out: adapters themselves
(`models.adapters`), and the same roles as full models (`roles`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from equipoise.errors import ConfigError
from equipoise.models.adapters import base_at, base_of_adapter, on_same_weights
from equipoise.models.backbone import load_causal_lm
from equipoise.models.score_head import Critic, Scorer, load_scorer, scorer_on
from equipoise.train.config import SharedLora
from equipoise.train.setup import train_adapter, without_dropout


@dataclass(frozen=True)
class SharedBase:
    """A frozen causal model that networks with adapters share the weights of."""

    model: PreTrainedModel  # without an adapter
    lora: SharedLora
    seed: int  # of fresh adapters

    def actor(self) -> PreTrainedModel:
        """The base with a fresh adapter: at first the base itself."""
        actor = on_same_weights(self.model)
        train_adapter(actor, "actor", self.lora, self.seed)
        without_dropout(actor)
        return actor

    def scorer(self, role: str, path: Path) -> Scorer:
        """The frozen reward or cost model in a directory."""
        if _gives_adapter(path, self.lora):
            return scorer_on(self.model, path, role)
        scorer = load_scorer(path, dtype=self.model.dtype, device=self.model.device, quantize=self.lora.quantize)
        return scorer.requires_grad_(False)

    def critic(self, role: str, path: Path, scorer: Scorer | None, heads: int = 1) -> Critic:
        """A critic that starts from the scorer in a directory, head included.

        Args:
            role: Name of its adapter.
            path: The directory.
            scorer: The frozen scorer from there, if it is loaded.
            heads: How many streams it gives the values of.
        """
        if _gives_adapter(path, self.lora):
            start = scorer_on(self.model, path, role, trainable=True)
        else:
            whole = scorer or self.scorer(role, path)
            start = Scorer(on_same_weights(whole.backbone), whole.pooling)
            start.head.load_state_dict(whole.head.state_dict())
            train_adapter(start.backbone, role, self.lora, self.seed)
        critic = Critic(start, heads)
        without_dropout(critic)
        return critic


def open_base(
    path: Path, lora: SharedLora, seed: int, scorers: Iterable[Path], dtype: torch.dtype, device: torch.device
) -> SharedBase:
    """Load the base.

    Args:
        path: The actor's start: a whole model, adapters merged.
        lora: Adapters.
        seed: Of fresh adapters.
        scorers: Directories of the scorers that are to use it.
        dtype: Of its weights.
        device: Where it goes.

    Raises:
        ConfigError: A scorer's adapter belongs to another base.
        ModelError: The directory is no model.
    """
    base = base_at(path)
    for scorer in scorers:
        theirs = base_of_adapter(scorer)
        if lora.share and theirs is not None and theirs.fingerprint != base.fingerprint:
            raise ConfigError(
                "An adapter cannot be used on another base than its own.",
                where=str(scorer),
                why=f"it was trained on {theirs.path} (weights {theirs.fingerprint}), "
                f"the actor starts from {base.path} (weights {base.fingerprint})",
                fix=f"Train it on {base.path}; or set lora.share = false, which loads each model whole.",
            )
    model = load_causal_lm(path, dtype=dtype, device=device, quantize=lora.quantize).requires_grad_(False)
    return SharedBase(model, lora, seed)


def _gives_adapter(path: Path, lora: SharedLora) -> bool:
    return lora.share and base_of_adapter(path) is not None
