"""Checkpoints: loop state, weights and optimizers, written whole or not at all.

Layout, in the run's directory: `checkpoints/step-000120/` with `state.json`, `<role>.safetensors` and
`<role>.optimizer.safetensors`; of the weights only the trained ones. A checkpoint is written under a temporary
name, then renamed; only then are older ones removed, so a full disk or a kill leaves the previous one intact. The
tensors are whole, so a run goes on with another number of processes.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from equipoise.artefact import CHECKPOINTS, write_json
from equipoise.errors import ArtefactError
from equipoise.train.sharded import collect, share_of

STATE = "state.json"


def save_checkpoint(
    out: Path,
    state: Mapping[str, Any],
    models: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    *,
    kept: int = 1,
    writes: bool = True,
) -> Path:
    """Write one checkpoint and forget old ones.

    Where networks are in parts, every process calls this: they are gathered role by role.

    Args:
        out: The run's directory.
        state: The loop's state as JSON values; holds `step`, the number of finished steps.
        models: Role → trained network.
        optimizers: Role → its optimizer.
        kept: How many checkpoints stay, this one included.
        writes: Whether this is the process that writes; the others only give what they hold.

    Raises:
        ArtefactError: The disk is full or not writable; older checkpoints are untouched.
    """
    folder = out / CHECKPOINTS
    final = folder / f"step-{state['step']:06d}"
    temporary = folder / ".writing"
    files: dict[str, Iterable[tuple[str, torch.Tensor]]] = {}
    files |= {f"{role}.safetensors": _trained(model) for role, model in models.items()}
    files |= {f"{role}.optimizer.safetensors": _flatten(optimizer) for role, optimizer in optimizers.items()}
    if not writes:
        for tensors in files.values():
            collect(tensors, keep=False)
        return final
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for file_name, tensors in files.items():
            save_file(collect(tensors, keep=True), temporary / file_name)
        write_json(temporary / STATE, dict(state))
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except (OSError, SafetensorError) as error:  # the latter is how a full disk looks through safetensors
        shutil.rmtree(temporary, ignore_errors=True)
        raise ArtefactError(
            "The checkpoint could not be written; older ones are untouched.",
            where=str(final),
            why=str(error),
            fix="Free some disk and run the same command again: it goes on from the last checkpoint.",
        ) from error
    for old in _all(out)[:-kept]:
        shutil.rmtree(old)
    return final


def load_checkpoint(
    out: Path, models: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Any] | None:
    """Put the newest checkpoint into the given networks and optimizers.

    Returns:
        The loop's state, or None where there is no checkpoint.

    Raises:
        ArtefactError: The checkpoint is damaged.
    """
    found = _all(out)
    if not found:
        return None
    newest = found[-1]
    try:
        for role, model in models.items():
            _set_weights(model, load_file(newest / f"{role}.safetensors"))
        for role, optimizer in optimizers.items():
            _unflatten(optimizer, load_file(newest / f"{role}.optimizer.safetensors"))
        return cast("dict[str, Any]", json.loads((newest / STATE).read_text(encoding="utf-8")))
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtefactError(
            "The newest checkpoint cannot be read.",
            where=str(newest),
            why=str(error),
            fix="Remove that folder: the run goes on from the checkpoint before it, or from the start.",
        ) from error


def drop_checkpoints(out: Path) -> None:
    """Remove all checkpoints of a finished run."""
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def _all(out: Path) -> list[Path]:
    return sorted((out / CHECKPOINTS).glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters with gradients, each once however many layers are tied to it."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


@torch.no_grad()
def _set_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    weights = dict(_trained(model))
    if weights.keys() != tensors.keys():
        raise ValueError(f"it holds {len(tensors)} weights, {len(weights)} are trained")
    for name, weight in weights.items():
        weight.copy_(share_of(tensors[name], weight))


def _flatten(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    return (
        (f"{index}.{name}", value if isinstance(value, torch.Tensor) else torch.tensor(value))
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    )


def _unflatten(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        weight = weights[int(index)]
        state.setdefault(int(index), {})[name] = share_of(value, weight) if value.ndim == weight.ndim else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
