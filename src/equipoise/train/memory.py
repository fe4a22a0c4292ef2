"""Memory of the device in a training step: what to do when it runs out, and activations kept off it.

Left out: settings that need less of it (`micro_batch`, `gradient_checkpointing`, `lora`), which act elsewhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from equipoise.errors import TrainingError
from equipoise.train.config import TrainConfig
from equipoise.train.processes import synchronized

SAMPLING = "Lower batch_size or sampling.max_new_tokens; with lora all roles share one base."
SCORING = "Lower reward.batch_size, cost.batch_size; for the reference micro_batch or micro_tokens; or set lora."
TRAINING = (
    "Lower micro_batch or micro_tokens; then set hardware.gradient_checkpointing, hardware.offload_activations or "
    "lora."
)
UPDATING = "Set lora: fewer weights have gradients and optimizer states then."


@contextmanager
def memory_for(phase: str, fix: str) -> Iterator[None]:
    """Say what a device ran out of memory for, and what to change.

    Args:
        phase: What is done inside, after "while": "training the actor".
        fix: One of the texts of this module.

    Raises:
        TrainingError: The device ran out of memory inside.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"The device ran out of memory while {phase}.",
            why=str(error).split(" If reserved")[0].strip(),  # what follows is advice on torch's allocator
            fix=f"{fix} Other settings are another run and need another `out`; with the same ones, where there is "
            "more memory, it goes on from the last checkpoint.",
        ) from error


@contextmanager
def training(
    network: nn.Module, role: str, number: int, count: int, accelerator: Accelerator, config: TrainConfig
) -> Iterator[None]:
    """Around the forward and backward pass of a micro-batch; see `synchronized`.

    Args:
        network: The network, wrapped or not.
        role: Which one it is, for the message when memory runs out.
        number: Of the micro-batch, from 0.
        count: How many there are in this process.
        accelerator: The processes.
        config: With `hardware.offload_activations` what the backward pass needs waits in main memory, but for
            the weights.

    Raises:
        TrainingError: The device ran out of memory inside.
    """
    activations = _offloaded(network) if config.hardware.offload_activations else nullcontext()
    averaged = synchronized(number, count, accelerator, network)
    with memory_for(f"training the {role}", TRAINING), activations, averaged:
        yield


def _offloaded(model: nn.Module) -> saved_tensors_hooks:
    """Like torch's `save_on_cpu`, which would move the weights, too."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: Tensor) -> tuple[torch.device, Tensor]:
        if tensor.untyped_storage().data_ptr() in weights:
            return tensor.device, tensor
        pinned = tensor.device.type == "cuda"
        kept = torch.empty(tensor.size(), dtype=tensor.dtype, layout=tensor.layout, pin_memory=pinned)
        return tensor.device, kept.copy_(tensor)

    def unpack(packed: tuple[torch.device, Tensor]) -> Tensor:
        device, tensor = packed
        return tensor.to(device, non_blocking=tensor.is_pinned())

    return saved_tensors_hooks(pack, unpack)
