"""Frozen weights of 4 bits under adapters (nf4 with double quantization, as in QLoRA), by bitsandbytes.

Every linear layer but the head is kept so, and multiplied out anew in each pass; embeddings, norms and biases stay
as they are. Left out: whether the library is there (`train.processes`), and which networks are loaded so.
"""

from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from equipoise.errors import ModelError

Quantize = Literal["nf4"]
BLOCK = 64
"""Weights that share a scale."""


def loading_options(kind: Quantize, dtype: torch.dtype | str, device: torch.device | str) -> dict[str, Any]:
    """What `from_pretrained` needs to be told; each weight is quantized as it arrives on the device.

    Args:
        kind: Of the 4 bits.
        dtype: That products are computed in; of the run.
        device: Where the weights go.
    """
    settings: Any = BitsAndBytesConfig
    options = settings(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": options, "device_map": {"": torch.device(device)}}


def make_trainable(model: PreTrainedModel) -> None:
    """See that gradients pass through the 4-bit layers of a model that was just loaded, if any, and are right.

    Raises:
        ModelError: On this device they would not be.
    """
    for name, layer in quantized_layers(model):
        layer.support_avx512bf16_for_cpu = False  # its layout has no backward pass, and would be every role's
        if model.device.type == "cpu" and layer.in_features % BLOCK:
            raise ModelError(
                f"Layers that read {layer.in_features} features cannot have 4 bits on a CPU.",
                where=f"{name} of {model.config.name_or_path}",
                why=f"bitsandbytes takes blocks of {BLOCK} there that end with a row, and would compute nonsense",
                fix="Unset lora.quantize, or run it on a GPU.",
            )


def is_quantized(model: nn.Module) -> bool:
    """Whether a network has weights of 4 bits."""
    return any(True for _ in quantized_layers(model))


def quantized_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers with weights of 4 bits, by name; they hold the constants of their blocks in `quant_state`."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "quant_state")]
