"""Where to compute and in which precision. Left out: several processes (accelerate, in the loops)."""

import torch

from equipoise.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """The named device; "auto" takes cuda, else mps, else cpu.

    Raises:
        ConfigError: torch knows no such device, or it is not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"There is no device {name!r}.", why=str(error), fix="Use cuda, mps, cpu or auto."
        ) from error
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if (device.index or 0) >= count.get(device.type, 0):
        raise ConfigError(
            f"This machine has no device {name!r} that torch {torch.__version__} can use.",
            fix="Use device auto or cpu, or install a torch build for your device.",
        )
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The named precision; "auto" is bfloat16 where the device is fast at it, else float32.

    Raises:
        ConfigError: The name is none of auto, float32, bfloat16, float16.
    """
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ConfigError(f"There is no precision {name!r}.", fix="Choose one of: auto, " + ", ".join(known))
    return known[name]
