"""`equipoise plan`: memory, tokens and examples of a stage before anything loads; real steps if asked for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from equipoise.config import Config
from equipoise.errors import ConfigError
from equipoise.plan.config import GIB, Machine, Options, chosen_gpus, fits
from equipoise.plan.memory import Memory
from equipoise.plan.probe import Probed, probe
from equipoise.plan.stages import ppo_lag_memory, score_model_memory, sft_memory
from equipoise.plan.workload import Work, ppo_lag_work, score_model_work, sft_work
from equipoise.train.config import CostConfig, RewardConfig, SftConfig, TrainConfig
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.processes import too_few


@dataclass(frozen=True)
class Plan:
    """What a stage will take."""

    stage: str
    machine: Machine
    memory: Memory
    work: Work
    fits: Mapping[str, bool]  # GPU type → whether it does
    probed: Probed | None
    price_per_hour: float | None

    @property
    def hours(self) -> float | None:
        """Of the whole stage at the pace of the probe."""
        if self.probed is None or self.work.steps is None:
            return None
        return self.work.steps * self.probed.seconds_per_step / 3600

    @property
    def price(self) -> float | None:
        """In the currency of the price per hour."""
        return None if self.hours is None or self.price_per_hour is None else self.hours * self.price_per_hour

    def tree(self) -> dict[str, Any]:
        """As JSON, sizes in bytes."""
        memory = {**asdict(self.memory), "peak": self.memory.peak}
        return {
            "stage": self.stage,
            "device": "gpu" if self.machine.gpu else "cpu",
            "processes": self.machine.processes,
            "memory": memory,
            "fits": dict(self.fits),
            "work": {name: value for name, value in asdict(self.work).items() if name != "parts"}
            | {name: getattr(self.work, name)._asdict() for name in ("largest", "ptx") if hasattr(self.work, name)}
            | {"tokens": {name: found._asdict() for name, found in self.work.tokens.items()}},
            "probe": None if self.probed is None else self.probed._asdict(),
            "hours": self.hours,
            "price": self.price,
        }


def make_plan(stage: str, config: Config, options: Options) -> Plan:
    """Plan one stage.

    Args:
        stage: Its name as a command.
        config: Its settings: of `sft`, `reward`, `cost` or `ppo-lag`.
        options: What else is asked.

    Raises:
        ConfigError: A GPU is not known, a batch has not one item for every process, or a setting is not counted.
        ModelError: A folder holds no model, or a context is too short for prompt and response.
        DataError: The data are there and cannot be used.
        TrainingError: The probe failed.
    """
    assert isinstance(config, TrainConfig)
    gpus = chosen_gpus(options.gpu)
    gpu = options.gpu is not None or config.hardware.device not in ("cpu", "mps")
    machine = Machine(gpu, options.processes)
    _check_share(config, machine)
    _check_counted(config)
    work, memory = _estimate(config, machine)
    return Plan(
        stage=stage,
        machine=machine,
        memory=memory,
        work=work,
        fits={g.name: fits(g, memory.peak) for g in gpus} if gpu else {},
        probed=probe(config, options.probe, work) if options.probe else None,
        price_per_hour=options.price_per_hour,
    )


def _estimate(config: TrainConfig, machine: Machine) -> tuple[Work, Memory]:
    match config:
        case SftConfig():
            work = sft_work(config, machine.processes)
            return work, sft_memory(config, work, machine)
        case RewardConfig() | CostConfig():
            work = score_model_work(config, machine.processes)
            return work, score_model_memory(config, work, machine)
        case PpoLagConfig():
            ppo = ppo_lag_work(config, machine.processes)
            return ppo, ppo_lag_memory(config, ppo, machine)
    raise AssertionError(config)


def _check_share(config: TrainConfig, machine: Machine) -> None:
    sizes = {name: getattr(config, name, None) for name in ("batch_size", "ptx_batch_size")}
    for name, size in sizes.items():
        if size is not None and size < machine.processes:
            raise too_few(size, machine.processes, where=name)


def _check_counted(config: TrainConfig) -> None:
    if names := config.eight_bit():
        raise ConfigError(
            "Optimizer states of 8 bits are not counted here.",
            where=f"{names[0]}.bits = 8",
            why="bitsandbytes makes them from contents of tensors, and here tensors have none",
            fix="Plan with bits = 32; 8 bits then take about 6 bytes less for each trained parameter.",
        )


def gib(size: float) -> str:
    """A size as people read it."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
