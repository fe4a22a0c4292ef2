"""Networks in parts (FSDP2): each process holds a share of every weight, its gradient and its optimizer state.

A training pass gathers one layer after the other. Where processes make unlike numbers of passes (sampling,
scoring), `whole` gathers all layers beforehand, so that no pass waits for another process. Everything between
processes is torch's `fully_shard` and `DTensor`. Left out: whole networks on each process (`processes`).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from equipoise.models.adapters import with_weights
from equipoise.models.backbone import causal_logits
from equipoise.records import Response
from equipoise.rollout.score import GuardSource, ModelSource, ScoreSource
from equipoise.train.config import Hardware

Network = TypeVar("Network", bound=nn.Module)
_PLAIN = "_without_weights"


@dataclass(frozen=True)
class WholeSource:
    """A model that gives scores: in parts, and whole while it is asked."""

    source: ScoreSource
    network: nn.Module

    def score(self, responses: Sequence[Response]) -> list[float]:
        """See `ScoreSource`. All processes must ask together, each with as many responses as it has."""
        with whole(self.network):
            return self.source.score(responses)

    @property
    def categories(self) -> tuple[str, ...]:
        """See `ModelSource`."""
        return self.source.categories if isinstance(self.source, ModelSource) else ()

    def score_with_categories(self, responses: Sequence[Response]) -> tuple[list[float], list[list[float]]]:
        """See `ModelSource`, and `score`."""
        assert isinstance(self.source, ModelSource)
        with whole(self.network):
            return self.source.score_with_categories(responses)


def open_mesh(hardware: Hardware, accelerator: Accelerator) -> DeviceMesh | None:
    """All processes in a row, if the settings say `shard` and there are several; else None."""
    if not hardware.shard or accelerator.num_processes == 1:
        return None
    return init_device_mesh(accelerator.device.type, (accelerator.num_processes,))


def load_device(device: torch.device, mesh: DeviceMesh | None) -> torch.device:
    """Where a network is loaded: a device that is to hold parts never holds a whole one."""
    return device if mesh is None else torch.device("cpu")


def shard_network(network: Network, mesh: DeviceMesh | None) -> Network:
    """Keep this process's share of each weight, on its device; in place. Without a mesh nothing happens.

    A unit that is gathered at once is a layer; what is in no layer (embeddings, last norm, heads) stays gathered
    from the forward to the backward pass. Weights keep their type, and gradients are averaged in float32.

    Args:
        network: The same in every process, ready for its optimizer: frozen where it is to be, adapters in place.
        mesh: All processes.
    """
    if mesh is None:
        return network
    skeleton = with_weights(network, lambda p: nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad))
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    model = next(module for module in network.modules() if isinstance(module, PreTrainedModel))
    outside: list[nn.Module] = [model] if model is network else [model, network]
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in reversed(layers):  # what is inside comes first
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    for module in outside:
        fully_shard(module, mesh=mesh, reshard_after_forward=False, mp_policy=policy)
    for unit in _units(network):
        unit.set_force_sum_reduction_for_comms(True)  # then divide: not every backend can average
    object.__setattr__(network, _PLAIN, skeleton)  # past nn.Module, for which it would be a part of the network
    return network


def shard_source(source: ScoreSource, mesh: DeviceMesh | None) -> ScoreSource:
    """The same scores from a model in parts; what is no model of ours stays as it is."""
    match source:
        case ModelSource(scorer=network) | GuardSource(model=network) if mesh is not None:
            return WholeSource(source, shard_network(cast("nn.Module", network), mesh))
    return source


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard_network` has divided it."""
    return isinstance(network, FSDPModule)


@contextmanager
def whole(network: nn.Module) -> Iterator[None]:
    """Have all weights of a network at hand: inside, forward passes without gradients need no other process.

    Entering waits for the other processes. The weights inside are tensors like any other, in their own type.
    """
    if not is_sharded(network):
        yield
        return
    again = [unit for unit in _units(network) if isinstance(unit, GradientCheckpointingLayer)]
    for unit in _units(network):
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in _units(network):
            unit.reshard()
        for layer in again:
            layer.set_reshard_after_forward(True, recurse=False)


def whole_copy(network: Network, accelerator: Accelerator) -> Network | None:
    """The network as it would be without sharding, on the CPU of the main process; None on the others.

    All processes must ask together. A network that is not in parts is returned itself.
    """
    if not is_sharded(network):
        return network if accelerator.is_main_process else None
    found = collect(network.named_parameters(), keep=accelerator.is_main_process)
    if not accelerator.is_main_process:
        return None
    skeleton = cast("Network", getattr(network, _PLAIN))
    names = {id(parameter): name for name, parameter in skeleton.named_parameters()}
    return with_weights(skeleton, lambda p: nn.Parameter(found[names[id(p)]], requires_grad=p.requires_grad))


def collect(tensors: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors by name, those that are in parts gathered one by one into the memory of the CPU.

    All processes must ask together, for the same tensors in the same order.

    Args:
        tensors: Name and tensor.
        keep: Whether this process wants them; else it only gives its parts, and the result is empty.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors:
        value = gathered(tensor.detach())
        if keep:
            found[name] = (value.cpu() if isinstance(tensor, DTensor) else value).contiguous()
    return found


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor, on every process; all of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor, the same in every process, that this process holds of `like`."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def keep_pace(passes: int, accelerator: Accelerator, network: nn.Module) -> None:
    """Let every process make as many training passes as the one with the most: each pass waits for all others.

    What is missing is made up beforehand by passes over one token whose gradient is 0.

    Args:
        passes: How many this process will make.
        accelerator: All processes ask together.
        network: The network in parts.
    """
    counts = cast("Tensor", accelerator.gather(torch.tensor([passes], device=accelerator.device)))
    token = torch.zeros(1, 1, dtype=torch.int64, device=accelerator.device)
    seen = torch.ones_like(token, dtype=torch.bool)
    for _ in range(int(counts.max()) - passes):
        is_policy = isinstance(network, PreTrainedModel)
        output = causal_logits(network, token, seen) if is_policy else network(token, seen)
        (output.sum() * 0.0).backward()


def _units(network: nn.Module) -> list[FSDPModule]:
    return [module for module in network.modules() if isinstance(module, FSDPModule)]
