"""Stages for `test_run`, named by it as a plan names stages."""

from pathlib import Path

import torch
from accelerate import Accelerator

from equipoise import artefact
from equipoise.config import Config


class Told(Config):
    """Where a stage writes."""

    out: Path


def count(config: Told) -> None:
    """Write what each process believes of itself and of the sum over all."""
    accelerator = Accelerator(cpu=True)
    total = accelerator.reduce(torch.tensor([accelerator.process_index + 1.0]), "sum")
    text = f"{accelerator.process_index} of {accelerator.num_processes}: {float(total):.0f}"
    config.out.mkdir(exist_ok=True)
    (config.out / str(accelerator.process_index)).write_text(text, encoding="utf-8")


def fail_in_one(config: Told) -> None:
    """One process fails while the other waits for it."""
    accelerator = Accelerator(cpu=True)
    if accelerator.process_index == 1:
        raise ValueError("no luck")
    accelerator.wait_for_everyone()


def finish_alone(config: Told) -> None:
    """Finish a directory, at once if it is finished."""
    build = artefact.start(config.out, "responses", config, {})
    if not build.is_finished:
        artefact.finish(build, {})
