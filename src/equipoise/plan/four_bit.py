"""Layers of 4 bits without contents, which take what those of bitsandbytes take; the library itself is not needed.

Kept are half a byte for each weight, a byte for each block of 64 of them, and what those bytes stand for. A pass
multiplies the weights out, one layer after the other, and so does its backward pass. For few rows a GPU computes
with the 4 bits themselves; here they are multiplied out all the same.
"""

from math import prod
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from equipoise.models.four_bit import BLOCK, quantized_layers

SCALES = 256
"""Blocks whose scales share one."""


class Constants(NamedTuple):
    """What belongs to the weights of one layer."""

    scales: Tensor  # (blocks,) uint8
    scales_of_scales: Tensor  # (⌈blocks / 256⌉,) float32
    values: Tensor  # (16,) float32: what 4 bits stand for
    values_of_scales: Tensor  # (256,) float32: what a byte stands for


class FourBitLinear(nn.Linear):
    """A linear layer whose weight is packed; an input of any floating type is multiplied in its own."""

    def __init__(self, shape: tuple[int, int], bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        count = prod(shape)
        blocks = -(-count // BLOCK)
        self.weight = nn.Parameter(torch.empty(-(-count // 2), 1, dtype=torch.uint8), requires_grad=False)
        self.register_parameter("bias", bias)
        self.quant_state = Constants(
            torch.empty(blocks, dtype=torch.uint8),
            torch.empty(-(-blocks // SCALES)),
            torch.empty(16),
            torch.empty(256),
        )

    def forward(self, input: Tensor) -> Tensor:
        """As a linear layer."""
        product: Any = _Product.apply
        return cast("Tensor", product(input, self.bias, (self.out_features, self.in_features)))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return F.linear(x, _unpacked(shape, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        [gradient] = gradients
        return gradient @ _unpacked(ctx.shape, gradient.dtype), None, None


def quantize_layers(model: PreTrainedModel) -> None:
    """Replace the linear layers but the head, as the library does; in place."""
    head = cast("Any", model).get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if type(layer) not in (nn.Linear, Conv1D) or layer is head:
            continue
        plain = cast("nn.Linear | Conv1D", layer)
        across = plain.weight.shape if isinstance(plain, nn.Linear) else plain.weight.shape[::-1]
        model.set_submodule(name, FourBitLinear((across[0], across[1]), plain.bias))


def full_size(model: nn.Module) -> int:
    """Bytes that all 4-bit layers would take in the type that the model computes in; 0 where there are none."""
    weights: int = sum(layer.in_features * layer.out_features for _, layer in quantized_layers(model))
    return weights * next(p.element_size() for p in model.parameters() if p.is_floating_point())


def _unpacked(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """(out, in) weights, made with the scale of each block in float32."""
    scales = torch.empty(-(-prod(shape) // BLOCK))
    weight = torch.empty(shape, dtype=dtype)
    del scales
    return weight
