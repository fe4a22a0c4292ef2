"""A network in parts, as `hardware.shard` divides it: what one of several processes keeps, and what it gathers.

Kept is a share of every weight, its gradient and its optimizer state. A training pass gathers the weights of a
layer and of the next one; what is in no layer (embeddings, last norm, heads) stays gathered throughout. Gradients
are whole until those of a layer are there, and are sent in float32. Sampling and scoring gather the whole network.
Left out: networks that are whole in every process.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from equipoise.plan.ledger import Ledger

Pair = tuple[nn.Parameter, nn.Parameter]
"""A weight as the network computes with it, and the share of it that a process keeps."""


class Parts(NamedTuple):
    """A network whose own weights are not counted any more."""

    kept: nn.ParameterList  # what the optimizer of this process sees
    whole: int  # bytes of all weights
    in_training: int  # of those that are gathered at a time in a training pass


def divide(network: nn.Module, processes: int, ledger: Ledger) -> Parts:
    """Keep a share of each weight in place of the weight.

    Args:
        network: Ready for its optimizer; its backward passes leave gradients in the shares.
        processes: How many share it.
        ledger: Where its weights are counted.
    """
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    taken: set[nn.Parameter] = set()
    units: list[list[Pair]] = []
    for module in (*layers, network):
        weights = [p for p in module.parameters() if p not in taken]
        taken.update(weights)
        units.append([(p, _share(p, processes)) for p in weights])
    for unit in units:
        for weight, _ in unit:
            ledger.leave_out(weight)
            if weight.requires_grad:
                cast("Any", weight).register_post_accumulate_grad_hook(partial(_reduce, unit))
    *sizes, rest = (sum(weight.nbytes for weight, _ in unit) for unit in units)
    kept = nn.ParameterList(share for unit in units for _, share in unit)
    return Parts(kept, sum(sizes) + rest, rest + sum(sorted(sizes)[-2:]))


def _share(weight: nn.Parameter, processes: int) -> nn.Parameter:
    """Of the first of the processes: the others may have a row less."""
    rows = -(-weight.shape[0] // processes)
    return nn.Parameter(weight.detach().new_empty(rows, *weight.shape[1:]), requires_grad=weight.requires_grad)


def _reduce(unit: Sequence[Pair], _: Tensor) -> None:
    """Once a layer has all its gradients, keep a share of them."""
    trained = [pair for pair in unit if pair[0].requires_grad]
    if any(weight.grad is None for weight, _ in trained):
        return
    sent = torch.empty(sum(weight.numel() for weight, _ in trained), dtype=torch.float32)
    for weight, share in trained:
        share.grad = torch.zeros_like(share) if share.grad is None else share.grad
        weight.grad = None
    del sent
