"""Who answers a conversation: a policy on this machine, or a model behind an OpenAI-compatible endpoint.

Both give text and nothing else: no tokens, no log-probabilities, no gradients. Left out: what the answers are for.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import openai
import torch

from equipoise.chat_model import Completion
from equipoise.errors import ConfigError, EndpointError
from equipoise.models.backbone import check_fit
from equipoise.records import Prompt, Response
from equipoise.rollout.config import ChatEndpoint, SamplerConfig, Sampling
from equipoise.rollout.endpoint import ask, open_client
from equipoise.rollout.respond import Policy, answer, open_policy
from equipoise.tokens.template import many_prompt_ids


class Speaker(Protocol):
    """Answers conversations."""

    @property
    def name(self) -> str:
        """Its name in records."""
        ...

    @property
    def is_separable(self) -> bool:
        """Whether part of a batch may be asked alone: of a policy here, rounding would tell the difference."""
        ...

    def fits(self, prompts: Sequence[Prompt]) -> list[bool]:
        """Which of the conversations are short enough to be asked."""
        ...

    def answers(self, prompts: Sequence[Prompt], seed: int) -> Iterator[tuple[int, Response]]:
        """One answer to each conversation with its place among them, as they come.

        Raises:
            EndpointError: One got no answer; all others that were under way have been given before.
            ModelError: A conversation and its answer may not fit into the model's context.
        """
        ...


@dataclass(frozen=True)
class LocalSpeaker:
    """A policy of ours; its randomness is a function of the seed alone."""

    policy: Policy
    sampling: Sampling
    device: torch.device
    longest: int  # tokens of a conversation

    is_separable = False

    @property
    def name(self) -> str:
        """See `Speaker`."""
        return self.policy.name

    def fits(self, prompts: Sequence[Prompt]) -> list[bool]:
        """See `Speaker`; counted in tokens of the policy."""
        ids = many_prompt_ids(self.policy.tokenizer, [prompt.messages for prompt in prompts])
        return [len(tokens) <= self.longest for tokens in ids]

    def answers(self, prompts: Sequence[Prompt], seed: int) -> Iterator[tuple[int, Response]]:
        """See `Speaker`."""
        generator = torch.Generator(self.device).manual_seed(seed)
        yield from enumerate(answer(self.policy, prompts, self.sampling, generator))


@dataclass(frozen=True)
class EndpointSpeaker:
    """A model elsewhere; attempts, pauses and timeouts are those of the `openai` client. It is told no seed."""

    client: openai.OpenAI
    settings: ChatEndpoint
    sampling: Sampling

    is_separable = True

    @property
    def name(self) -> str:
        """See `Speaker`."""
        return self.settings.model

    def fits(self, prompts: Sequence[Prompt]) -> list[bool]:
        """See `Speaker`; counted in characters."""
        longest = self.settings.max_characters
        return [sum(len(turn.content) for turn in prompt.messages) <= longest for prompt in prompts]

    def answers(self, prompts: Sequence[Prompt], seed: int) -> Iterator[tuple[int, Response]]:
        """See `Speaker`."""
        del seed  # not every such endpoint takes one
        failure: EndpointError | None = None
        with ThreadPoolExecutor(self.settings.connections) as pool:
            asked = {pool.submit(self._ask, prompt): place for place, prompt in enumerate(prompts)}
            for future in as_completed(asked):
                try:
                    response = future.result()
                except CancelledError:
                    continue
                except EndpointError as error:
                    failure = failure or error
                    for other in asked:
                        other.cancel()
                    continue
                yield asked[future], response
        if failure:
            raise failure

    def _ask(self, prompt: Prompt) -> Response:
        settings, sampling = self.settings, self.sampling
        body = {
            **settings.options,
            "model": settings.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in prompt.messages],
            settings.limit_field: sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        what = f"The model {settings.model!r} did not answer a conversation."
        fix = "Check the url, the model and the token; then run the same command again."
        reply = ask(self.client, "chat/completions", Completion, body, what=what, fix=fix).reply
        return Response(
            prompt=prompt, text=reply.text or reply.refusal, policy=self.name, finished=not reply.is_cut
        )


def open_local(
    path: Path,
    sampling: Sampling,
    longest: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    sampler: SamplerConfig | None = None,
) -> LocalSpeaker:
    """The policy in a directory, as somebody who answers.

    Args:
        path: Any directory that AutoModelForCausalLM loads.
        sampling: How it answers.
        longest: Tokens of the longest conversation.
        device: Where it goes.
        dtype: Precision of its weights.
        sampler: What draws its answers; None: `native`.

    Raises:
        ModelError: The directory holds no policy, or the lengths do not fit its context.
        ConfigError, EndpointError: The engine is not there, or does not take the policy.
    """
    length = longest + sampling.max_new_tokens
    policy = open_policy(path, device, dtype, settings=sampler, length=length)
    check_fit(policy.model, policy.tokenizer, length)
    return LocalSpeaker(policy, sampling, device, longest)


def open_endpoint(settings: ChatEndpoint, sampling: Sampling) -> EndpointSpeaker:
    """A model behind an endpoint, as somebody who answers; nothing is asked yet.

    Raises:
        EndpointError: Its token is not in the environment.
        ConfigError: The sampling is none that such endpoints know.
    """
    if sampling.repetition_penalty != 1.0:
        raise ConfigError(
            "An OpenAI-compatible endpoint knows no repetition_penalty.",
            where=str(settings.url),
            fix="Leave it at 1, or give your server's own name for it in `options`.",
        )
    client = open_client(str(settings.url), settings.token_variable, settings.timeout, settings.retries)
    return EndpointSpeaker(client, settings, sampling)
