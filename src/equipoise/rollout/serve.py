"""A policy behind an OpenAI-compatible endpoint, on the request handler of `transformers serve`.

Routes: POST /v1/chat/completions (streamed or whole), GET /v1/models, GET /health. `transformers serve` as a whole
would also load any model that a request names; this answers for one policy, and to this machine only unless told
otherwise. Left out: authentication, and requests side by side: it generates one answer after the other.
"""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any

import torch
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from equipoise.errors import EquipoiseError, ModelError
from equipoise.models.backbone import context_length
from equipoise.models.devices import pick_device, pick_dtype
from equipoise.records import Prompt
from equipoise.rollout.config import Sampling, ServeConfig
from equipoise.rollout.respond import Policy, open_policy
from equipoise.tokens.template import end_id, prompt_ids


def serve(config: ServeConfig) -> None:
    """Answer requests until interrupted.

    Raises:
        ModelError: The directory holds no policy, or what serving needs is not installed.
    """
    device = pick_device(config.device)
    policy = open_policy(config.policy, device, pick_dtype(config.precision, device), config.name)
    torch.manual_seed(config.seed)
    print(f"Model {policy.name!r} at http://{config.host}:{config.port}/v1", flush=True)
    uvicorn.run(build_app(policy, config.sampling), host=config.host, port=config.port, log_level="warning")


def build_app(policy: Policy, sampling: Sampling) -> Starlette:
    """The ASGI application.

    Args:
        policy: Who answers; its generation settings are replaced.
        sampling: Used where a request does not say.

    Raises:
        ModelError: FastAPI, which the request handler is built on, is not installed.
    """
    desk = _open_desk(policy, sampling)

    async def complete(request: Request) -> Response:
        try:
            body = desk.prepared(await request.json())
        except (JSONDecodeError, ValidationError, EquipoiseError) as error:
            wrong = {"message": str(error), "type": "invalid_request_error"}
            return JSONResponse({"error": wrong}, status_code=400)
        found: Response = await desk.handler.handle_request(body, f"chatcmpl-{uuid.uuid4().hex}")
        return found

    async def models(_: Request) -> Response:
        entry = {"id": policy.name, "object": "model", "created": 0, "owned_by": "equipoise"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        desk.handler.generation_state.shutdown()
        desk.handler.model_manager.shutdown()

    routes = [
        Route("/v1/chat/completions", complete, methods=["POST"]),
        Route("/v1/models", models),
        Route("/health", health),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


@dataclass(frozen=True)
class _Desk:
    """Where requests are checked before the library's handler sees them."""

    handler: Any  # transformers' ChatCompletionHandler
    policy: Policy
    sampling: Sampling

    def prepared(self, body: Any) -> dict[str, Any]:
        """The request with our defaults in it.

        Raises:
            ValidationError: It is no conversation that ends with a user's turn.
            EquipoiseError: The template refuses it, it is too long, or it names another model.
        """
        request: dict[str, Any] = body if isinstance(body, dict) else {}
        prompt = Prompt.model_validate({"messages": request.get("messages", ())})
        if request.get("model") != self.policy.name:
            raise ModelError(f"There is no model {request.get('model')!r}.", fix=f"Ask for {self.policy.name!r}.")
        limit = request.get("max_completion_tokens") or request.get("max_tokens") or self.sampling.max_new_tokens
        used, context = len(prompt_ids(self.policy.tokenizer, prompt.messages)), context_length(self.policy.model)
        if context is not None and used + int(limit) > context:
            raise ModelError(
                f"{used} tokens of prompt and {limit} of answer do not fit the model's context of {context}.",
                fix="Lower max_tokens or shorten the conversation.",
            )
        asked = {name: value for name, value in request.items() if value is not None}
        return {"temperature": self.sampling.temperature, **asked, "max_completion_tokens": int(limit)}


def _open_desk(policy: Policy, sampling: Sampling) -> _Desk:
    try:
        from transformers.cli.serving.chat_completion import ChatCompletionHandler
        from transformers.cli.serving.model_manager import ModelManager, TimedModel
        from transformers.cli.serving.utils import GenerationState

        manager: Any = ModelManager(device=str(policy.model.device))
    except (ImportError, NameError) as error:
        raise ModelError(
            "The request handler of transformers cannot be loaded.", why=str(error), fix="pip install fastapi"
        ) from error
    settings: Any = policy.model.generation_config
    settings.update(
        do_sample=True,  # the handler turns it off at temperature 0, which each request carries
        top_p=sampling.top_p,
        top_k=0,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=end_id(policy.tokenizer),
        pad_token_id=policy.tokenizer.pad_token_id,
    )
    tokenizer: Any = policy.tokenizer
    never = -1  # seconds of idleness after which the model would be dropped
    manager.loaded_models[manager.process_model_name(policy.name)] = TimedModel(policy.model, never, tokenizer)
    return _Desk(ChatCompletionHandler(manager, GenerationState()), policy, sampling)
