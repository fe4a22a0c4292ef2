"""What every loop needs: optimizers, learning rates, data order, interruption.

Learning rate, data order and random numbers are functions of (seed, step), so a resumed run needs none of them
saved. Left out: checkpoints (`checkpoint`), several processes (`processes`), and what a loop decides for itself.
"""

import math
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any, TypeVar

import torch
from peft import LoraConfig
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from equipoise.errors import ConfigError, TrainingError
from equipoise.models.adapters import add_adapter
from equipoise.tokens.batches import Shape, parts_by_length
from equipoise.train.config import Hardware, LoraSettings, OptimizerSettings
from equipoise.train.sharded import gathered

T = TypeVar("T")
_PRIME = 1_000_003


def train_adapter(model: PreTrainedModel, name: str, lora: LoraSettings | None, seed: int) -> None:
    """Freeze a model and put a fresh adapter into it; without settings all its weights stay trainable.

    Raises:
        ModelError: See `add_adapter`.
    """
    if lora is not None:
        targets = list(lora.target_modules) or "all-linear"
        shape = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
        add_adapter(model, name, shape, seed)


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """AdamW over the trainable parameters; matrices decay, vectors (biases, norms) do not.

    Of weights below float32 it trains a float32 copy: the steps of RL are smaller than the distance between
    neighbouring bfloat16 numbers, and would be lost one by one.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    copies = {p: nn.Parameter(p.detach().float()) for p in trained if p.dtype in (torch.bfloat16, torch.float16)}
    weights = [copies.get(p, p) for p in trained]
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = _adam(groups, settings)
    if copies:
        _train_copies(optimizer, copies)
    return optimizer


def _adam(groups: list[dict[str, Any]], settings: OptimizerSettings) -> Optimizer:
    if settings.bits == 32:
        return AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    from equipoise.train.eight_bit import EightBitAdamW  # needs an extra

    adam: Optimizer = EightBitAdamW(groups, lr=settings.lr, betas=settings.betas)
    return adam


def _train_copies(optimizer: Optimizer, copies: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Carry gradients to the copies before a step and weights back after it; the copies are part of its state."""

    def take_gradients(*_: Any) -> None:
        for low, full in copies.items():
            full.grad = None if low.grad is None else low.grad.float()
            low.grad = None

    @torch.no_grad()
    def give_weights(*_: Any) -> None:
        for low, full in copies.items():
            if full.grad is not None:
                low.copy_(full)
                optimizer.state[full]["weight"] = full.detach()

    @torch.no_grad()
    def restore(_: Optimizer) -> None:
        for full in copies.values():
            if "weight" in optimizer.state[full]:
                full.copy_(optimizer.state[full]["weight"])

    optimizer.register_step_pre_hook(take_gradients)
    optimizer.register_step_post_hook(give_weights)
    optimizer.register_load_state_dict_post_hook(restore)


def learning_rate(settings: OptimizerSettings, step: int, total: int) -> float:
    """The learning rate of `step` (from 0) out of `total`: linear warm-up, then the schedule down to 0."""
    warm = max(1, round(settings.warmup * total)) if settings.warmup > 0 else 0
    if step < warm:
        return settings.lr * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    match settings.schedule:
        case "cosine":
            return settings.lr * 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return settings.lr * (1 - done)
        case "constant":
            return settings.lr


def apply_gradients(
    model: nn.Module, optimizer: Optimizer, settings: OptimizerSettings, lr: float
) -> torch.Tensor:
    """Clip the summed gradients, take one optimizer step, clear them.

    Returns:
        The gradient norm before clipping, 0-d.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return gathered(norm.detach())


def step_generator(seed: int, step: int, rank: int, device: torch.device) -> torch.Generator:
    """The generator that samples the responses of one step on one process."""
    return torch.Generator(device).manual_seed(((seed * _PRIME + step) * _PRIME + rank) % 2**63)


@lru_cache(maxsize=8)
def shuffled(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """A permutation of range(count) that depends on (seed, epoch) alone."""
    order = list(range(count))
    random.Random(seed * _PRIME + epoch).shuffle(order)
    return tuple(order)


def batch_at(count: int, size: int, seed: int, step: int) -> list[int]:
    """The indices of batch `step` when shuffled passes over `count` items are laid end to end."""
    return [shuffled(count, seed, i // count)[i % count] for i in range(step * size, (step + 1) * size)]


@lru_cache(maxsize=4)
def length_sorted_batches(
    lengths: tuple[int, ...], size: int, seed: int, epoch: int
) -> tuple[tuple[int, ...], ...]:
    """Batches of one pass in which neighbours in length stay together, so that little is padding.

    Shuffled windows of 16 batches are sorted by length, cut, and the batches shuffled again. The last
    window may end with a smaller batch.
    """
    order = shuffled(len(lengths), seed, epoch)
    window = 16 * size
    batches: list[tuple[int, ...]] = []
    for start in range(0, len(order), window):
        near = sorted(order[start : start + window], key=lambda i: lengths[i])
        batches += [tuple(near[i : i + size]) for i in range(0, len(near), size)]
    return tuple(batches[i] for i in shuffled(len(batches), seed, epoch))


def finite(value: float, name: str, step: int, batch: Sequence[object]) -> float:
    """`value`, unless it is NaN or infinite.

    Raises:
        TrainingError: Names the value, the step and the rows of the batch; nothing of this step was applied.
    """
    if not math.isfinite(value):
        raise TrainingError(
            f"{name[0].upper()}{name[1:]} is {value}.",
            where=f"step {step}, rows {', '.join(map(str, batch))} of the training data",
            why="a learning rate too high, a broken row, or weights that were already broken",
            fix="Look at those rows; lower the learning rate; the last checkpoint is intact.",
        )
    return value


def groups_per_batch(sizes: Sequence[int], wanted: int | None) -> int:
    """How many groups of these sizes hold about `wanted` items together; all of them when it is unset."""
    return len(sizes) if wanted is None else max(1, round(wanted * len(sizes) / sum(sizes)))


def micro_batches(
    items: Sequence[T], shapes: Sequence[Shape], size: int | None, tokens: int | None
) -> list[Sequence[T]]:
    """The items that go through a network together, as `parts_by_length` cuts those of these shapes."""
    return [[items[n] for n in part] for part in parts_by_length(shapes, size, tokens)]


def without_dropout(model: nn.Module) -> nn.Module:
    """Switch dropout off for good, so that sampling, scoring and training see one policy."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]:
            setattr(module, name, 0.0)  # what a layer passes to functional.dropout
    return model.eval()


def recompute_layers(model: nn.Module, hardware: Hardware) -> None:
    """If the settings say so, compute each layer again in the backward pass instead of keeping what it computed.

    The library does so in training mode only, and forgets the sampler's cache there. So each layer by itself, not
    what is inside it, is in training mode exactly while gradients are recorded.

    Args:
        model: A policy, scorer or critic, unwrapped.
        hardware: Whether to do it.

    Raises:
        ConfigError: The library cannot do it for this architecture.
    """
    if not hardware.gradient_checkpointing:
        return
    network: Any = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not (layers and network.supports_gradient_checkpointing):
        raise ConfigError(
            "The layers of this model cannot be computed again in the backward pass.",
            where=str(network.config.name_or_path),
            why=f"transformers has no gradient checkpointing for {type(network).__name__}",
            fix="Leave hardware.gradient_checkpointing off; micro_batch or micro_tokens save memory, too.",
        )
    # transformers 5 renames it
    enable = getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    network.disable_input_require_grads()  # only the reentrant kind needs gradients of its input
    for layer in layers:
        layer.register_forward_pre_hook(_train_with_gradients)


def _train_with_gradients(layer: nn.Module, _: object) -> None:
    layer.training = torch.is_grad_enabled()


@dataclass
class StopRequest:
    """Whether somebody asked the run to stop after the current step."""

    asked: bool = False


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C (or SIGTERM) into a request; the second one interrupts at once."""
    request = StopRequest()
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(_number: int, _frame: FrameType | None) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True

    try:
        for number in kept:
            signal.signal(number, ask)
    except ValueError:  # not the main thread: nobody can press Ctrl-C here
        kept = {}
    try:
        yield request
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
