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


class Options(NamedTuple):
    """How to plan, beside the stage's own settings."""

    gpu: str | None = None  # only this type; None: all
    probe: int = 0  # steps to run
    price_per_hour: float | None = None


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


def check_probe(steps: int) -> int:
    """As many steps as a probe is to run; 0 for none.

    Raises:
        ConfigError: Too few: the first step only warms up.
    """
    if steps < 0 or steps == 1:
        raise ConfigError(f"A probe of {steps} steps measures nothing.", where="--probe", fix="Give 2 or more.")
    return steps


def fits(gpu: Gpu, peak: int) -> bool:
    """Whether so many bytes leave the reserve free."""
    return peak <= gpu.memory * GIB * (1 - RESERVE)
