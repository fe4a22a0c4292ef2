"""One run in several processes: joining them, dividing a batch, and agreeing on numbers, files and when to stop.

Every process has its share of each batch, and the same λ. The main process writes. With one process every function
here is the identity. Left out: networks that are in parts (`sharded`).
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from importlib import import_module
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    gather_object,
)
from torch import nn

from equipoise import artefact
from equipoise.errors import ConfigError, TrainingError
from equipoise.models.devices import pick_device
from equipoise.train.config import Hardware, TrainConfig
from equipoise.train.setup import StopRequest
from equipoise.train.sharded import is_sharded, keep_pace

T = TypeVar("T")
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
_OF_THE_LIBRARY = ("gloo", "NCCL", "ProcessGroup", "Application timeout caused pair closure")
"""What messages about other processes have in them; those of gloo have no type of their own."""


def begin(config: TrainConfig) -> Accelerator:
    """Join the other processes, if any, and set the number of CPU threads.

    Raises:
        ConfigError: There is no such device, it has no memory to offload from, a tracker or bitsandbytes is not
            installed, or the launcher asks for sharding.
    """
    device = pick_device(config.hardware.device)
    _check_offload(config.hardware, device)
    _check_trackers(config.trackers)
    _check_quant(config)
    _forget_other_device(device)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # precision is the run's own setting, the same for sampling and training
        log_with=list(config.trackers) or None,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(seconds=config.hardware.timeout)),
            DistributedDataParallelKwargs(broadcast_buffers=False),  # they are constants, the same everywhere
        ],
        project_dir=config.out.with_name(f"{config.out.name}-trackers") if config.trackers else None,
    )
    if config.hardware.threads is not None:  # after accelerate, which has its own idea of the number
        torch.set_num_threads(config.hardware.threads)
    if accelerator.distributed_type in SHARDED:
        raise ConfigError(
            f"The launcher asks for {accelerator.distributed_type.value}, which would shard one network only.",
            fix="Launch without it (accelerate launch --multi_gpu, or torchrun) and set hardware.shard = true.",
        )
    return accelerator


@contextmanager
def joined(rank: int, size: int, port: int) -> Iterator[None]:
    """Be one of several processes of this machine for the stage inside, told so as torchrun would tell it.

    Args:
        rank: This one's number, 0 for the main process.
        size: How many there are.
        port: A free one of this machine, the same for all.
    """
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    told |= {"MASTER_PORT": port, "OMP_NUM_THREADS": torch.get_num_threads()}
    texts = {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1"}
    if sys.platform == "linux":
        texts["GLOO_SOCKET_IFNAME"] = "lo"
    before = dict(os.environ)
    os.environ.update(texts)
    _forget_processes()
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # also lets go whoever waits for a process that failed
        _forget_processes()
        os.environ.clear()
        os.environ.update(before)


def open_run(
    accelerator: Accelerator, kind: str, config: TrainConfig, inputs: Mapping[str, Path]
) -> artefact.Build:
    """`artefact.start`, the main process first: the others find what it left. Opens the trackers."""
    with accelerator.main_process_first():
        build = artefact.start(config.out, kind, config, inputs)
    if config.trackers and not build.is_finished:
        accelerator.init_trackers("equipoise")
    return build


def is_finished(config: TrainConfig) -> bool:
    """Whether `out` is complete, so that no data need be read; `open_run` says whether it is this very run."""
    return (config.out / artefact.MANIFEST).exists()


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Say in words, in a stage of several processes, that another one has ended or hangs.

    Raises:
        TrainingError: In place of what the library between processes says.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        if not torch.distributed.is_initialized() or not any(word in said for word in _OF_THE_LIBRARY):
            raise
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        raise TrainingError(
            "Another process of this run has ended, or has not answered in time.",
            where=f"process {rank} of 0 to {size - 1}",
            why=said,
            fix="Look at the output of the process that ended first; hardware.timeout is how long to wait for a "
            "slow one. Start all of them again: the run goes on from its last checkpoint.",
        ) from error


def end(accelerator: Accelerator) -> None:
    """Wait until the main process has written the result, and close the trackers."""
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()


def shard(items: Sequence[T], accelerator: Accelerator) -> list[T]:
    """The share of a batch that falls to this process: every n-th item.

    Raises:
        ConfigError: There are fewer items than processes.
    """
    if len(items) < accelerator.num_processes:
        raise too_few(len(items), accelerator.num_processes)
    return share(items, accelerator)


def share(items: Sequence[T], accelerator: Accelerator) -> list[T]:
    """`shard` where a process may come away empty-handed."""
    return list(items[accelerator.process_index :: accelerator.num_processes])


def gather(mine: Sequence[float], accelerator: Accelerator) -> list[float]:
    """The numbers of all processes, one of each in turn, the same list everywhere; a process may have none.

    Where each item of a batch has one, that is the order that they had before `shard`.
    """
    if accelerator.num_processes == 1:
        return list(mine)
    everyone: list[list[float]] = gather_object([list(mine)])
    return [value for value in chain.from_iterable(zip_longest(*everyone)) if value is not None]


def whole_batches(batches: Sequence[Sequence[int]], accelerator: Accelerator) -> list[Sequence[int]]:
    """The batches that have something for every process.

    Raises:
        ConfigError: None has.
    """
    processes = accelerator.num_processes  # asked once: this runs at every step
    found = [batch for batch in batches if len(batch) >= processes]
    if not found:
        raise too_few(max(map(len, batches), default=0), processes)
    return found


def process_sum(value: float, accelerator: Accelerator) -> float:
    """The sum of a number over all processes."""
    return process_sums({"": value}, accelerator)[""]


def process_sums(values: Mapping[str, float], accelerator: Accelerator) -> dict[str, float]:
    """The sums of several numbers over all processes, which must have the same keys in the same order."""
    if accelerator.num_processes == 1:
        return dict(values)
    mine = torch.tensor(list(values.values()), device=accelerator.device, dtype=torch.float64)
    return dict(zip(values, accelerator.reduce(mine, "sum").tolist(), strict=True))


def prepared(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The network to train with: it averages gradients over processes, by itself if it is in parts."""
    return network if is_sharded(network) else cast("nn.Module", accelerator.prepare(network))


@contextmanager
def synchronized(number: int, count: int, accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Average gradients over processes in the last micro-batch of a step only.

    So processes may differ in how many micro-batches they need, and nothing is sent twice. Of a network in parts
    they are averaged in every micro-batch, so that no process ever holds all of them; see `keep_pace`. Forward and
    backward both go inside. All micro-batches of one network come before those of the next: else the messages of
    one network would meet those of another.

    Args:
        number: Of the micro-batch, from 0.
        count: How many there are in this process.
        accelerator: All processes.
        model: The network, as `prepared`.
    """
    if is_sharded(model):
        if number == 0:
            keep_pace(count, accelerator, model)
        yield
        return
    with nullcontext() if number == count - 1 else accelerator.no_sync(model):
        yield


def seed_dropout(seed: int, step: int, accelerator: Accelerator) -> None:
    """Seed torch for one step of this process."""
    torch.manual_seed((seed * 1_000_003 + step + accelerator.process_index * 0x9E3779B1) % 2**63)


def agreed(stop: StopRequest, accelerator: Accelerator) -> bool:
    """Whether anybody asked any process to stop: then all of them stop after this very step."""
    return process_sum(float(stop.asked), accelerator) > 0


def too_few(count: int, processes: int, where: str = "") -> ConfigError:
    """What to raise where a batch has not one item for each process."""
    return ConfigError(
        f"A batch of {count} cannot be divided among {processes} processes.",
        where=where,
        fix="Raise the batch size (or the number of validation prompts), or use fewer processes.",
    )


def _check_offload(hardware: Hardware, device: torch.device) -> None:
    if hardware.offload_activations and device.type != "cuda":
        raise ConfigError(
            f"Activations cannot be kept off the device {device.type}.",
            where="hardware.offload_activations",
            why="it computes in main memory, where they would be moved to",
            fix="Leave it off; micro_batch, micro_tokens and hardware.gradient_checkpointing save memory here.",
        )


def _check_trackers(names: Sequence[str]) -> None:
    missing = set(names) - {str(tracker) for tracker in get_available_trackers()}
    if missing:
        raise ConfigError(
            f"Trackers that are not installed: {', '.join(sorted(missing))}.",
            where="trackers",
            fix="pip install 'equipoise[trackers]', or leave `trackers` empty: metrics.jsonl has everything.",
        )


def _check_quant(config: TrainConfig) -> None:
    settings = [f"{name}.bits = 8" for name in config.eight_bit()]
    settings += ['lora.quantize = "nf4"'] if config.quantize else []
    if not settings:
        return
    try:
        import_module("bitsandbytes")
    except ImportError as error:
        raise ConfigError(
            "bitsandbytes cannot be imported.",
            where=", ".join(settings),
            why=str(error),
            fix="pip install 'equipoise[quant]', or leave this setting out.",
        ) from error


def _forget_other_device(device: torch.device) -> None:
    """Let a single process that trained on one device train on another: accelerate keeps the first one."""
    state: Any = PartialState
    known = state._shared_state.get("device")
    if known is not None and known.type != device.type and PartialState().num_processes == 1:
        _forget_processes()


def _forget_processes() -> None:
    """Let the next stage find out anew which processes there are: accelerate keeps what it found first."""
    AcceleratorState._reset_state(reset_partial_state=True)
