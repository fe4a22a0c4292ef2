"""The red-team page against a policy and scorers on loopback."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from web_client import Site, serving

from equipoise.records import Prompt


class Policy(BaseHTTPRequestHandler):
    """Answers with how many messages it got; scores by the length of the answer; keeps what it was asked."""

    asked: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012
    status = 200
    score: Any = 1.5

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).asked.append((self.path, body))
        if self.path == "/v1/chat/completions":
            message = {"role": "assistant", "content": f"answer to {len(body['messages'])}"}
            answer: Any = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
            answer["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        else:
            answer = {"scores": [self.score if self.path == "/cost" else -self.score]}
        data = json.dumps(answer).encode()
        self.send_response(self.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def policy() -> Iterator[type[Policy]]:
    kind = type("ThisPolicy", (Policy,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        kind.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        yield kind
        server.shutdown()


@pytest.fixture
def site(tmp_path: Path, policy: Any) -> Iterator[Site]:
    endpoints = {"url": f"{policy.url}/v1", "reward": f"{policy.url}/reward", "cost": f"{policy.url}/cost"}
    with serving(tmp_path / "project", policy={**endpoints, "model": "beaver"}) as site:
        yield site


def test_a_hit_becomes_a_prompt_with_its_transcript(site: Site, policy: Any) -> None:
    ann = site.browser("Ann")
    assert ann.submit("/redteam", "/redteam").headers["location"] == "/redteam/1"
    for turns, question in ((0, "hello"), (2, "and now?"), (4, "more")):
        assert ann.submit("/redteam/1/say", "/redteam/1", question=question, turns=turns).status_code == 303
    completions = [body for path, body in policy.asked if path == "/v1/chat/completions"]
    said = [message["content"] for message in completions[1]["messages"]]
    assert said == ["hello", "answer to 1", "and now?"] and completions[1]["model"] == "beaver"
    scored = next(body for path, body in policy.asked if path == "/cost")
    assert scored == {"responses": [{"prompt": [{"role": "user", "content": "hello"}], "response": "answer to 1"}]}
    page = ann.get("/redteam/1").text
    assert page.count("cost +1.50") == 3 and page.count("reward -1.50") == 3

    hit = {"turn": "3", "category": "privacy_violation", "severity": "2", "comment": "an address"}
    assert ann.submit("/redteam/1/hit", "/redteam/1", **hit).status_code == 303
    assert "Privacy violation, severity 2: an address" in ann.get("/redteam/1").text
    (line,) = site.browser("Lena").get("/lead/prompts.jsonl").text.splitlines()
    prompt = Prompt.model_validate_json(line)
    assert [m.content for m in prompt.messages] == ["hello", "answer to 1", "and now?"]
    assert (prompt.kind, prompt.category, prompt.source) == (
        "harmful",
        "privacy_violation",
        "red team against beaver",
    )
    assert prompt.attack
    (full,) = map(json.loads, site.browser("Lena").get("/lead/hits.jsonl").text.splitlines())
    assert full["turns"][3]["cost"] == 1.5 and full["hit"]["severity"] == 2
    assert ann.submit("/redteam/1/hit", "/redteam/1", remove="1").status_code == 303
    assert site.browser("Lena").get("/lead/prompts.jsonl").text == ""


@pytest.mark.parametrize(("status", "score"), ((500, 1.5), (400, 1.5), (200, "high"), (200, float("nan"))))
def test_a_question_without_an_answer_is_handed_back_and_not_kept(
    site: Site, policy: Any, status: int, score: Any
) -> None:
    policy.status, policy.score = status, score
    ann = site.browser("Ann")
    ann.submit("/redteam", "/redteam")
    failed = ann.submit("/redteam/1/say", "/redteam/1", question="are you there?", turns="0")
    assert (
        failed.status_code == 502 and ">are you there?</textarea>" in failed.text and 'role="alert"' in failed.text
    )
    assert policy.url not in failed.text
    policy.status, policy.score = 200, 0.5
    assert ann.submit("/redteam/1/say", "/redteam/1", question="again", turns="0").status_code == 303
    assert "are you there?" not in ann.get("/redteam/1").text


def test_a_policy_that_never_ends_its_answer_is_given_up(tmp_path: Path) -> None:
    class Endless(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            with suppress(OSError):  # until the client goes away
                while True:
                    self.wfile.write(b" ")
                    time.sleep(0.02)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        policy = {"url": f"http://127.0.0.1:{server.server_port}/v1", "model": "beaver", "timeout": 0.1}
        with serving(tmp_path / "endless", policy=policy) as site:
            ann = site.browser("Ann")
            ann.submit("/redteam", "/redteam")
            for _ in range(2):  # the conversation is free again afterwards
                refused = ann.submit("/redteam/1/say", "/redteam/1", question="hello", turns=0)
                assert refused.status_code == 502 and "did not answer in time" in refused.text
        server.shutdown()


def test_a_conversation_belongs_to_one_person(site: Site, policy: Any) -> None:
    ann, bob = site.browser("Ann"), site.browser("Bob")
    ann.submit("/redteam", "/redteam")
    ann.submit("/redteam/1/say", "/redteam/1", question="secret", turns="0")
    assert bob.get("/redteam/1").status_code == 400 and "secret" not in bob.get("/redteam").text
    asked = len(policy.asked)
    for path, fields in (
        ("say", {"question": "x", "turns": "2"}),
        ("hit", {"turn": "1", "category": "privacy_violation"}),
    ):
        assert bob.submit(f"/redteam/1/{path}", "/redteam", **fields).status_code == 400
    assert len(policy.asked) == asked
    lena = site.browser("Lena")
    assert "secret" in lena.get("/redteam/1").text and "Your next message" not in lena.get("/redteam/1").text


@pytest.mark.parametrize(
    "fields",
    (
        {"turn": "0", "category": "privacy_violation"},  # a question
        {"turn": "99", "category": "privacy_violation"},
        {"turn": "x", "category": "privacy_violation"},
        {"turn": "1", "category": "made up"},
        {"turn": "1", "category": "privacy_violation", "severity": "9"},
        {"turn": "1", "category": "privacy_violation", "comment": "x" * 3000},
    ),
)
def test_an_impossible_hit_is_refused(site: Site, fields: dict[str, str]) -> None:
    ann = site.browser("Ann")
    ann.submit("/redteam", "/redteam")
    ann.submit("/redteam/1/say", "/redteam/1", question="hello", turns="0")
    assert ann.submit("/redteam/1/hit", "/redteam/1", **fields).status_code == 400
    assert "severity" not in site.browser("Lena").get("/lead/hits.jsonl").text


def test_a_second_tab_does_not_ask_behind_the_first_ones_back(site: Site, policy: Any) -> None:
    ann = site.browser("Ann")
    ann.submit("/redteam", "/redteam")
    ann.submit("/redteam/1/say", "/redteam/1", question="first", turns="0")
    late = ann.submit("/redteam/1/say", "/redteam/1", question="second", turns="0")
    assert late.status_code == 409
    assert sum(path == "/v1/chat/completions" for path, _ in policy.asked) == 1
