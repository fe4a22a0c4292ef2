"""The policy and the scorers that the red-team page talks to. Imported when the first question is asked.

The scoring protocol is that of docs/scoring.md. What a conversation is, and where it is kept, is in `store.chats`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import openai
from pydantic import BaseModel, Field, FiniteFloat

from equipoise.annotate.store.chats import Turn
from equipoise.annotate.web.config import RedteamPolicy
from equipoise.config import bearer_token
from equipoise.errors import EndpointError
from equipoise.records import Message

RETRIES = 1
MOST_TIMEOUTS = 2 * (1 + RETRIES)
"""An answer and its scores, each tried so often, are given up after so many times the timeout."""
AT_ONCE = 8
"""Questions under way at the same time, of all people together."""


class _Scores(BaseModel):
    """What a scoring endpoint answers."""

    scores: list[FiniteFloat] = Field(min_length=1, max_length=1)


@dataclass(frozen=True)
class Policy:
    """An open connection to a policy and its scorers."""

    client: openai.AsyncOpenAI
    settings: RedteamPolicy
    gate: asyncio.Semaphore

    async def ask(self, messages: Sequence[Message]) -> Turn:
        """The policy's answer to the last message, with its scores where there are scorers.

        Raises:
            EndpointError: An endpoint cannot be reached, refuses, or answers something else.
        """
        try:  # the client's own timeout is one for each piece of an answer
            async with self.gate, asyncio.timeout(MOST_TIMEOUTS * self.settings.timeout):
                answer = await self._answer(messages)
                reward, cost = await asyncio.gather(
                    self._score(self.settings.reward, messages, answer),
                    self._score(self.settings.cost, messages, answer),
                )
        except TimeoutError as error:
            raise _failure("The policy did not answer in time.", str(self.settings.url), error) from error
        return Turn(role="assistant", content=answer, reward=reward, cost=cost)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def _answer(self, messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            done = await self.client.chat.completions.create(
                model=self.settings.model,
                messages=turns,  # type: ignore[arg-type]
                max_tokens=self.settings.max_tokens,
            )
        except (openai.OpenAIError, ValueError) as error:
            raise _failure("The policy did not answer.", str(self.settings.url), error) from error
        text = done.choices[0].message.content if done.choices else None
        if text is None:
            raise EndpointError("The policy's answer has no text.", where=str(self.settings.url))
        return text

    async def _score(self, url: object, messages: Sequence[Message], answer: str) -> float | None:
        if url is None:
            return None
        prompt = [{"role": message.role, "content": message.content} for message in messages]
        body = {"responses": [{"prompt": prompt, "response": answer}]}
        try:
            text = await self.client.post(str(url), cast_to=str, body=body)
            (score,) = _Scores.model_validate_json(text).scores
        except (openai.OpenAIError, ValueError) as error:
            raise _failure("The answer could not be scored.", str(url), error) from error
        return score


def open_policy(settings: RedteamPolicy) -> Policy:
    """A connection to the policy; nothing is asked yet.

    Raises:
        EndpointError: The environment variable of its token is not set.
    """
    token = bearer_token(settings.token_variable, str(settings.url))
    client = openai.AsyncOpenAI(
        base_url=str(settings.url), api_key=token, timeout=settings.timeout, max_retries=RETRIES
    )
    return Policy(client, settings, asyncio.Semaphore(AT_ONCE))


def _failure(what: str, url: str, error: Exception) -> EndpointError:
    why = f"it answered {error.status_code}" if isinstance(error, openai.APIStatusError) else type(error).__name__
    return EndpointError(what, where=url, why=why, fix="Try again, or tell your lead.")
