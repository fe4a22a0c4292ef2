"""Policies trained at several limits → one between them: a weighted mean of their weights.

Fine-tuned from one model, two policies are joined by a line on which each point is a policy too: a dial between
cautious and helpful (Ramé et al. 2023, "Rewarded soups", arXiv 2306.04488). That is an observation and no theorem;
`evaluate` says what a point is worth. Tensors are read, summed in float32 and written one at a time. Weights that
the networks tie lie in the files once, and stay tied.

Of policies with adapters the merged weights are averaged: Σ wᵢ·(W + ΔWᵢ) = W + Σ wᵢ·ΔWᵢ as Σ wᵢ = 1. The mean of
several B·A has a rank beyond theirs, so the result has no adapter: PEFT's `add_weighted_adapter` is exact as `cat`
only, which adds the ranks up. Left out: ties, dare and other merges that are not linear.
"""

import json
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from equipoise import artefact
from equipoise.errors import ModelError
from equipoise.models.adapters import base_of_adapter
from equipoise.models.config import MergeConfig
from equipoise.models.files import check_folder, replace_files
from equipoise.models.score_head import HEAD_FILE
from equipoise.tokens.folder import model_folder
from equipoise.tokens.template import load_tokenizer

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
COPIED = ("config.json", "generation_config.json", INDEX)
SUMMED = ("F64", "F32", "F16", "BF16")
"""Types that are averaged; tensors of any other, such as packed 4-bit weights, must be the same everywhere."""
PASSED_OVER = ("_name_or_path", "transformers_version")
"""Keys of config.json that say where a model comes from."""


class Stored(NamedTuple):
    """One tensor on disk."""

    file: Path
    type: str
    shape: tuple[int, ...]


class Source(NamedTuple):
    """One of the policies, of which nothing is loaded yet."""

    folder: Path
    tensors: Mapping[str, Stored]


def merge(config: MergeConfig) -> Path:
    """Average policies.

    Args:
        config: Settings; `out` becomes a directory of kind "policy", or with `points` a folder of such.

    Returns:
        `config.out`.

    Raises:
        ModelError: A directory holds no policy, or the policies differ in more than their weights: says in what.
    """
    sources = [_source(path) for path in config.policies]
    for path, source in zip(config.policies[1:], sources[1:], strict=True):
        _check_same(config.policies[0], path, sources[0], source)
    if config.points is None:
        return _merge(config, sources)
    for i in range(config.points):
        share = i / (config.points - 1)
        place = config.out / f"point-{share:.2f}"
        _merge(config.model_copy(update={"out": place, "weights": (1 - share, share), "points": None}), sources)
    return config.out


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ wᵢ·tᵢ, summed in float32 (float64 if they are), in the type of the first.

    Args:
        tensors: Of one shape and type.
        weights: As many.
    """
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    total = torch.zeros_like(tensors[0], dtype=wide)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor.to(wide), alpha=weight)
    return total.to(tensors[0].dtype)


def _merge(config: MergeConfig, sources: Sequence[Source]) -> Path:
    inputs = {f"policy-{i}": path for i, path in enumerate(config.policies)}
    build = artefact.start(config.out, "policy", config, inputs)
    if build.is_finished:
        return config.out
    parts = [(source, weight) for source, weight in zip(sources, config.weights, strict=True) if weight != 0]
    first = sources[0]

    def write(folder: Path) -> None:
        load_tokenizer(first.folder).save_pretrained(str(folder))
        for name in COPIED:
            if (first.folder / name).exists():
                shutil.copyfile(first.folder / name, folder / name)
        for file in _weight_files(first.folder):
            _write_file(folder / file.name, file, parts)

    replace_files(config.out, write)
    artefact.finish(build, {"weights": list(config.weights), "tensors": len(first.tensors)})
    return config.out


def _write_file(out: Path, pattern: Path, parts: Sequence[tuple[Source, float]]) -> None:
    """A file of weights of the very layout of another: its header, and behind it one tensor after the other."""
    with pattern.open("rb") as file, out.open("wb") as made:
        size = file.read(8)
        header = file.read(struct.unpack("<Q", size)[0])
        made.write(size + header)
        places = {
            name: entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"
        }
        for name in sorted(places, key=places.__getitem__):
            made.write(_bytes(_merged(name, parts)))


def _merged(name: str, parts: Sequence[tuple[Source, float]]) -> Tensor:
    stored = [source.tensors[name] for source, _ in parts]
    tensors = [_read(name, one.file) for one in stored]
    if len(parts) == 1:
        return tensors[0]
    if stored[0].type not in SUMMED:
        if any(_bytes(tensor) != _bytes(tensors[0]) for tensor in tensors):
            raise ModelError(
                f"The policies differ in {name}, and its type {stored[0].type} cannot be averaged.",
                where=str(stored[0].file),
                fix="Merge policies whose weights are plain floating-point numbers.",
            )
        return tensors[0]
    result = weighted_sum(tensors, [weight for _, weight in parts])
    if not bool(result.isfinite().all()):
        raise ModelError(
            f"The mean of {name} is not finite.",
            where=", ".join(str(one.file) for one in stored),
            why="a policy holds such a number, or a weight far from 0 to 1 leaves the range of the type",
        )
    return result


def _read(name: str, file: Path) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _source(path: Path) -> Source:
    folder = model_folder(path)
    check_folder(folder, safetensors=True)
    if (folder / HEAD_FILE).exists():
        raise ModelError("The directory holds a reward or cost model, and policies are merged.", where=str(path))
    tensors = {}
    try:
        for file in _weight_files(folder):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    part = opened.get_slice(name)
                    tensors[name] = Stored(file, part.get_dtype(), tuple(part.get_shape()))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError("The weights cannot be read.", where=str(path), why=str(error).split("\n")[0]) from error
    return Source(folder, tensors)


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / INDEX).exists():
        return [folder / ONE_FILE]
    shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / name for name in sorted(set(shards))]


def _check_same(first: Path, other: Path, one: Source, two: Source) -> None:
    """Refuse two policies that differ in more than the values of their weights."""
    found = (_config(one.folder), _config(two.folder))
    _refuse(first, other, "configurations", *found)
    _refuse(first, other, "tokenizers", *(_traits(load_tokenizer(source.folder)) for source in (one, two)))
    tensors = ({n: (t.type, t.shape) for n, t in source.tensors.items()} for source in (one, two))
    _refuse(first, other, "tensors", *tensors)
    bases = [base.fingerprint for path in (first, other) if (base := base_of_adapter(path))]
    if len(set(bases)) > 1:
        raise ModelError(
            "The policies' adapters were trained on different models.",
            where=f"{first} and {other}",
            fix="Merge policies that come from one model.",
        )


def _config(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: value for key, value in tree.items() if key not in PASSED_OVER}


def _traits(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What makes a tokenizer the one it is; how it pads and cuts is no part of that."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend else {}
    return {
        **{f"token {token!r}": number for token, number in tokenizer.get_vocab().items()},
        **{str(name): str(token) for name, token in tokenizer.special_tokens_map.items()},
        **{name: rule for name, rule in rules.items() if name not in ("padding", "truncation")},
        "chat template": tokenizer.chat_template,
    }


def _refuse(first: Path, other: Path, what: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
    names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    if names:
        shown = [f"{name}: {_shown(one.get(name))} and {_shown(two.get(name))}" for name in names[:3]]
        more = f"; and {len(names) - 3} more" if len(names) > 3 else ""
        raise ModelError(
            f"The policies have different {what}.",
            where=f"{first} and {other}",
            why="; ".join(shown) + more,
            fix="Merge policies that were trained from one model.",
        )


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
