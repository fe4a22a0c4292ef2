"""Asking a judge model over HTTP: nothing twice, nothing lost, nothing beyond the budget.

Attempts, pauses (`Retry-After` is honoured) and timeouts are those of the `openai` client; each attempt is written
down before it is sent, and an answer before it is used. Left out: what is asked and what an answer means.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, NamedTuple

import httpx2
import openai

from equipoise.annotate.judge.config import EndpointSource
from equipoise.annotate.judge.parser import read_usage
from equipoise.annotate.judge.questions import Json, Request
from equipoise.annotate.store.judge_answers import Answer, Answers, Usage
from equipoise.config import NO_TOKEN, bearer_token
from equipoise.errors import EndpointError, EquipoiseError

_PER_MILLION = 1e-6
_OF_THE_QUESTION = (400, 413, 422)
"""Statuses that say something about one question; all other errors are about the endpoint."""
_MOST_BYTES = 2**22
"""Of one answer: some hundred times the longest that is of use."""
_NEVER = (401, 403, 404, 405)
"""Statuses with which no question will ever be answered."""


class NoAnswerError(EndpointError):
    """One question got no answer, though others may."""


class RejectedError(NoAnswerError):
    """The endpoint does not take the question as it is put."""


class BudgetError(EquipoiseError):
    """The next request would exceed the budget."""


class Limits(NamedTuple):
    """The most requests and the most money over all runs of a judge; None: no limit."""

    calls: int | None = None
    money: float | None = None


class Endpoint:
    """One model behind an endpoint, asked in the name of one judge; safe to use from several threads."""

    def __init__(self, config: EndpointSource, answers: Answers, judge: str, limits: Limits) -> None:
        """Prepare the client; nothing is sent.

        Raises:
            EndpointError: The API key is not in the environment.
        """
        self._config, self._answers, self._judge, self._limits = config, answers, judge, limits
        self._url = str(config.url).rstrip("/")
        self._turn = threading.Condition()
        self._flying: dict[int, float] = {}  # calls under way and what they cost at most
        self._mine = threading.local()  # the last call of a thread
        spent = answers.spending(judge)
        self._calls, self._money = spent.calls, spent.money
        self._client = openai.OpenAI(
            base_url=self._url,
            api_key=bearer_token(config.token_variable, str(config.url)),
            timeout=config.timeout,
            max_retries=config.retries,
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [self._before], "response": [self._after]},
                follow_redirects=False,  # what is asked is for this endpoint alone
            ),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def body(self, request: Request, *, has_schema: bool) -> Json:
        """The request's body; the answer is known by its hash."""
        settings = self._config
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        body: Json = {**settings.options, "model": settings.model, "messages": messages}
        body[settings.limit_field] = settings.max_tokens
        if settings.temperature != "default":
            body["temperature"] = settings.temperature
        if has_schema:
            form = {"name": "judgement", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body

    def ask(self, body: Json, *, is_first: bool = False) -> Answer:
        """The answer to a request, from the store or from the endpoint.

        Args:
            body: What to POST.
            is_first: No request of this kind has been answered yet: if it is rejected, so will be all others.

        Raises:
            NoAnswerError: No attempt brought a whole answer.
            RejectedError: The first of all was rejected; later ones are answers that say nothing.
            EndpointError: The endpoint will answer nothing at all.
            BudgetError: The request would exceed the budget.
        """
        key = self.key(body)
        known = self._answers.find(key)
        if known is not None:
            return known
        try:
            create = self._client.chat.completions.with_raw_response.create
            return self._kept(key, body, create(**body, extra_headers={"Idempotency-Key": key}).text)
        except openai.APIStatusError as error:
            refused = Answer(error.status_code, self._cleaned(error.response.text))
            if error.status_code in _OF_THE_QUESTION and not is_first:
                self._answers.keep(self._mine.number, key, body, refused, cost=0.0)
                return refused
            raise self._failure(refused.status, f"it answered {refused.status}: {refused.text[:300]}") from error
        except openai.APIConnectionError as error:
            raise self._failure(None, f"{error} ({error.__cause__!r})") from error
        finally:
            self._land(None)

    def key(self, body: Json) -> str:
        """The hash by which the answer to a request is known."""
        return hashlib.sha256(json.dumps([self._url, body], sort_keys=True).encode()).hexdigest()

    def _kept(self, key: str, body: Json, text: str) -> Answer:
        """Store a whole answer; only then is it used."""
        answer = Answer(200, self._cleaned(text))
        try:
            usage = read_usage(text)
        except ValueError as error:
            raise self._failure(200, f"the answer is no chat completion: {answer.text[:200]!r}") from error
        cost = self._cost(usage)
        self._answers.keep(self._mine.number, key, body, answer, usage, cost)
        self._land(cost)
        return answer

    def _before(self, request: Any) -> None:
        """Of every attempt, before it is sent: wait for room in the budget, write it down."""
        self._land(None)  # an attempt before this one that brought nothing
        prices = self._config
        read = len(request.content) * _PER_MILLION * (prices.input_price or 0)  # a token is at least a byte
        most = read + prices.max_tokens * _PER_MILLION * (prices.output_price or 0)
        with self._turn:
            while not self._fits(most) and self._flying and self._has_calls():
                self._turn.wait()
            if not self._fits(most):
                raise BudgetError(
                    "The judge's budget is spent.",
                    why=f"{self._calls} calls and {self._money:.4f} of money so far, unknown costs at their "
                    f"worst; the next call may cost {most:.4f}",
                    fix="Raise max_calls or max_money and run the same command; nothing is asked twice.",
                )
            number = self._answers.note_sent(self._judge, request.headers["Idempotency-Key"], most)
            self._calls += 1
            self._money += most
            self._flying[number] = most
        self._mine.number = number

    def _after(self, response: Any) -> None:
        """Of every attempt that was answered: an error status costs nothing; its body has to come to an end."""
        response.stream = _Bounded(response.stream, time.monotonic() + self._config.timeout)
        if response.status_code >= 400:
            self._answers.note_refused(self._mine.number, response.status_code)
            self._land(0.0)

    def _fits(self, most: float) -> bool:
        money = self._limits.money
        return self._has_calls() and (money is None or self._money + most <= money)

    def _has_calls(self) -> bool:
        return self._limits.calls is None or self._calls < self._limits.calls

    def _land(self, cost: float | None) -> None:
        """The call of this thread has ended, if one is under way; an unknown cost stays counted at its worst."""
        with self._turn:
            most = self._flying.pop(getattr(self._mine, "number", -1), None)
            if most is not None:
                self._money += 0.0 if cost is None else cost - most
                self._turn.notify_all()

    def _cleaned(self, text: str) -> str:
        """A text without the API key, should the endpoint have echoed it."""
        key = self._client.api_key
        return text if key == NO_TOKEN else text.replace(key, "…")

    def _cost(self, usage: Usage) -> float | None:
        settings = self._config
        if settings.input_price is None or settings.output_price is None:
            return 0.0
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return None
        tokens = usage.prompt_tokens * settings.input_price + usage.completion_tokens * settings.output_price
        return tokens * _PER_MILLION

    def _failure(self, status: int | None, why: str) -> EndpointError:
        what, where = "The endpoint did not answer.", f"{self._url}, model {self._config.model!r}"
        if status in _NEVER:
            return EndpointError(what, where=where, why=why, fix="Check the URL, the model and the API key.")
        if status in _OF_THE_QUESTION:
            return RejectedError(
                what, where=where, why=why, fix="See docs/judge.md: temperature, limit_field, options."
            )
        return NoAnswerError(what, where=where, why=why)


def ask_all(
    endpoint: Endpoint, bodies: Sequence[Json], concurrency: int, *, max_failures: int = 0, hint: str = ""
) -> list[Answer | NoAnswerError]:
    """The answer to each request, or why there is none.

    Args:
        endpoint: Who is asked.
        bodies: What.
        concurrency: Requests under way at a time.
        max_failures: Requests that may stay without an answer.
        hint: What else can be done when more do, for the error.

    Raises:
        EndpointError: More than that got none, or the endpoint will answer nothing at all; what was answered is
            kept.
        BudgetError: See `Endpoint.ask`.
    """
    given: dict[int, Answer | NoAnswerError] = {}
    failures = 0
    waiting = iter(enumerate(bodies))
    with ThreadPoolExecutor(concurrency, thread_name_prefix="endpoint") as pool:
        open_: dict[Future[Answer], int] = {}
        while True:
            for i, body in islice(waiting, concurrency - len(open_)):
                open_[pool.submit(endpoint.ask, body)] = i
            if not open_:
                return [given[i] for i in range(len(bodies))]
            for future in wait(open_, return_when=FIRST_COMPLETED).done:
                i = open_.pop(future)
                try:
                    given[i] = future.result()
                except NoAnswerError as error:
                    given[i], failures = error, failures + 1
                    if failures > max_failures:
                        raise EndpointError(
                            f"{failures} of {len(bodies)} questions got no answer.",
                            where=error.where,
                            why=error.why,
                            fix=f"Run the same command again: what was answered is kept. {hint}".rstrip(),
                        ) from error


class _Bounded(httpx2.SyncByteStream):
    """A body that ends in time and at a length: the client's own timeout is one for each piece."""

    def __init__(self, stream: httpx2.SyncByteStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._stream:
            size += len(piece)
            if size > _MOST_BYTES or time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the answer does not end")
            yield piece

    def close(self) -> None:
        self._stream.close()
