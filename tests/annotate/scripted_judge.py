"""A judge model on loopback that reads what it is shown as a real one would, and misbehaves as it is told."""

import asyncio
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Body = dict[str, Any]
Fault = Callable[[Body, int], "Response | float | None"]
"""(request's body, how often it has come) → what goes wrong: an answer, seconds of silence, or None: nothing."""
Brain = Callable[[Body], str]


def completion(text: str | None, *, finish: str = "stop", refusal: str | None = None, **more: Any) -> JSONResponse:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    tree = {"id": "x", "object": "chat.completion", "created": 0, "model": "scripted"}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return JSONResponse({**tree, "choices": choices, "usage": usage, **more})


def cut_off() -> Response:
    """An answer whose connection ends in the middle."""

    async def half() -> AsyncIterator[bytes]:
        yield b'{"id": "x", "choices": [{"mess'
        await asyncio.sleep(0.05)
        raise ConnectionError("cut")

    return StreamingResponse(half(), media_type="application/json", headers={"content-length": "500"})


def endless(piece: bytes, pause: float) -> Response:
    """An answer that never ends: little by little, or as much as fits."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"id": "'
        while True:
            yield piece
            await asyncio.sleep(pause)

    return StreamingResponse(pieces(), media_type="application/json")


def busy(status: int = 429, wait: str = "0.2") -> Response:
    return JSONResponse({"error": {"message": "busy"}}, status_code=status, headers={"retry-after": wait})


def question_of(body: Body) -> str:
    system = body["messages"][0]["content"]
    words = {
        "for harm": "safety",
        "refuses the request": "refusal",
        "by helpfulness alone": "helpfulness",
        "by harmlessness alone": "harmlessness",
        "better overall": "single",
    }
    return next(question for word, question in words.items() if word in system)


def material(body: Body) -> dict[str, str]:
    """What stands between tags, by tag, and "outside": all other text that the judge model is given."""
    system, user = (message["content"] for message in body["messages"])
    (tag,) = set(re.findall(r"tags that end in ([0-9a-f]{12})", system))
    found = dict(re.findall(rf"<(\w+)_{tag}>\n(.*?)\n</\1_{tag}>", user, re.DOTALL))
    outside = re.sub(rf"<(\w+)_{tag}>\n(.*?)\n</\1_{tag}>", "", user, flags=re.DOTALL)
    return {**found, "outside": system + outside}


def honest(body: Body) -> str:
    """Knows what is good: "bomb" is unsafe, more `!` more helpful, fewer "bad" less harmful."""
    shown = material(body)
    if question_of(body) == "safety":
        is_safe = "bomb" not in shown["response"]
        return json.dumps({"categories": [] if is_safe else ["self_harm"], "is_safe": is_safe})
    if question_of(body) == "refusal":
        return json.dumps({"refusal": "full" if "sorry" in shown["response"] else "none"})
    sign, word = {"harmlessness": (-1, "bad")}.get(question_of(body), (1, "!"))
    first, second = (sign * shown[name].count(word) for name in ("response_A", "response_B"))
    return json.dumps({"answer": "tie" if first == second else "A" if first > second else "B"})


def prefers_first(body: Body) -> str:
    return honest(body) if question_of(body) == "safety" else '{"answer": "A"}'


class ScriptedJudge:
    """The server's side: what it was asked, how often, and how it is to misbehave."""

    def __init__(self) -> None:
        self.url = ""
        self.forget()

    def forget(self) -> None:
        """Be as new."""
        self.brain: Brain = honest
        self.fault: Fault = lambda body, time: None
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.times: Counter[str] = Counter()
        self.served: Counter[str] = Counter()

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        key = json.dumps(body, sort_keys=True)
        self.times[key] += 1
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        wrong = self.fault(body, self.times[key])
        if isinstance(wrong, Response):
            return wrong
        if wrong is not None:
            await asyncio.sleep(wrong)
        self.served[key] += 1
        return completion(self.brain(body))


@contextmanager
def scripted_judge() -> Iterator[ScriptedJudge]:
    judge = ScriptedJudge()
    app = Starlette(routes=[Route("/v1/chat/completions", judge.complete, methods=["POST"])])
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, log_level="critical", timeout_graceful_shutdown=1)
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        judge.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield judge
        finally:
            server.should_exit = True
            thread.join()
