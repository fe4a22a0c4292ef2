"""The OpenAI protocol as `serve` speaks it: what a request may say, and what replies and errors look like.

A field is honoured, or ignored because it changes no answer (`IGNORED`), or refused: nothing that would change an
answer is dropped silently. Left out: tools, images and sound, beam search, penalties by frequency.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from equipoise.data.fields import explain_validation, is_unicode
from equipoise.errors import EquipoiseError
from equipoise.records import Message

IGNORED = frozenset(
    (
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
    )
)
"""Fields that are about the service and not about the answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "best_of": (1,),
    "suffix": ("",),
}
"""Fields that are accepted only where they ask for nothing, with the values that do."""
SILENT = {"tool_calls": ([],), "refusal": ("",), "annotations": ([],)}
"""The same of a message: what clients send back of an earlier answer."""

Finish = Literal["stop", "length", "content_filter"]
RequestT = TypeVar("RequestT", bound="_Request")


class RequestError(EquipoiseError):
    """A request that is refused, with the status and the code that OpenAI gives."""

    def __init__(self, what: str, *, fix: str = "", why: str = "", status: int = 400, code: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.status, self.code = status, code


class TokenScore(NamedTuple):
    """A token, its log-probability (None: the very first), and the most probable ones in its place."""

    token: str
    log_prob: float | None
    top: dict[str, float]


class Completion(NamedTuple):
    """One answer; `scores` are there if asked for, those of the prompt first where it is echoed."""

    text: str
    finish_reason: Finish
    tokens: int
    scores: tuple[TokenScore, ...] | None


class ChatMessage(BaseModel):
    """A turn; its content is text, or parts that are all text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        kinds = {str(part.get("type")) if isinstance(part, dict) else type(part).__name__ for part in content}
        if others := sorted(kinds - {"text"}):
            raise ValueError(f"only text parts can be read, not {', '.join(others)}")
        return "\n".join(str(part.get("text", "")) for part in content)

    def to_message(self) -> Message:
        """The turn as our records have it: a developer's turn is a system turn."""
        return Message(role="system" if self.role == "developer" else self.role, content=self.content)


class StreamOptions(BaseModel):
    """What a stream has beside the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False  # pads chunks against eavesdroppers; there is nothing to pad here


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)  # not OpenAI's; vLLM and others have it too
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int = Field(1, ge=1, le=128)
    stop: tuple[str, ...] = ()
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @field_validator("stop", mode="before")
    @classmethod
    def _as_several(cls, stop: Any) -> Any:
        several = [stop] if isinstance(stop, str) else stop
        return [text for text in several if text != ""] if isinstance(several, list) else several

    @property
    def limit(self) -> int | None:
        """The most tokens to write, if it says."""
        return self.max_tokens


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: tuple[ChatMessage, ...]
    max_completion_tokens: int | None = Field(None, ge=1)
    cost_limit: float | None = None  # ours alone: the limit of best-of-n
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)

    @property
    def limit(self) -> int | None:
        """The newer name counts before the older one."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """How many of the most probable tokens to tell; None: no log-probabilities at all."""
        return self.top_logprobs if self.logprobs else None


class CompletionRequest(_Request):
    """POST /v1/completions: a text, or its tokens, goes on."""

    prompt: str | tuple[str, ...] | tuple[int, ...] | tuple[tuple[int, ...], ...]
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def top(self) -> int | None:
        """See `ChatRequest.top`."""
        return self.logprobs

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Each prompt; several are answered one after the other."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(cast("tuple[str | tuple[int, ...], ...]", self.prompt))


def read_request(body: Any, kind: type[RequestT]) -> RequestT:
    """A request from the JSON that was sent.

    Raises:
        RequestError: Names each field that is missing, wrong, unknown or cannot be honoured.
    """
    if not isinstance(body, dict):
        raise RequestError("The body is not a JSON object.")
    if not is_unicode(json.dumps(body, ensure_ascii=False)):
        raise RequestError("A text holds half a surrogate pair, which is no Unicode text.")
    fields = _stripped(body, NEUTRAL, IGNORED - kind.model_fields.keys())
    if isinstance(messages := fields.get("messages"), list):
        fields["messages"] = [
            _stripped(m, SILENT, frozenset({"name"})) if isinstance(m, dict) else m for m in messages
        ]
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise RequestError(f"The request cannot be honoured: {explain_validation(kind, error)}.") from None


def _stripped(fields: Mapping[str, Any], neutral: Mapping[str, Any], ignored: frozenset[str]) -> dict[str, Any]:
    """The fields that say something, without those that are ignored.

    Raises:
        RequestError: One asks for something that cannot be done.
    """
    kept = {name: value for name, value in fields.items() if value is not None and name not in ignored}
    for name, values in neutral.items():
        if name in kept and kept.pop(name) not in values:
            raise RequestError(
                f"`{name}` cannot be honoured: {json.dumps(fields[name])[:80]}.",
                fix="Leave it out" + (f", or send {json.dumps(values[0])}." if values else "."),
            )
    return kept


def usage(prompt_tokens: int, completions: Sequence[Completion]) -> dict[str, int]:
    """Tokens read and written; end tokens count as written."""
    written = sum(completion.tokens for completion in completions)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
    }


def chat_reply(model: str, completions: Sequence[Completion], used: Mapping[str, int]) -> dict[str, Any]:
    """The body of a chat completion."""
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "finish_reason": completion.finish_reason,
            "logprobs": _chat_scores(completion.scores),
        }
        for i, completion in enumerate(completions)
    ]
    return {**_head("chatcmpl", "chat.completion", model), "choices": choices, "usage": dict(used)}


def text_reply(model: str, completions: Sequence[Completion], used: Mapping[str, int]) -> dict[str, Any]:
    """The body of a text completion."""
    choices = [
        {
            "index": i,
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "logprobs": _text_scores(completion.scores),
        }
        for i, completion in enumerate(completions)
    ]
    return {**_head("cmpl", "text_completion", model), "choices": choices, "usage": dict(used)}


class Stream:
    """The server-sent events of one reply: pieces of its choices, their ends, and the end of all."""

    def __init__(self, model: str, *, is_chat: bool) -> None:
        self._is_chat = is_chat
        self._begun: set[int] = set()
        kind = ("chatcmpl", "chat.completion.chunk") if is_chat else ("cmpl", "text_completion")
        self._head = _head(*kind, model)

    def piece(self, text: str, index: int = 0, scores: tuple[TokenScore, ...] | None = None) -> str:
        """Some text of a choice."""
        if self._is_chat:
            role = {} if index in self._begun else {"role": "assistant"}  # clients add up what is said twice
            self._begun.add(index)
            return self._choice(index, {"delta": {**role, "content": text}}, _chat_scores(scores))
        return self._choice(index, {"text": text}, _text_scores(scores))

    def finish(self, reason: Finish, index: int = 0) -> str:
        """The end of a choice."""
        return self._choice(index, {"delta": {}} if self._is_chat else {"text": ""}, None, reason)

    def end(self, used: Mapping[str, int] | None) -> str:
        """The end of all, behind what was used, if that is wanted."""
        told = "" if used is None else _event({**self._head, "choices": [], "usage": dict(used)})
        return told + "data: [DONE]\n\n"

    def _choice(
        self, index: int, said: Mapping[str, Any], scores: dict[str, Any] | None, reason: Finish | None = None
    ) -> str:
        choice = {"index": index, **said, "logprobs": scores, "finish_reason": reason}
        return _event({**self._head, "choices": [choice]})


def error_reply(message: str, code: str = "") -> dict[str, Any]:
    """The body of an error."""
    wrong = {"message": message, "type": "invalid_request_error", "param": None, "code": code or None}
    return {"error": wrong}


def model_entry(name: str) -> dict[str, Any]:
    """A model as the list of models shows it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "equipoise"}


def _head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _event(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _chat_scores(scores: tuple[TokenScore, ...] | None) -> dict[str, Any] | None:
    if scores is None:
        return None

    def entry(token: str, log_prob: float | None) -> dict[str, Any]:
        return {"token": token, "logprob": log_prob, "bytes": list(token.encode())}

    content = [
        {**entry(s.token, s.log_prob), "top_logprobs": [entry(token, p) for token, p in s.top.items()]}
        for s in scores
    ]
    return {"content": content, "refusal": None}


def _text_scores(scores: tuple[TokenScore, ...] | None) -> dict[str, Any] | None:
    if scores is None:
        return None
    return {
        "tokens": [s.token for s in scores],
        "token_logprobs": [s.log_prob for s in scores],
        "top_logprobs": [None if s.log_prob is None else {**s.top, s.token: s.log_prob} for s in scores],
        "text_offset": None,
    }
