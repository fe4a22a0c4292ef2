"""vLLM in the processes of the run, on their GPUs: awake while it samples, asleep while they train.

Each process has a whole copy of the policy. Written for vLLM ≥ 0.26, which is imported where it is used. Left out:
a policy spread over several GPUs, which a server can do (`vllm_server`).
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from transformers import PreTrainedModel

from equipoise.errors import ConfigError, EndpointError
from equipoise.models.adapters import has_adapter
from equipoise.rollout.config import Sampling, VllmSettings
from equipoise.rollout.engines import ADAPTER_FILE, Answer, questions, sampling_options, to_engine_rollout
from equipoise.rollout.sampler import check_room
from equipoise.tokens.batches import PromptBatch, Rollout

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks of adapters that vLLM can be set to."""


@dataclass
class VllmSampler:
    """An engine of this process; see `open_vllm`."""

    library: Any
    llm: Any  # vllm.LLM
    context: int
    end_id: int
    pad_id: int
    folder: Path | None
    adapter: Any = None  # vLLM's LoRARequest, once one was given
    adapters: int = 0  # given so far

    def sample(
        self, prompts: PromptBatch, sampling: Sampling, generator: torch.Generator, samples: int = 1
    ) -> Rollout:
        """See `Sampler.sample`.

        Raises:
            ModelError: A prompt and its response may not fit into the engine's context.
            EndpointError: It answered something else than was asked for.
        """
        check_room(self.context, prompts, sampling, "vLLM")
        asked = questions(prompts, generator)
        options = [sampling_options(sampling, self.end_id, question, samples) for question in asked]
        self._wake_up("weights", "kv_cache")
        outputs = self.llm.generate(
            [{"prompt_token_ids": question.tokens} for question in asked],
            [self.library.SamplingParams(**one, detokenize=False) for one in options],
            use_tqdm=False,
            lora_request=self.adapter,
        )
        self.llm.sleep(level=1)
        answers = [_answer(one) for output in outputs for one in output.outputs]
        if len(answers) != len(asked) * samples:
            raise EndpointError(f"vLLM gave {len(answers)} responses, {len(asked) * samples} were asked for.")
        return to_engine_rollout(prompts, answers, sampling, self.end_id, self.pad_id, "vLLM")

    def load(self, folder: Path, *, first: bool = True) -> None:  # noqa: ARG002 each process has its own engine
        """See `Engine.load`."""
        if (folder / ADAPTER_FILE).exists():
            self.adapters += 1
            self.adapter = self.library.lora.request.LoRARequest(folder.name, self.adapters, str(folder))
            return
        self._wake_up("weights")  # keys and values would only be in the way
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self.llm.reset_prefix_cache()

    def _wake_up(self, *parts: str) -> None:
        torch.cuda.empty_cache()  # what the networks have freed is kept by torch, and vLLM needs it
        for part in parts:  # one by one: a call that also names what is awake does nothing
            self.llm.wake_up(tags=[part])


def _answer(output: Any) -> Answer:
    """From vLLM's `CompletionOutput`, whose log-probabilities are a dict of tokens for each position."""
    tokens = list(output.token_ids)
    return Answer(tokens, [row[token].logprob for token, row in zip(tokens, output.logprobs, strict=True)])


def load_library() -> Any:
    """The module `vllm`.

    Raises:
        ConfigError: It is not installed, or does not fit what is.
    """
    try:
        import_module("vllm.lora.request")
        return import_module("vllm")
    except ImportError as error:
        raise ConfigError(
            "vLLM cannot be imported.",
            where='sampler.type = "vllm"',
            why=str(error),
            fix="pip install 'equipoise[vllm]', on Linux with a GPU; or take the sampler native, or vllm_server.",
        ) from error


def open_vllm(
    settings: VllmSettings, model: PreTrainedModel, length: int, end_id: int, pad_id: int
) -> VllmSampler:
    """Start an engine and put it to sleep.

    Args:
        settings: How much of the GPU it may take.
        model: The policy: where its weights were loaded from, in which precision, and the rank of its adapter.
        length: Tokens of the longest prompt with its response.
        end_id: The token that ends a turn.
        pad_id: What stands behind it.

    Raises:
        ConfigError: vLLM is not installed.
    """
    library = load_library()
    options: dict[str, Any] = {}
    if has_adapter(model):
        rank = max(cast("LoraConfig", shape).r for shape in model.peft_config.values())
        room = next((most for most in RANKS if most >= rank), rank)
        options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        options |= {"distributed_executor_backend": "external_launcher"}  # these very processes, a GPU each
    llm = library.LLM(
        model=str(model.config.name_or_path),
        dtype=str(model.dtype).removeprefix("torch."),
        max_model_len=length,
        gpu_memory_utilization=settings.gpu_memory,
        enable_sleep_mode=True,
        logprobs_mode="processed_logprobs",
        **options,
    )
    llm.sleep(level=1)
    return VllmSampler(library, llm, length, end_id, pad_id, settings.folder)
