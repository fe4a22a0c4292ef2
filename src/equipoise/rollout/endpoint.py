"""Asking HTTP endpoints through the `openai` client: attempts, pauses, timeouts and connections are its own.

Left out: what is asked.
"""

from typing import TypeVar

import openai
from pydantic import BaseModel

from equipoise.config import bearer_token
from equipoise.errors import EndpointError

AnswerT = TypeVar("AnswerT", bound=BaseModel)


def open_client(url: str, token_variable: str | None, timeout: float, retries: int) -> openai.OpenAI:
    """A client for one endpoint.

    Args:
        url: Where it is.
        token_variable: Environment variable that holds its bearer token; None: it needs none.
        timeout: Seconds to wait for one answer.
        retries: Further attempts when the connection fails or the endpoint is busy.

    Raises:
        EndpointError: The variable is not set.
    """
    token = bearer_token(token_variable, url)
    return openai.OpenAI(base_url=url, api_key=token, timeout=timeout, max_retries=retries)


def ask(client: openai.OpenAI, url: str, kind: type[AnswerT], body: object, *, what: str, fix: str) -> AnswerT:
    """POST a body, or GET without one, and read the answer.

    Args:
        client: Whom to ask.
        url: Where, whole or below the client's own.
        kind: What the answer must hold.
        body: JSON values; None for GET.
        what: What went wrong if there is no such answer.
        fix: What to do about it.

    Raises:
        EndpointError: The endpoint cannot be reached, refuses, or answers something else.
    """
    text = _sent(client, url, body, what, fix)
    try:
        return kind.model_validate_json(text)
    except ValueError as error:  # no JSON, or of another form
        why = f"the answer is not as documented: {error}"
        raise EndpointError(what, where=str(client.base_url.join(url)), why=why, fix=fix) from error


def tell(client: openai.OpenAI, url: str, body: object, *, what: str, fix: str) -> None:
    """POST a body to an endpoint that has nothing to answer; as `ask` otherwise."""
    _sent(client, url, body, what, fix)


def _sent(client: openai.OpenAI, url: str, body: object, what: str, fix: str) -> str:
    try:
        return client.get(url, cast_to=str) if body is None else client.post(url, cast_to=str, body=body)
    except openai.APIStatusError as error:
        why = f"it answered {error.status_code}: {error.response.text[:200]}"
    except openai.OpenAIError as error:
        why = f"{error} ({error.__cause__!r})"
    raise EndpointError(what, where=str(client.base_url.join(url)), why=why, fix=fix)
