"""From the settings of a sampler to the sampler."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from equipoise.rollout.config import (
    HfSettings,
    NativeSettings,
    SamplerConfig,
    VllmServerSettings,
    VllmSettings,
)
from equipoise.rollout.hf import HfSampler
from equipoise.rollout.native import NativeSampler
from equipoise.rollout.sampler import Sampler
from equipoise.rollout.vllm import load_library, open_vllm
from equipoise.rollout.vllm_server import open_server
from equipoise.tokens.template import end_id


def check_sampler(settings: SamplerConfig, length: int) -> None:
    """Find what is wrong with an engine before a model loads.

    Args:
        settings: Which sampler.
        length: Tokens of the longest prompt with its response.

    Raises:
        ConfigError: vLLM is not installed, or the server serves something else or has too short a context.
        EndpointError: The server does not answer.
    """
    match settings:
        case VllmSettings():
            load_library()
        case VllmServerSettings():
            open_server(settings, length, 0, 0)


def open_sampler(
    settings: SamplerConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    slots: int = 256,
) -> Sampler:
    """The sampler that a setting describes.

    Args:
        settings: Which one.
        model: The policy, unwrapped. An engine only asks where it comes from, and is given its weights by `load`.
        tokenizer: Its tokenizer.
        length: Tokens of the longest prompt with its response.
        slots: The most rows that `native` writes at a time, where its settings do not say.

    Raises:
        ConfigError, EndpointError: See `check_sampler`.
    """
    end, pad = end_id(tokenizer), int(tokenizer.pad_token_id or 0)
    match settings:
        case NativeSettings():
            return NativeSampler(model, end, pad, settings.slots or slots)
        case HfSettings():
            return HfSampler(model, end, pad)
        case VllmSettings():
            return open_vllm(settings, model, length, end, pad)
        case VllmServerSettings():
            return open_server(settings, length, end, pad)
