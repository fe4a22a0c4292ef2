import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError
from scripted_judge import busy, completion, cut_off, endless, scripted_judge
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse

from equipoise.annotate.judge.config import EndpointSource
from equipoise.annotate.judge.endpoint import BudgetError, Endpoint, Limits, NoAnswerError, RejectedError
from equipoise.annotate.judge.questions import Harms, ask_pair, read_rubrics
from equipoise.annotate.store.judge_answers import ANSWERS_FILE, Answers
from equipoise.errors import EndpointError, StoreError
from equipoise.records import Prompt

HARMS = Harms(("violence", "self_harm"), ("violence", "self_harm"))
RUBRICS = read_rubrics(None, HARMS)


@pytest.fixture(scope="module")
def running():
    with scripted_judge() as judge:
        yield judge


@pytest.fixture
def server(running):
    running.forget()
    return running


@pytest.fixture
def answers(tmp_path):
    with Answers(tmp_path / ANSWERS_FILE) as opened:
        yield opened


@pytest.fixture
def open_endpoint(server, answers):
    opened = []

    def open_one(calls=None, money=None, **settings) -> Endpoint:
        config = EndpointSource(url=server.url, model="scripted", **{"retries": 2, "timeout": 5, **settings})
        opened.append(Endpoint(config, answers, "judge", Limits(calls, money)))
        return opened[-1]

    yield open_one
    for endpoint in opened:
        endpoint.close()


def body(endpoint: Endpoint, text: str = "yes !"):
    request = ask_pair(RUBRICS, "helpfulness", Prompt.from_text("can you ?"), text, "no")
    return endpoint.body(request, has_schema=True)


def test_an_answer_is_asked_for_once_and_kept_as_it_came(server, answers, open_endpoint):
    endpoint = open_endpoint()
    first, again = endpoint.ask(body(endpoint)), endpoint.ask(body(endpoint))
    assert first == again
    assert json.loads(first.text)["choices"][0]["message"]["content"] == '{"answer": "A"}'
    assert len(server.bodies) == 1
    spent = answers.spending("judge")
    assert (spent.calls, spent.lost, spent.prompt_tokens, spent.completion_tokens) == (1, 0, 100, 10)


def test_what_is_sent_is_the_settings_and_a_schema(server, answers, open_endpoint):
    endpoint = open_endpoint(temperature="default", limit_field="max_completion_tokens",
                             max_tokens=99, options={"seed": 7})  # fmt: skip
    endpoint.ask(body(endpoint))
    (sent,) = server.bodies
    assert {key: value for key, value in sent.items() if key not in ("messages", "response_format")} == {
        "model": "scripted", "max_completion_tokens": 99, "seed": 7,
    }  # fmt: skip
    assert sent["response_format"]["json_schema"]["schema"]["properties"] == {
        "answer": {"type": "string", "enum": ["A", "B", "tie"]}
    }


def test_a_busy_endpoint_is_waited_for_as_long_as_it_says(server, answers, open_endpoint):
    server.fault = lambda body, time: busy(wait="0.4") if time == 1 else None
    endpoint, started = open_endpoint(), time.monotonic()
    endpoint.ask(body(endpoint))
    assert 0.4 <= time.monotonic() - started < 0.9  # the client's own first pause would be 0.375 to 0.5 s
    assert (answers.spending("judge").calls, answers.spending("judge").lost) == (2, 0)


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        (lambda body, time: cut_off() if time == 1 else None, 1),
        (lambda body, time: 2.0 if time == 1 else None, 1),
        (lambda body, time: busy(500, "0.01") if time == 1 else None, 0),
        (lambda body, time: busy(503, "0.01") if time == 1 else None, 0),
    ],
    ids=["cut", "silent", "500", "503"],
)
def test_what_fails_once_is_asked_again_and_accounted_for(server, answers, open_endpoint, fault, lost):
    server.fault = fault
    endpoint = open_endpoint(timeout=0.5, input_price=1e6, output_price=1e6)
    endpoint.ask(body(endpoint))
    endpoint.ask(body(endpoint))
    spent = answers.spending("judge")
    assert (spent.calls, spent.lost, len(server.bodies)) == (2, lost, 2)
    assert spent.prompt_tokens == 100  # one answer
    assert (spent.money > 110) == bool(lost)  # what brought no answer may have been charged: counted at its worst


@pytest.mark.parametrize(("lie", "timeout"), [((b" ", 0.05), 0.5), ((b"x" * 1_000_000, 0.0), 20)])
def test_an_answer_that_never_ends_is_given_up_and_asked_again(server, answers, open_endpoint, lie, timeout):
    server.fault = lambda body, time: endless(*lie) if time == 1 else None
    endpoint, started = open_endpoint(timeout=timeout), time.monotonic()
    assert endpoint.ask(body(endpoint)).status == 200
    assert time.monotonic() - started < 10
    assert (answers.spending("judge").calls, answers.spending("judge").lost) == (2, 1)


def test_a_question_goes_to_nobody_but_the_endpoint(server, answers, open_endpoint):
    asked = []
    with scripted_judge() as elsewhere:
        server.fault = lambda body, time: RedirectResponse(f"{elsewhere.url}/chat/completions", status_code=307)
        endpoint = open_endpoint()
        with pytest.raises(NoAnswerError, match="307"):
            endpoint.ask(body(endpoint))
        asked = elsewhere.bodies
    assert asked == [] and answers.find(endpoint.key(body(endpoint))) is None


def test_a_usage_that_is_a_lie_is_no_answer_and_one_that_is_huge_spends_the_budget(server, answers, open_endpoint):
    endpoint = open_endpoint(money=50.0, input_price=1.0, output_price=1.0)
    server.fault = lambda body, time: completion('{"answer": "A"}', usage={"prompt_tokens": -(10**9)})
    with pytest.raises(NoAnswerError, match="no chat completion"):
        endpoint.ask(body(endpoint))
    assert answers.spending("judge").money > 0  # a negative price earns nothing
    huge = {"prompt_tokens": 10**8, "completion_tokens": 1}
    server.fault = lambda body, time: completion('{"answer": "A"}', usage=huge)
    endpoint.ask(body(endpoint))
    with pytest.raises(BudgetError):
        endpoint.ask(body(endpoint, "another"))
    assert len(server.bodies) == 2


def test_what_fails_always_is_no_answer_and_nothing_is_kept(server, answers, open_endpoint):
    server.fault = lambda body, time: busy(500, "0.01")
    endpoint = open_endpoint()
    with pytest.raises(NoAnswerError, match="500"):
        endpoint.ask(body(endpoint))
    assert len(server.bodies) == 3
    assert answers.find(endpoint.key(body(endpoint))) is None
    server.fault = lambda body, time: None
    assert endpoint.ask(body(endpoint)).status == 200


@pytest.mark.parametrize(
    "lie", [PlainTextResponse("<html>hello</html>"), JSONResponse({"choices": []}), JSONResponse([])]
)
def test_an_endpoint_that_answers_something_else_has_not_answered(server, answers, open_endpoint, lie):
    server.fault = lambda body, time: lie
    endpoint = open_endpoint()
    with pytest.raises(NoAnswerError, match="no chat completion"):
        endpoint.ask(body(endpoint))
    assert len(server.bodies) == 1  # it may have been charged, so it is not repeated at once
    assert answers.spending("judge").lost == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_stops_everything(server, answers, open_endpoint, status):
    server.fault = lambda body, time: JSONResponse({"error": {"message": "no"}}, status_code=status)
    endpoint = open_endpoint()
    with pytest.raises(EndpointError, match=str(status)) as error:
        endpoint.ask(body(endpoint))
    assert not isinstance(error.value, NoAnswerError)


def test_a_question_that_is_rejected_is_an_answer_unless_it_is_the_first(server, answers, open_endpoint):
    server.fault = lambda body, time: JSONResponse({"error": {"message": "too long"}}, status_code=400)
    endpoint = open_endpoint()
    with pytest.raises(RejectedError, match="too long"):
        endpoint.ask(body(endpoint), is_first=True)
    assert endpoint.ask(body(endpoint)).status == 400
    assert endpoint.ask(body(endpoint)).status == 400
    assert len(server.bodies) == 2


def test_the_number_of_calls_is_never_exceeded_not_even_by_repetition(server, answers, open_endpoint):
    server.fault = lambda body, time: busy(500, "0.01")
    endpoint = open_endpoint(calls=2)
    with pytest.raises(BudgetError, match="2 calls"):
        endpoint.ask(body(endpoint))
    assert len(server.bodies) == 2


def test_money_is_never_exceeded_by_many_at_once_and_counts_over_runs(server, answers, open_endpoint):
    # an answer costs 100 + 10·2 = 120; the worst case is some 3,000 bytes of body and 16 tokens
    prices = {"input_price": 1e6, "output_price": 2e6, "max_tokens": 16}
    for allowed in (5000, 5500):
        endpoint = open_endpoint(money=allowed, **prices)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(endpoint.ask, body(endpoint, f"{n} !")) for n in range(40)]
        stopped = [future.exception() for future in asked]
        assert {type(error) for error in stopped} == {type(None), BudgetError}
        spent = answers.spending("judge")
        assert spent.money == 120 * len(server.bodies) <= allowed
        worst = max(len(json.dumps(body)) for body in server.bodies) + 32
        assert spent.money > allowed - worst  # it stopped no earlier than it had to
    assert max(server.times.values()) == 1


def test_usage_that_is_not_told_counts_at_its_worst(server, answers, open_endpoint):
    server.fault = lambda body, time: completion('{"answer": "A"}', usage=None)
    endpoint = open_endpoint(input_price=1e6, output_price=1e6)
    endpoint.ask(body(endpoint))
    spent = answers.spending("judge")
    assert (spent.without_usage, spent.prompt_tokens) == (1, 0)
    assert spent.money > 1000


def test_the_api_key_is_sent_and_kept_nowhere(server, answers, open_endpoint, monkeypatch, caplog):
    caplog.set_level(0)
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-123")
    server.fault = lambda body, time: completion("you sent sk-secret-123") if time == 1 else None
    endpoint = open_endpoint(token_variable="JUDGE_KEY")
    answer = endpoint.ask(body(endpoint))
    assert server.headers[0]["authorization"] == "Bearer sk-secret-123"
    assert "you sent …" in json.loads(answer.text)["choices"][0]["message"]["content"]
    server.fault = lambda body, time: JSONResponse({"error": {"message": "bad sk-secret-123"}}, status_code=401)
    with pytest.raises(EndpointError) as error:
        endpoint.ask(body(endpoint, "other"))
    assert "sk-secret" not in str(error.value) + caplog.text
    for path in answers.path.parent.iterdir():
        assert b"sk-secret" not in path.read_bytes()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"url": "http://me:secret@127.0.0.1/v1"}, "token_variable"),
        ({"input_price": 1.0}, "given together"),
        ({"options": {"model": "other"}}, "may not hold model"),
        ({"temperature": 3.0}, "temperature"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, why):
    with pytest.raises(ValidationError, match=why):
        EndpointSource.model_validate({"url": "http://127.0.0.1/v1", "model": "m", **settings})


def test_a_key_that_is_not_set_is_said_before_anything_is_sent(server, answers, open_endpoint):
    with pytest.raises(EndpointError, match="NO_SUCH_KEY is not set"):
        open_endpoint(token_variable="NO_SUCH_KEY")


def test_a_request_is_written_down_before_it_is_sent_and_an_answer_before_it_is_used(
    server, answers, open_endpoint
):
    seen = []
    server.fault = lambda body, time: seen.append(answers.spending("judge").calls)
    endpoint = open_endpoint()
    asked = body(endpoint)
    endpoint.ask(asked)
    assert seen == [1]
    assert answers.find(endpoint.key(asked)) is not None


def test_two_judges_at_once_on_one_project_are_refused(answers):
    with pytest.raises(StoreError, match="another judge"):
        Answers(answers.path)
    answers.close()
    Answers(answers.path).close()


def test_a_file_of_another_program_is_left_alone(tmp_path):
    path = tmp_path / "judge.sqlite"
    path.write_text("hello, I am a text", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be opened"):
        Answers(path)
    assert path.read_text(encoding="utf-8").startswith("hello")


def test_threads_ask_side_by_side(server, answers, open_endpoint):
    together = threading.Barrier(4, timeout=5)
    server.brain = lambda body: '{"answer": "B"}'
    server.fault = lambda body, time: 0.2
    endpoint, started = open_endpoint(), time.monotonic()

    def ask(n):
        together.wait()
        return endpoint.ask(body(endpoint, f"{n}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    assert time.monotonic() - started < 0.7
