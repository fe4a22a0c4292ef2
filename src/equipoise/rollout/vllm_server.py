"""A policy behind `vllm serve`: sampled over HTTP, its weights handed over as files that the server can read.

Used are /v1/models, /v1/completions, /v1/load_lora_adapter and /v1/unload_lora_adapter of a public server, and
/collective_rpc (`reload_weights`) and /reset_prefix_cache of one in development mode. Written for vLLM ≥ 0.26.
Left out: starting the server, and sending weights from GPU to GPU.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import openai
import torch
from pydantic import BaseModel

from equipoise.errors import ConfigError, EndpointError
from equipoise.rollout.config import Sampling, VllmServerSettings
from equipoise.rollout.endpoint import ask, open_client, tell
from equipoise.rollout.engines import (
    ADAPTER_FILE,
    Answer,
    Question,
    questions,
    sampling_options,
    to_engine_rollout,
)
from equipoise.rollout.sampler import check_room
from equipoise.tokens.batches import PromptBatch, Rollout

DOWN = (
    "Look at the server's log. In training, start it again if it is down and run the same command: "
    "it goes on from the last checkpoint."
)
SERVE = "Start it as docs/sampling.md says: with --enable-lora, or in development mode; it must see the files."


class _Card(BaseModel):
    """A model or an adapter that a server lists."""

    id: str
    max_model_len: int | None = None
    parent: str | None = None  # the base, if it is an adapter


class _Cards(BaseModel):
    data: list[_Card]


class _LogProbs(BaseModel):
    token_logprobs: list[float | None]


class _Choice(BaseModel):
    token_ids: list[int]
    logprobs: _LogProbs


class _Completion(BaseModel):
    choices: list[_Choice]


@dataclass
class VllmServer:
    """A server that answers; see `open_server`."""

    client: openai.OpenAI
    base: str  # name of the model that it was started with
    asked: str  # name that is asked for: of the base, or of the newest adapter
    context: int | None
    connections: int
    end_id: int
    pad_id: int
    folder: Path | None

    def sample(
        self, prompts: PromptBatch, sampling: Sampling, generator: torch.Generator, samples: int = 1
    ) -> Rollout:
        """See `Sampler.sample`.

        Raises:
            ModelError: A prompt and its response may not fit into the server's context.
            EndpointError: It does not answer, or not as documented.
        """
        where = str(self.client.base_url)
        check_room(self.context, prompts, sampling, where)

        def complete(question: Question) -> list[Answer]:
            return self._complete(question, sampling, samples)

        with ThreadPoolExecutor(self.connections) as pool:
            answers = list(chain.from_iterable(pool.map(complete, questions(prompts, generator))))
        return to_engine_rollout(prompts, answers, sampling, self.end_id, self.pad_id, where)

    def load(self, folder: Path, *, first: bool = True) -> None:
        """See `Engine.load`; the folder must have the same path for the server."""
        has_adapter = (folder / ADAPTER_FILE).exists()
        before, self.asked = self.asked, folder.name if has_adapter else self.base
        if not first:
            return
        if has_adapter:
            # A name of its own each time: blocks cached under the old one must not answer for the new weights.
            self._tell("v1/load_lora_adapter", {"lora_name": folder.name, "lora_path": str(folder)})
        else:
            call = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            self._tell("collective_rpc", call)
            self._tell("reset_prefix_cache", {})
        if before not in (self.base, self.asked):
            self._tell("v1/unload_lora_adapter", {"lora_name": before})

    def _tell(self, path: str, body: object) -> None:
        tell(self.client, path, body, what="The vLLM server did not take the policy's weights.", fix=SERVE)

    def _complete(self, question: Question, sampling: Sampling, samples: int) -> list[Answer]:
        options = sampling_options(sampling, self.end_id, question, samples)
        body = {"model": self.asked, "prompt": question.tokens, "return_token_ids": True, **options}
        what = "The vLLM server did not answer a prompt."
        choices = ask(self.client, "v1/completions", _Completion, body, what=what, fix=DOWN).choices
        if len(choices) != samples:
            where = str(self.client.base_url)
            raise EndpointError(f"vLLM gave {len(choices)} responses, {samples} were asked for.", where=where)
        return [Answer(choice.token_ids, choice.logprobs.token_logprobs) for choice in choices]


def open_server(settings: VllmServerSettings, length: int, end_id: int, pad_id: int) -> VllmServer:
    """Ask a running server what it serves.

    Args:
        settings: Where it is.
        length: Tokens of the longest prompt with its response.
        end_id: The token that ends a turn.
        pad_id: What stands behind it.

    Raises:
        EndpointError: It does not answer, or not as documented.
        ConfigError: It does not serve the model that is named, or with too short a context.
    """
    url = str(settings.url)
    client = open_client(url, settings.token_variable, settings.timeout, settings.retries)
    what, fix = "There is no vLLM server.", "Start `vllm serve`, or correct sampler.url."
    cards = ask(client, "v1/models", _Cards, None, what=what, fix=fix).data
    found = [card for card in cards if card.parent is None and settings.model in (None, card.id)]
    if not found:
        raise ConfigError(
            f"The vLLM server does not serve a model {settings.model or ''}".rstrip() + ".",
            where=url,
            fix=f"Name one of these in sampler.model: {', '.join(card.id for card in cards)}.",
        )
    base = found[0]
    if base.max_model_len is not None and length > base.max_model_len:
        raise ConfigError(
            f"Prompts with their responses may have {length} tokens, the vLLM server takes {base.max_model_len}.",
            where=url,
            fix="Lower max_new_tokens or max_prompt_length, or start the server with a larger --max-model-len.",
        )
    return VllmServer(
        client, base.id, base.id, base.max_model_len, settings.connections, end_id, pad_id, settings.folder
    )
