"""What `plan` is asked besides the settings of the stage, and the GPUs that it knows; no torch."""

from typing import NamedTuple

from equipoise.errors import ConfigError

GIB = 2**30
RESERVE = 0.1
"""Share of a GPU's memory left free: the CUDA context, cuBLAS workspaces, fragmentation."""


class Gpu(NamedTuple):
    """A type of GPU."""

    name: str
    sold_as: int  # GB
    memory: float  # GiB that its driver reports


GPUS = (
    Gpu("a10", 24, 22.5),
    Gpu("a100-40", 40, 39.4),
    Gpu("l40s", 48, 44.5),
    Gpu("h100", 80, 79.1),
    Gpu("h200", 141, 139.8),
)


class Machine(NamedTuple):
    """What a stage is planned for."""

    gpu: bool  # else a CPU, where loading and saving take memory, too
    processes: int = 1  # how many share every batch


class Options(NamedTuple):
    """How to plan, beside the stage's own settings."""

    gpu: str | None = None  # only this type; None: all
    probe: int = 0  # steps to run
    price_per_hour: float | None = None
    processes: int = 1


def chosen_gpus(name: str | None) -> tuple[Gpu, ...]:
    """The GPU of a name; all where it is None.

    Raises:
        ConfigError: There is none of that name.
    """
    found = tuple(gpu for gpu in GPUS if name in (None, gpu.name))
    if not found:
        known = ", ".join(f"{gpu.name} ({gpu.sold_as} GB)" for gpu in GPUS)
        raise ConfigError(f"No GPU is known as {name!r}.", where="--gpu", fix=f"These are: {known}.")
    return found


def check_options(options: Options) -> Options:
    """The same options, if they can be followed.

    Raises:
        ConfigError: The GPU is not known; a probe has too few steps, of which the first only warms up, or is to
            measure one of several processes; there is no process.
    """
    chosen_gpus(options.gpu)
    steps = options.probe
    if steps < 0 or steps == 1:
        raise ConfigError(f"A probe of {steps} steps measures nothing.", where="--probe", fix="Give 2 or more.")
    if options.processes < 1:
        raise ConfigError("A run has one process or more.", where="--processes", why=f"{options.processes} given")
    if steps and options.processes > 1:
        raise ConfigError(
            "A probe measures one process.",
            where="--probe",
            why=f"--processes {options.processes} asks for a run that the launcher starts",
            fix="Leave --processes out, or start a short run yourself: `steps`, or few `epochs`.",
        )
    return options


def fits(gpu: Gpu, peak: int) -> bool:
    """Whether so many bytes leave the reserve free."""
    return peak <= gpu.memory * GIB * (1 - RESERVE)
