"""Steps that only whole runs need: making the data, and gathering the prompts of a round."""

from pathlib import Path

from equipoise import artefact
from equipoise.config import resolve_function
from equipoise.data.dedupe import unique
from equipoise.data.jsonl import read_records, write_records
from equipoise.data.load import load_prompts
from equipoise.data.source import input_paths
from equipoise.records import Prompt
from equipoise.rounds.config import GatherConfig, PrepareConfig

PROMPTS = "prompts.jsonl"


def prepare(config: PrepareConfig) -> Path:
    """Call the function; it makes a finished directory at `out`, and skips what is finished there."""
    resolve_function(config.function)(out=config.out, seed=config.seed, **config.settings)
    return config.out


def gather(config: GatherConfig) -> Path:
    """Put the run's prompts and what broke earlier policies into one directory of kind "prompts".

    An attack that found nothing is no error: it adds nothing.

    Raises:
        DataError: A source cannot be read.
        ArtefactError: A search has not finished.
    """
    inputs = input_paths(config.prompts, "prompts")
    attacks = {f"attacks-{i}": path for i, path in enumerate(config.attacks)}
    build = artefact.start(config.out, "prompts", config, {**inputs, **attacks})
    if build.is_finished:
        return config.out
    own = [prompt for source in config.prompts for prompt in load_prompts(source)]
    found = [prompt for path in config.attacks for prompt in read_records(path / PROMPTS, Prompt)]
    everything = unique([*found, *own], lambda prompt: prompt.id)  # first, so that a limit does not lose them
    write_records(config.out / PROMPTS, everything)
    artefact.finish(build, {"prompts": len(own), "hits": len(found), "distinct": len(everything)})
    return config.out
