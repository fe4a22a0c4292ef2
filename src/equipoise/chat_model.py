"""A language model behind an OpenAI-compatible endpoint, whatever it is asked for: settings, and how answers read.

Left out: asking it.
"""

from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, Field, HttpUrl, model_validator

from equipoise.config import Config

BLOCKED = ("content_filter", "content_policy_violation")
"""Reasons to stop, and codes of errors, by which a provider says that it lets no answer through."""


class ChatModel(Config):
    """A language model that is asked by POST to chat/completions; each use adds settings of its own."""

    decided: ClassVar[frozenset[str]] = frozenset({"model", "messages", "stream", "n", "temperature"})
    """Fields of a request that other settings, or the use itself, decide; and the one named by `limit_field`."""

    type: Literal["endpoint"] = "endpoint"
    url: HttpUrl = Field(description="Base of the endpoint, with /v1.")
    model: str = Field(min_length=1, description="Name of the model there.")
    token_variable: str | None = Field(
        None, description="Environment variable that holds the API key; unset: the token `none`."
    )
    timeout: float = Field(120.0, gt=0, description="Seconds to wait for one answer.")
    retries: int = Field(
        5, ge=0, description="Further attempts when the connection fails or the endpoint is busy."
    )
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="Name under which the endpoint takes the longest answer."
    )
    options: dict[str, Any] = Field(
        {}, description="Further fields of every request, such as seed; in a recipe, where numbers are numbers."
    )

    @model_validator(mode="after")
    def _fits_an_endpoint(self) -> Self:
        if self.url.username or self.url.password:
            raise ValueError("the url holds a name or password, which would be stored; use token_variable")
        if taken := sorted((self.decided | {self.limit_field}) & set(self.options)):
            raise ValueError(f"options may not hold {', '.join(taken)}: other settings decide them")
        return self


class Reply(NamedTuple):
    """The part of a chat completion that is read."""

    text: str
    refusal: str  # what the model says in place of an answer, where the endpoint tells the two apart
    is_cut: bool
    is_refusal: bool


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class Completion(BaseModel):
    """A chat completion; its other fields are left out."""

    choices: list[_Choice] = Field(min_length=1)

    @property
    def reply(self) -> Reply:
        """The first choice."""
        first = self.choices[0]
        refusal = first.message.refusal or ""
        return Reply(
            text=first.message.content or "",
            refusal=refusal,
            is_cut=first.finish_reason == "length",
            is_refusal=bool(refusal) or first.finish_reason in BLOCKED,
        )
