"""The step that makes a run's data by a function that the recipe names, such as a playground's."""

from pathlib import Path

from equipoise.config import resolve_function
from equipoise.rounds.config import PrepareConfig


def prepare(config: PrepareConfig) -> Path:
    """Call the function; it makes a finished directory at `out`, and skips what is finished there."""
    resolve_function(config.function)(out=config.out, seed=config.seed, **config.settings)
    return config.out
