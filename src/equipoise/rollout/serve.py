"""A policy behind an OpenAI-compatible endpoint: clients from elsewhere can talk to it, attack it and measure it.

Routes: POST /v1/chat/completions and /v1/completions, GET /v1/models, GET /health. It answers for one policy, with
the tokens and the sampler of `respond`, and to this machine only unless told otherwise. One thread writes one
answer after the other, in the order of the requests. Left out: authentication, and requests side by side.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from json import JSONDecodeError
from typing import NamedTuple

import torch
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from equipoise.data.fields import explain_validation
from equipoise.errors import EquipoiseError
from equipoise.models.backbone import context_length
from equipoise.models.devices import pick_device, pick_dtype
from equipoise.records import Prompt
from equipoise.records import Response as Answer
from equipoise.rollout.best_of import Chooser, choose, open_chooser
from equipoise.rollout.complete import Wish, can_tell, complete, complete_aloud
from equipoise.rollout.config import Sampling, ServeConfig
from equipoise.rollout.protocol import (
    ChatRequest,
    Completion,
    CompletionRequest,
    RequestError,
    Stream,
    chat_reply,
    error_reply,
    model_entry,
    read_request,
    text_reply,
    usage,
)
from equipoise.rollout.respond import Policy, open_policy
from equipoise.tokens.template import Ids, prompt_ids

Asked = ChatRequest | CompletionRequest


def serve(config: ServeConfig) -> None:
    """Answer requests until interrupted.

    Raises:
        ModelError: The directory holds no policy.
    """
    device = pick_device(config.device)
    policy = open_policy(config.policy, device, pick_dtype(config.precision, device), config.name)
    best_of = config.best_of
    chooser = None if best_of is None else open_chooser(best_of, config.reward, config.cost, device)
    print(f"Model {policy.name!r} at http://{config.host}:{config.port}/v1", flush=True)
    app = build_app(policy, config.sampling, config.seed, chooser)
    uvicorn.run(app, host=config.host, port=config.port, log_level="warning")


def build_app(policy: Policy, sampling: Sampling, seed: int = 42, chooser: Chooser | None = None) -> Starlette:
    """The ASGI application.

    Args:
        policy: Who answers.
        sampling: Used where a request does not say.
        seed: Of the sampling of requests without a seed of their own.
        chooser: Gives the best of several answers; None: each answer is given.
    """
    desk = Desk(policy, sampling, torch.Generator(policy.model.device).manual_seed(seed), chooser)
    writer = ThreadPoolExecutor(1, thread_name_prefix="writer")

    async def answer(request: Request, kind: type[Asked]) -> Response:
        turn = asyncio.get_running_loop().run_in_executor
        try:
            asked = read_request(await request.json(), kind)
            task = await turn(writer, desk.read, asked)
            if asked.stream:
                return StreamingResponse(_events(desk, task, writer), media_type="text/event-stream")
            completions = await turn(writer, desk.write, task)
        except RequestError as error:
            return JSONResponse(error_reply(str(error), error.code), error.status)
        except (JSONDecodeError, UnicodeDecodeError, EquipoiseError) as error:
            return JSONResponse(error_reply(str(error)), 400)
        to_reply = chat_reply if isinstance(asked, ChatRequest) else text_reply
        return JSONResponse(to_reply(policy.name, completions, usage(task.prompt_tokens, completions)))

    async def chat(request: Request) -> Response:
        return await answer(request, ChatRequest)

    async def text(request: Request) -> Response:
        return await answer(request, CompletionRequest)

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_entry(policy.name)]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] == policy.name:
            return JSONResponse(model_entry(policy.name))
        error = _no_model(request.path_params["name"], policy.name)
        return JSONResponse(error_reply(str(error), error.code), error.status)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse(error_reply(f"{request.method} {request.url.path}: {error.detail}"), error.status_code)

    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", text, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", health),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: refuse})


class Task(NamedTuple):
    """A request in the policy's own terms."""

    asked: Asked
    prompts: list[Ids]
    wish: Wish
    generator: torch.Generator
    conversation: Prompt | None  # of a chat

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(map(len, self.prompts))


@dataclass(frozen=True)
class Desk:
    """Where requests are read and answered."""

    policy: Policy
    sampling: Sampling
    generator: torch.Generator  # of requests without a seed
    chooser: Chooser | None = None

    def read(self, asked: Asked) -> Task:
        """What a request comes to.

        Raises:
            RequestError: It names another model, is too long, is no conversation that ends with a user's turn, or
                wants to be chosen by cost where nothing is, or not to be where everything is.
            EquipoiseError: The template refuses it.
        """
        if asked.model != self.policy.name:
            raise _no_model(asked.model, self.policy.name)
        self._check_choice(asked)
        conversation = _conversation(asked) if isinstance(asked, ChatRequest) else None
        if conversation is not None:
            prompts = [prompt_ids(self.policy.tokenizer, conversation.messages)]
        else:
            assert isinstance(asked, CompletionRequest)
            prompts = self._texts(asked)
        wish = Wish(
            sampling=self._sampling(asked, max(map(len, prompts))),
            samples=asked.n * (self.chooser.settings.n if self.chooser else 1),
            stops=asked.stop,
            top=asked.top,
            echo=isinstance(asked, CompletionRequest) and asked.echo,
        )
        generator = self.generator
        if asked.seed is not None:
            generator = torch.Generator(generator.device).manual_seed(asked.seed)
        return Task(asked, prompts, wish, generator, conversation)

    def write(self, task: Task) -> list[Completion]:
        """All answers that are given.

        Raises:
            EquipoiseError: They are to be chosen by scores, and a score source failed.
        """
        written = complete(self.policy, task.prompts, task.wish, task.generator)
        if self.chooser is None or task.conversation is None:
            return written
        assert isinstance(task.asked, ChatRequest)
        candidates = [
            Answer(prompt=task.conversation, text=one.text, finished=one.finish_reason == "stop")
            for one in written
        ]
        return [
            Completion(one.response.text, "content_filter", 0, None) if one.is_refusal else written[one.place]
            for one in choose(self.chooser, candidates, task.asked.cost_limit)
        ]

    def _check_choice(self, asked: Asked) -> None:
        if self.chooser is not None and isinstance(asked, CompletionRequest):
            raise RequestError(
                "This server gives the best of several answers, which are scored as turns of a conversation.",
                fix="Ask for a chat completion.",
            )
        if self.chooser is None and isinstance(asked, ChatRequest) and asked.cost_limit is not None:
            raise RequestError(
                "`cost_limit` cannot be honoured: this server does not choose answers by their cost.",
                fix="Leave it out, or serve with best_of.",
            )

    def _texts(self, asked: CompletionRequest) -> list[Ids]:
        tokenizer, size = self.policy.tokenizer, len(self.policy.tokenizer)
        prompts = [
            tokenizer(given, verbose=False)["input_ids"] if isinstance(given, str) else list(given)
            for given in asked.prompts
        ]
        if not prompts or not all(prompts):
            raise RequestError("A prompt is empty.", fix="Send at least one token.")
        if any(not 0 <= token < size for ids in prompts for token in ids):
            raise RequestError(f"A token is not in the vocabulary, 0 to {size - 1}.", fix="Use this tokenizer.")
        return prompts

    def _sampling(self, asked: Asked, longest: int) -> Sampling:
        """What the request says, the rest as configured; a length that it does not ask for shrinks to the room."""
        context = context_length(self.policy.model)
        room = self.sampling.max_new_tokens if context is None else context - longest
        limit = asked.limit or min(self.sampling.max_new_tokens, room)
        if limit < 1 or (context is not None and limit > room):
            raise RequestError(
                f"{longest} tokens of prompt and {max(limit, 1)} of answer "
                f"do not fit the model's context of {context}.",
                fix="Lower max_tokens or shorten the conversation.",
                code="context_length_exceeded",
            )
        names = ("temperature", "top_p", "repetition_penalty")
        said = {name: value for name in names if (value := getattr(asked, name)) is not None}
        return self.sampling.model_copy(update={**said, "max_new_tokens": limit})


def _conversation(asked: ChatRequest) -> Prompt:
    try:
        return Prompt(messages=tuple(message.to_message() for message in asked.messages))
    except ValidationError as error:
        raise RequestError(f"This is no conversation to answer: {explain_validation(Prompt, error)}.") from None


class _GoneError(Exception):
    """Nobody listens any more."""


async def _events(desk: Desk, task: Task, writer: ThreadPoolExecutor) -> AsyncIterator[str]:
    """The server-sent events of a reply: as it is written where the desk can tell, else when it is."""
    stream = Stream(desk.policy.name, is_chat=isinstance(task.asked, ChatRequest))
    loop, pieces, is_gone = asyncio.get_running_loop(), asyncio.Queue[str | None](), threading.Event()

    def say(text: str) -> None:
        if is_gone.is_set():
            raise _GoneError
        loop.call_soon_threadsafe(pieces.put_nowait, stream.piece(text))

    def write() -> list[Completion]:
        try:
            if desk.chooser is None and can_tell(desk.policy, task.prompts, task.wish):
                return [complete_aloud(desk.policy, task.prompts[0], task.wish, task.generator, say)]
            completions = desk.write(task)
            for i, one in enumerate(completions):
                loop.call_soon_threadsafe(pieces.put_nowait, stream.piece(one.text, i, one.scores))
            return completions
        except _GoneError:
            return []
        finally:
            loop.call_soon_threadsafe(pieces.put_nowait, None)

    writing = loop.run_in_executor(writer, write)
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        completions = await writing
        for i, one in enumerate(completions):
            yield stream.finish(one.finish_reason, i)
        is_wanted = task.asked.stream_options.include_usage
        yield stream.end(usage(task.prompt_tokens, completions) if is_wanted else None)
    finally:
        is_gone.set()


def _no_model(name: str, ours: str) -> RequestError:
    return RequestError(
        f"There is no model {name!r}.", fix=f"Ask for {ours!r}.", status=404, code="model_not_found"
    )
