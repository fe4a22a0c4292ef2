"""The networks of a stage by role, from `config.json` and adapter settings alone; for use in `nothing_loaded`.

They are the objects that `models` and `train` make, with weights that have a shape and no contents. Left out:
whether files of weights are complete, and whether an adapter belongs to the actor's start, which the stage checks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from equipoise.artefact import is_hub_name
from equipoise.models.adapters import add_adapter, base_of_adapter, on_same_weights
from equipoise.models.backbone import from_config
from equipoise.models.files import ADAPTER, check_config
from equipoise.models.four_bit import Quantize
from equipoise.models.score_head import Critic, Pooling, Scorer, read_head_settings
from equipoise.plan.four_bit import quantize_layers
from equipoise.rollout.config import GuardScore, ModelScore, ScoreSourceConfig
from equipoise.tokens.folder import model_folder
from equipoise.train.config import SharedLora
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.setup import train_adapter
from equipoise.train.shared_base import SharedBase


@dataclass(frozen=True)
class Judge:
    """Where scores come from, as far as memory goes."""

    network: nn.Module | None  # None: a function or an endpoint
    batch_size: int
    max_length: int


def causal_lm(path: str | Path, dtype: torch.dtype, quantize: Quantize | None = None) -> PreTrainedModel:
    """What `load_causal_lm` would load, without contents.

    Raises:
        ModelError: There is no config.json, or none of a causal language model.
    """
    return _from_config(AutoModelForCausalLM, path, dtype, quantize)


def fresh_scorer(
    path: str | Path,
    pooling: Pooling,
    dtype: torch.dtype,
    quantize: Quantize | None = None,
    categories: int = 0,
) -> Scorer:
    """What `scorer_from` would load, without contents; errors as in `causal_lm`."""
    backbone = _from_config(AutoModel, path, dtype, quantize)
    if getattr(backbone, "pooler", None) is not None:
        backbone.register_module("pooler", None)
    return Scorer(backbone, pooling, categories)


def whole_scorer(path: str | Path, dtype: torch.dtype, quantize: Quantize | None = None) -> Scorer:
    """What `load_scorer` would load, without contents.

    Raises:
        ModelError: The folder holds no scorer.
    """
    settings = read_head_settings(path)
    return fresh_scorer(path, settings.pooling, dtype, quantize, len(settings.categories))


def guard(source: GuardScore) -> PreTrainedModel:
    """The classifier of a guard, in float32 as `rollout.score` loads it; errors as in `causal_lm`."""
    return _from_config(AutoModelForSequenceClassification, source.path, torch.float32)


def gives_adapter(source: ScoreSourceConfig | Path, lora: SharedLora | None) -> bool:
    """Whether a scorer is an adapter on the actor's start, which then needs no weights of its own."""
    path = source.path if isinstance(source, ModelScore) else source
    return lora is not None and lora.share and isinstance(path, Path) and base_of_adapter(path) is not None


def adapter_scorer(base: SharedBase, path: Path, role: str, *, trainable: bool) -> Scorer:
    """What `scorer_on` would load, without contents."""
    backbone = on_same_weights(cast("PreTrainedModel", base.model.base_model))
    add_adapter(backbone, role, LoraConfig.from_pretrained(str(path / ADAPTER)), base.seed)
    settings = read_head_settings(path)
    scorer = Scorer(backbone, settings.pooling, len(settings.categories))
    return scorer if trainable else scorer.requires_grad_(False)


def judge(
    source: ScoreSourceConfig, role: str, config: PpoLagConfig, base: SharedBase | None, dtype: Any
) -> Judge:
    """The frozen network that gives rewards or costs."""
    if isinstance(source, GuardScore):
        return Judge(guard(source).requires_grad_(False), source.batch_size, source.max_length)
    if not isinstance(source, ModelScore):
        return Judge(None, 0, 0)
    if base is not None and gives_adapter(source, config.lora):
        scorer = adapter_scorer(base, source.path, role, trainable=False)
    else:
        scorer = whole_scorer(source.path, dtype, config.quantize)
    return Judge(scorer.requires_grad_(False), source.batch_size, source.max_length)


def critic(
    start: Path, role: str, config: PpoLagConfig, base: SharedBase | None, known: nn.Module | None, dtype: Any
) -> Critic:
    """A critic that starts from a scorer.

    Args:
        start: The scorer's folder.
        role: Name of the critic, and of its adapter.
        config: Of the run.
        base: What adapters share; None without `lora`.
        known: The frozen scorer from the same folder, if there is one: the critic's adapter goes on its weights.
        dtype: Of the backbone.
    """
    if base is None:
        scorer = whole_scorer(start, dtype)
    elif gives_adapter(start, config.lora):
        scorer = adapter_scorer(base, start, role, trainable=True)
    else:
        whole = known if isinstance(known, Scorer) else whole_scorer(start, dtype, config.quantize)
        scorer = Scorer(on_same_weights(whole.backbone), whole.pooling)
        train_adapter(scorer.backbone, role, base.lora, base.seed)
    return Critic(scorer, len(config.critics[role]))


def _from_config(
    kind: Any, path: str | Path, dtype: torch.dtype, quantize: Quantize | None = None
) -> PreTrainedModel:
    if not is_hub_name(path):
        check_config(model_folder(path))
    model = from_config(kind, path, dtype)
    if quantize is not None:
        quantize_layers(model)
    return model
