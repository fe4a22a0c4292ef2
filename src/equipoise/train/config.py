"""The settings of every training stage, without torch.

Defaults are the original's script defaults (METHOD §6) where it has one. What a stage computes lies beside it:
`sft`, `score_model`. Settings of RL: `ppo_config`.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from equipoise.annotate.taxonomy import PUBLISHED
from equipoise.config import Config
from equipoise.data.source import DataSource

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["float32", "bfloat16", "float16"]
CostLoss = Literal["ranking+sign", "ranking", "sign"]


class OptimizerSettings(Config):
    """AdamW and its schedule; the learning rate is a function of (step, total steps) alone."""

    lr: float = Field(2e-5, gt=0, description="Peak learning rate.")
    schedule: Schedule = Field(
        "cosine", description="Shape after the warm-up: to zero by cosine or line, or flat."
    )
    warmup: float = Field(0.03, ge=0, le=1, description="Share of all steps spent on a linear warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay on matrices; vectors have none.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Adam's two decay rates.")
    clip_norm: float = Field(1.0, gt=0, description="Global gradient norm above which gradients are scaled down.")
    bits: Literal[8, 32] = Field(
        32,
        description="Bits of Adam's two moments; 8: of weights with 4096 entries or more (extra `quant`).",
    )


class Hardware(Config):
    """Where and in which precision a stage runs."""

    device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        "auto", description="auto takes cuda, then mps, then cpu."
    )
    precision: Precision = Field(
        "float32", description="Precision of networks; scores and the weights that are trained stay float32."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; unset leaves torch's choice.")
    gradient_checkpointing: bool = Field(
        False,
        description="Keep only the input of each layer and compute the layer again in the backward pass: less "
        "memory, about a third more time per training pass.",
    )
    shard: bool = Field(
        False,
        description="Several processes divide the weights, gradients and optimizer states of all networks among "
        "them (FSDP2); off: each holds whole networks. One process: the same either way.",
    )
    timeout: float = Field(
        600.0, gt=0, description="Seconds that a process waits for the others before it gives the run up."
    )
    offload_activations: bool = Field(
        False,
        description="Keep what the backward pass needs in main memory (on CUDA only): less memory, more time.",
    )

    @model_validator(mode="after")
    def _keeps_parts_or_activations(self) -> Self:
        if self.shard and self.offload_activations:
            raise ValueError(
                "shard and offload_activations exclude each other: a network in parts gathers its weights anew in "
                "each pass, where they are not told from activations. Set gradient_checkpointing in its place"
            )
        return self


class LoraSettings(Config):
    """Low-rank adapters (PEFT) in place of training all weights, which then stay as they are."""

    r: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: int = Field(32, ge=1, description="Scale: an adapter adds (alpha/r)·B·A to a weight.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before each adapter; none in RL.")
    target_modules: tuple[str, ...] = Field(
        (), description="Names of the layers that get an adapter (q_proj, …); unset: all linear ones but the head."
    )
    quantize: Literal["nf4"] | None = Field(
        None,
        description="Keep the linear layers of frozen networks in 4 bits (extra `quant`); unset: in "
        "hardware.precision.",
    )


class SharedLora(LoraSettings):
    """Adapters of all roles of RL on the actor's start, which is in memory once."""

    share: bool = Field(
        True,
        description="Reward and cost models trained with `lora` on the actor's start give only their adapters; "
        "off: each is loaded whole.",
    )


class TrainConfig(Config):
    """What all training stages share."""

    out: Path = Field(description="Directory to write; reopened when it holds this very run unfinished.")
    seed: int = Field(42, ge=0, description="Seed of initialisation, data order, dropout and sampling.")
    max_length: int = Field(512, ge=8, description="Longest prompt plus response, in tokens.")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Sequences (of reward and cost models: labels) per forward pass; unset: the whole batch. "
        "Never changes the gradient.",
    )
    micro_tokens: int | None = Field(
        None,
        ge=1,
        description="In place of micro_batch: tokens per forward pass, padding included; a sequence that has more "
        "goes alone.",
    )
    hardware: Hardware = Field(Hardware(), description="Device, precision, threads.")
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints.")
    checkpoints_kept: int = Field(1, ge=1, description="How many checkpoints stay on disk.")
    trackers: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = Field(
        (), description="Also log to these (extra `trackers`), through accelerate; none by default."
    )

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if self.micro_batch is not None and self.micro_tokens is not None:
            raise ValueError("micro_batch and micro_tokens both limit a forward pass: set one of them")
        return self

    @model_validator(mode="after")
    def _shards_no_few_bits(self) -> Self:
        if self.hardware.shard and (names := self.eight_bit()):
            raise ValueError(f"8-bit optimizer states cannot be sharded: set {names[0]}.bits = 32, or shard off")
        if self.hardware.shard and self.quantize:
            raise ValueError(
                "a base of 4 bits cannot be sharded: unset lora.quantize; or set hardware.shard off, and every "
                "process holds all of it"
            )
        return self

    def eight_bit(self) -> list[str]:
        """Names of the optimizers with 8-bit states."""
        found = ((name, value) for name, value in self if isinstance(value, OptimizerSettings))
        return [name for name, value in found if value.bits == 8]

    @property
    def quantize(self) -> Literal["nf4"] | None:
        """How frozen networks are quantized, if they are."""
        lora = getattr(self, "lora", None)
        return lora.quantize if isinstance(lora, LoraSettings) else None


class SftConfig(TrainConfig):
    """Supervised fine-tuning on demonstrations."""

    model: Path = Field(description="Base model: any directory that AutoModelForCausalLM loads.")
    demonstrations: tuple[DataSource, ...] = Field(min_length=1, description="Files of demonstrations.")
    template: str | None = Field(None, description="Named chat template for a base model that has none.")
    epochs: float = Field(3, gt=0, description="Passes over the data.")
    batch_size: int = Field(32, ge=1, description="Examples per optimizer step, over all processes.")
    held_out: float = Field(0.02, ge=0, lt=1, description="Share of prompts kept for the held-out loss.")
    lora: LoraSettings | None = Field(None, description="Train an adapter; unset: all weights.")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="Optimizer and schedule.")


class ScoreModelConfig(TrainConfig):
    """What reward and cost models share: a backbone, preference data, Bradley–Terry with a norm penalty."""

    model: Path = Field(
        description="What to start from: the SFT policy, any directory AutoModel loads; or a model of the same "
        "kind, which is trained on, head and all."
    )
    pairs: tuple[DataSource, ...] = Field((), description="Files of preference pairs.")
    pooling: Literal["last", "cls", "mean"] = Field(
        "last", description="Where the score is read; cls, mean: encoders."
    )
    template: str | None = Field(None, description="Named chat template for a backbone that has none.")
    epochs: float = Field(2, gt=0, description="Passes over the data.")
    too_long: Literal["refuse", "drop"] = Field(
        "refuse", description="Prompts that leave no room for a response: stop and name them, or leave them out."
    )
    batch_size: int = Field(16, ge=1, description="Pairs per optimizer step, over all processes.")
    regularization: float = Field(1e-3, ge=0, description="μ: weight of the mean squared score.")
    held_out: float = Field(0.1, ge=0, lt=1, description="Share of prompts kept to measure accuracy.")
    lora: LoraSettings | None = Field(None, description="Train an adapter and the head; unset: all weights.")
    optimizer: OptimizerSettings = Field(
        OptimizerSettings(weight_decay=0.1), description="Optimizer and schedule."
    )


class RewardConfig(ScoreModelConfig):
    """A reward model from helpfulness preferences (METHOD §3, L_R)."""

    pairs: tuple[DataSource, ...] = Field(min_length=1, description="Files of pairs with a helpfulness label.")


class CostConfig(ScoreModelConfig):
    """A cost model from harm preferences and safety labels (METHOD §3, L_C)."""

    labels: tuple[DataSource, ...] = Field((), description="Files of single responses with a safety label.")
    loss: CostLoss = Field(
        "ranking+sign",
        description="What it learns. ranking+sign is L_C; the others leave a term out, for comparison: ranking "
        "gives 0 no meaning, sign is a classifier of safe and unsafe.",
    )
    categories: tuple[str, ...] = Field(
        (),
        description="Harm categories that get a cost of their own beside the cost: names as the labels have them, "
        "or beavertails14, or pku19.",
    )
    category_weight: float = Field(1.0, ge=0, description="Weight of the loss of those, a sum over categories.")

    @field_validator("categories", mode="before")
    @classmethod
    def _published(cls, value: object) -> object:
        """A published list in place of its name."""
        match value:
            case str(name) | [str(name)] if name in PUBLISHED:
                return PUBLISHED[name]
            case str(name):
                return (name,)
        return value

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if not self.pairs and not self.labels:
            raise ValueError("give `pairs`, `labels`, or both")
        if self.loss == "ranking" and self.labels:
            raise ValueError("loss = 'ranking' learns from pairs alone: leave `labels` out")
        return self

    @model_validator(mode="after")
    def _categories_differ(self) -> Self:
        if len(set(self.categories)) < len(self.categories):
            raise ValueError("two categories have the same name")
        return self
