"""Foreign checkpoints in and out: the published Beaver layout, and pickled weights of any model.

The Beaver layout (beaver-7b-*-reward and -cost, architecture `LlamaForScore`) keeps backbone, head and normalizer
in one set of tensors: `model.*`, `score_head.{weight,bias}`, `normalizer.{mean,var,count}`. Only here are `.bin`
files read, as tensors only. Checked on synthetic checkpoints of that layout, not on the published weights.
Left out: quantized and adapter checkpoints.
"""

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

from equipoise.artefact import write_json
from equipoise.errors import ModelError
from equipoise.models.backbone import load_pretrained, save_policy
from equipoise.models.files import replace_files
from equipoise.models.normalize import Normalizer
from equipoise.models.score_head import (
    HEAD_FILE,
    HeadSettings,
    Scorer,
    load_scorer,
    read_head_settings,
    save_scorer,
)
from equipoise.tokens.folder import model_folder
from equipoise.tokens.template import load_tokenizer

BEAVER_KEYS = (
    *("score_dim", "score_bias", "score_type"),
    *("do_normalize", "normalizer_type", "momentum", "mean", "var"),
)
HEAD_KEYS = ("score_head.", "normalizer.")


def convert(source: str | Path, out: Path) -> Path:
    """Read a checkpoint of a foreign layout and write it in ours.

    Args:
        source: A Beaver reward or cost model, or a causal language model with pickled weights.
        out: Where the scorer or the policy goes, in the precision it was stored in.

    Returns:
        `out`.

    Raises:
        ModelError: The folder is no model, or its score head is none that we know.
    """
    folder = model_folder(source)
    config = _read_config(folder)
    if "score_dim" in config or "score_type" in config:
        _convert_beaver(folder, config, out)
    elif (folder / HEAD_FILE).exists():
        raise ModelError("The folder is a scorer in our layout already.", where=str(folder))
    else:
        model = load_pretrained(AutoModelForCausalLM, folder, safetensors=_has_safetensors(folder))
        save_policy(model, load_tokenizer(folder), out)
    return out


def export_beaver(source: str | Path, out: Path) -> Path:
    """Write one of our scorers in the published Beaver layout, as the original Safe RLHF code loads it.

    That layout has one score: the costs of harm categories, if there are any, stay behind.

    Args:
        source: A reward or cost model with a causal backbone.
        out: The new folder.

    Returns:
        `out`.

    Raises:
        ModelError: The folder holds no scorer, or an encoder, for which that layout has no place.
    """
    settings = read_head_settings(source)
    if settings.pooling != "last":
        raise ModelError("The Beaver layout has no place for an encoder.", where=str(source))
    scorer, tokenizer = load_scorer(source, dtype="auto"), load_tokenizer(source)
    normalizer = settings.normalizer
    tensors = {f"model.{name}": tensor for name, tensor in scorer.backbone.state_dict().items()}
    tensors |= {f"score_head.{name}": tensor for name, tensor in scorer.head.state_dict().items()}
    tensors |= {
        "normalizer.mean": torch.tensor([normalizer.mean]),
        "normalizer.var": torch.tensor([normalizer.std**2]),
        "normalizer.count": torch.tensor([1]),
    }
    name = type(scorer.backbone).__name__.removesuffix("Model")
    config = scorer.backbone.config.to_dict() | {
        "architectures": [f"{name}ForScore"],
        "score_dim": 1,
        "score_bias": True,
        "score_type": settings.kind,
        "do_normalize": normalizer.on,
    }

    def write(folder: Path) -> None:
        tokenizer.save_pretrained(str(folder))
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
        write_json(folder / "config.json", config)

    replace_files(out, write)
    return out


def _convert_beaver(folder: Path, config: dict[str, Any], out: Path) -> None:
    kind = config.get("score_type")
    if kind not in ("reward", "cost") or config.get("score_dim", 1) != 1:
        raise ModelError(
            f"A head of type {kind!r} with {config.get('score_dim', 1)} scores cannot be converted.",
            where=str(folder / "config.json"),
            why="A scorer gives one number, a reward or a cost.",
            fix="Critics start from a reward or cost model; convert that one.",
        )
    backbone = load_pretrained(AutoModel, folder, safetensors=_has_safetensors(folder))
    for key in BEAVER_KEYS:
        if hasattr(backbone.config, key):
            delattr(backbone.config, key)
    scorer = Scorer(backbone)
    tensors = {key: tensor.float() for key, tensor in _tensors(folder, HEAD_KEYS)}
    weight = tensors.get("score_head.weight")
    if weight is None or weight.shape != scorer.head.weight.shape:
        raise ModelError(
            "The folder has no score head that fits its backbone.",
            where=str(folder),
            why=f"score_head.weight is {'missing' if weight is None else tuple(weight.shape)}, "
            f"it must be {tuple(scorer.head.weight.shape)}.",
        )
    bias = tensors.get("score_head.bias", torch.zeros(1))
    scorer.head.load_state_dict({"weight": weight, "bias": bias})
    normalizer = Normalizer(
        bool(config.get("do_normalize", False)),
        _number(tensors.get("normalizer.mean"), config.get("mean"), 0.0),
        math.sqrt(_number(tensors.get("normalizer.var"), config.get("var"), 1.0)),
    )
    template = None if _has_template(folder) else "beaver"
    save_scorer(scorer, load_tokenizer(folder, template=template), out, HeadSettings(kind, "last", normalizer))


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError(
            "The folder is no model: its config.json is missing or broken.", where=str(folder), why=str(error)
        ) from error


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _has_template(folder: Path) -> bool:
    settings = folder / "tokenizer_config.json"
    inline = settings.exists() and "chat_template" in json.loads(settings.read_text(encoding="utf-8"))
    return inline or (folder / "chat_template.jinja").exists()


def _tensors(folder: Path, prefixes: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """The named tensors of a checkpoint, whatever its files; pickled ones are read as tensors only."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from ((key, file.get_tensor(key)) for key in file.keys() if key.startswith(prefixes))  # noqa: SIM118
    if not _has_safetensors(folder):
        for path in sorted(folder.glob("pytorch_model*.bin")):
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            yield from ((key, value) for key, value in tensors.items() if key.startswith(prefixes))


def _number(tensor: Tensor | None, setting: Any, default: float) -> float:
    """A normalizer's number: the trained tensor, else the configuration's, else the default."""
    if tensor is not None:
        return float(tensor.reshape(-1)[0])
    return float(setting) if isinstance(setting, int | float) else default
