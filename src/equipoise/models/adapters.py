"""LoRA adapters by PEFT, on a model of its own or on weights that several networks share.

A network with an adapter is the model itself with PEFT's layers inside, so sampling, scoring and training do not
know. Networks on one base are separate objects on the same tensors, each with an adapter of its own: nothing is
switched between passes. Left out: which role gets which adapter (`train.roles`).

Layout, beside the merged model: `adapter/` as PEFT writes it, with `base.json`: whose adapter it is.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from equipoise.artefact import file_hashes, write_json
from equipoise.config import hash_tree
from equipoise.errors import ModelError
from equipoise.models.files import ADAPTER
from equipoise.models.four_bit import is_quantized, quantized_layers
from equipoise.tokens.folder import model_folder

BASE = "base.json"
WEIGHTS = "adapter_model.safetensors"
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Base:
    """The model that an adapter was made on."""

    path: str
    fingerprint: str  # of its weights, wherever they lie


def on_same_weights(model: Network) -> Network:
    """Another network on the very same parameters; an adapter that is added to one is not in the other."""
    return with_weights(model, lambda parameter: parameter)


def with_weights(model: Network, weight: Callable[[nn.Parameter], nn.Parameter]) -> Network:
    """Another object of the same structure, each of its parameters made from the old one; ties stay ties."""
    made: dict[int, Any] = {id(parameter): weight(parameter) for parameter in model.parameters()}
    made |= {id(buffer): buffer.clone() for buffer in model.buffers()}
    made |= {id(layer.quant_state): layer.quant_state for _, layer in quantized_layers(model)}
    return copy.deepcopy(model, made)


def add_adapter(model: PreTrainedModel, name: str, shape: LoraConfig, seed: int) -> None:
    """Freeze a model and put a fresh adapter into it, which changes nothing yet: B = 0.

    Args:
        model: What `from_pretrained` loaded.
        name: Of the adapter: the role.
        shape: Rank, scale, dropout and layers.
        seed: Of the weights A, which are the same on every device.

    Raises:
        ModelError: A target is no layer of the model, or none that can have an adapter.
    """
    where = str(model.config.name_or_path)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    linear = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
    if unknown := _unknown_targets(model, shape):
        raise ModelError(
            f"No layer of the model is called {unknown[0]!r}.",
            where=where,
            fix=f"Name some of these in lora.target_modules, or leave it unset: {linear}.",
        )
    shape.base_model_name_or_path = where
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _inject(model, name, shape)
    except ValueError as error:
        raise ModelError(
            "A layer of this model cannot have an adapter.",
            where=where,
            why=str(error).split("\n")[0],
            fix=f"Name linear layers in lora.target_modules: {linear}.",
        ) from error
    embedding = cast("nn.Embedding", model.get_input_embeddings()).weight
    if any(layer.get_base_layer().weight is embedding for _, layer in adapted_layers(model)):
        raise ModelError(
            "The layer that shares its weights with the embedding cannot have an adapter.",
            where=where,
            why="merged, the adapter would change both",
            fix="Leave it out of lora.target_modules.",
        )


def load_adapter(model: PreTrainedModel, path: str | Path, name: str, *, trainable: bool) -> None:
    """Freeze a model and put the adapter from a finished directory into it.

    Args:
        model: The adapter's base, without an adapter yet.
        path: What a stage wrote; the adapter lies in its folder `adapter`.
        name: Of the adapter in this network: the role.
        trainable: Whether the adapter gets gradients.

    Raises:
        ModelError: The adapter cannot be read, or was made for another architecture.
    """
    folder = model_folder(path) / ADAPTER
    try:
        shape = LoraConfig.from_pretrained(str(folder))
        shape.inference_mode = not trainable
        _inject(model, name, shape)
        result: Any = set_peft_model_state_dict(model, load_file(folder / WEIGHTS), name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            "The adapter cannot be loaded into this model.",
            where=str(folder),
            why=str(error).split("\n")[0],
            fix="Check that the adapter is complete and was trained on this very model.",
        ) from error
    strange = [*(key for key in result.missing_keys if f".{name}." in key), *result.unexpected_keys]
    if strange:
        raise ModelError(
            "The adapter does not fit the layers of this model.",
            where=str(folder),
            why=f"{len(strange)} weights have no counterpart, among them {strange[0]}",
            fix="Give the model that it was trained on.",
        )


def merged(model: PreTrainedModel, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A plain model with the adapter in its weights, W + (alpha/r)·B·A; `model` stays as it is.

    What the adapter does not change is shared with `model` if that is on the same device. Weights of 4 bits are
    read again as they were before they were quantized.

    Raises:
        ModelError: They are not where they were.
    """
    if is_quantized(model):
        plain: nn.Module = _in_full(model)
    else:
        plain = with_weights(model, lambda p: nn.Parameter(p.detach().to(device), requires_grad=False))
    for name, layer in list(adapted_layers(plain)):
        layer.merge(safe_merge=True)  # into new tensors: the old ones may belong to `model`
        plain.set_submodule(name, layer.get_base_layer())
    return cast("PreTrainedModel", plain.to(device))


def for_many_passes(model: PreTrainedModel) -> PreTrainedModel:
    """The model to make many passes with without gradients: with an adapter, `merged` on its own device.

    The merged weights take memory of their own. They are made in float32 only: with fewer bits the sum would lose
    the small steps of an adapter. Weights of 4 bits stay: they are there to save that memory.
    """
    quick = has_adapter(model) and model.dtype == torch.float32 and not is_quantized(model)
    return merged(model, model.device) if quick else model


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write a model as `from_pretrained` loads it; one with an adapter is merged, with the adapter beside it.

    Raises:
        OSError, SafetensorError: The disk is full or refuses.
    """
    if not has_adapter(model):
        model.save_pretrained(str(folder))
        return
    merged(model).save_pretrained(str(folder))
    (folder / ADAPTER).mkdir()
    save_adapter(model, folder / ADAPTER)
    [shape] = model.peft_config.values()
    write_json(folder / ADAPTER / BASE, asdict(base_at(str(shape.base_model_name_or_path))))


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapter in a model as PEFT does; errors as `save_model`."""
    [(name, shape)] = cast("dict[str, LoraConfig]", model.peft_config).items()
    tensors = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    save_file(
        {f"base_model.model.{key}": tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
        folder / WEIGHTS,
    )
    shape.save_pretrained(str(folder))


def base_at(path: str | Path) -> Base:
    """A model folder as the base of adapters.

    Raises:
        ModelError: There is no such folder.
    """
    return Base(str(path), hash_tree(file_hashes(model_folder(path), "model*.safetensors")))


def base_of_adapter(path: str | Path) -> Base | None:
    """The base of the adapter in a finished directory; None where there is no adapter.

    Raises:
        ModelError: There is no such directory, or its `base.json` is broken.
    """
    file = model_folder(path) / ADAPTER / BASE
    if not file.exists():
        return None
    try:
        return Base(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError("Whose adapter this is cannot be read.", where=str(file), why=repr(error)) from error


def has_adapter(model: nn.Module) -> bool:
    """Whether an adapter was put into a model."""
    return hasattr(model, "peft_config")


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """The layers of a network that have an adapter, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def _in_full(model: PreTrainedModel) -> PreTrainedModel:
    """The base of a 4-bit model as it lies on disk, in the type that the model computes in, with its adapter."""
    [(name, shape)] = cast("dict[str, LoraConfig]", model.peft_config).items()
    kind: Any = type(model)
    try:
        plain = kind.from_pretrained(
            shape.base_model_name_or_path, dtype=model.dtype, use_safetensors=True, local_files_only=True
        )
    except OSError as error:
        raise ModelError(
            "The base of the adapter is needed again, to merge it, and cannot be read.",
            where=str(shape.base_model_name_or_path),
            why=str(error).split("\n")[0],
            fix="Put the model back, and run the command again: it goes on from the last checkpoint.",
        ) from error
    if hasattr(model, "pooler") and model.pooler is None:
        plain.register_module("pooler", None)
    _inject(plain, name, copy.deepcopy(shape))
    set_peft_model_state_dict(plain, get_peft_model_state_dict(model, adapter_name=name), name)
    return cast("PreTrainedModel", plain.eval())


def _inject(model: PreTrainedModel, name: str, shape: LoraConfig) -> None:
    shape.fan_in_fan_out = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2 stores Wᵀ
    if is_quantized(model):
        cast("Any", model).is_loaded_in_4bit = True  # PEFT asks a backbone, too; the library told the whole model
    inject_adapter_in_model(shape, model, name)
    for _, layer in adapted_layers(model):
        for matrices in (layer.lora_A, layer.lora_B):  # on weights of 4 bits PEFT makes them in float32
            matrices.to(model.dtype)
    # PEFT keeps a set, whose order differs from process to process
    shape.target_modules = sorted(cast("set[str]", shape.target_modules))


def _unknown_targets(model: PreTrainedModel, shape: LoraConfig) -> list[str]:
    """Names that match no layer; PEFT passes over them as long as another one matches."""
    if isinstance(shape.target_modules, str):  # all-linear
        return []
    names = [f".{name}" for name, _ in model.named_modules()]
    return [t for t in sorted(shape.target_modules or ()) if not any(n.endswith(f".{t}") for n in names)]
