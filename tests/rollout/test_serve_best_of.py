import json

import httpx
import pytest
import torch
from starlette.testclient import TestClient
from test_best_of import DRAWN, chooser

from equipoise.records import Prompt, ScoredResponse
from equipoise.rollout.best_of import choose
from equipoise.rollout.respond import Policy, answer, open_policy
from equipoise.rollout.serve import build_app

TEXT = "how do i bake bread"
NONE = "none of that"
BODY = {"model": "tiny-policy", "messages": [{"role": "user", "content": TEXT}]}


@pytest.fixture(scope="module")
def policy(policy_folder) -> Policy:
    return open_policy(policy_folder, torch.device("cpu"), torch.float32)


def ask(policy, limit: float = 1.0, refusal: str | None = None, route: str = "chat/completions", **body):
    client = TestClient(build_app(policy, DRAWN, 42, chooser(limit, refusal)))
    return client.post(f"/v1/{route}", json={**BODY, **body})


def said(reply: httpx.Response) -> list[str]:
    return [choice["message"]["content"] for choice in reply.json()["choices"]]


def offline(policy, seed: int, limit: float, samples: int = 1) -> list[ScoredResponse]:
    generator = torch.Generator().manual_seed(seed)
    drawn = answer(policy, [Prompt.from_text(TEXT)], DRAWN, generator, samples * 3)
    return [one.response for one in choose(chooser(limit), drawn)]


@pytest.mark.parametrize("limit", [0.0, 2.0])
def test_a_served_answer_is_the_one_that_is_chosen_offline_from_the_same_seed(policy, limit):
    for seed in range(4):
        assert said(ask(policy, limit, seed=seed)) == [offline(policy, seed, limit)[0].text]


def test_several_answers_are_each_the_best_of_n(policy):
    assert said(ask(policy, seed=7, n=2)) == [r.text for r in offline(policy, 7, 1.0, samples=2)]


def test_a_request_may_carry_its_own_limit(policy):
    found = {limit: said(ask(policy, 0.0, seed=1, cost_limit=limit))[0] for limit in (0.0, 99.0)}
    assert found == {limit: offline(policy, 1, limit)[0].text for limit in (0.0, 99.0)}
    assert found[0.0] != found[99.0]


def test_a_refusal_in_its_place_is_told_apart(policy):
    reply = ask(policy, -1.0, NONE)  # no text has fewer than 0 vowels
    assert said(reply) == [NONE]
    assert reply.json()["choices"][0]["finish_reason"] == "content_filter"
    assert reply.json()["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize(("limit", "refusal"), [(1.0, None), (-1.0, NONE)])
def test_a_stream_gives_the_chosen_answer_and_nothing_of_the_others(policy, limit, refusal):
    lines = ask(policy, limit, refusal, seed=3, stream=True).text.split("\n\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert text == said(ask(policy, limit, refusal, seed=3))[0]


def test_a_stop_text_ends_an_answer_before_it_is_scored(policy):
    differs = False
    for seed in range(4):
        drawn = answer(policy, [Prompt.from_text(TEXT)], DRAWN, torch.Generator().manual_seed(seed), 3)
        cut = [r.text.partition("e")[0] for r in drawn]
        assert said(ask(policy, 99.0, seed=seed, stop=["e"])) == [max(cut, key=len)]
        differs |= max(cut, key=len) != max((r.text for r in drawn), key=len).partition("e")[0]
    assert differs  # scoring before the cut would have chosen another at least once


def test_what_cannot_be_chosen_is_refused(policy):
    text = ask(policy, route="completions", prompt="bake", messages=None)
    assert (text.status_code, "chat completion" in text.text) == (400, True)
    plain = TestClient(build_app(policy, DRAWN)).post("/v1/chat/completions", json={**BODY, "cost_limit": 0})
    assert (plain.status_code, "does not choose" in plain.text) == (400, True)
