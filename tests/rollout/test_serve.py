import socket
import threading
from collections.abc import Iterator

import openai
import pytest
import torch
import uvicorn

from equipoise.records import Prompt
from equipoise.rollout.config import Sampling, ServeConfig
from equipoise.rollout.respond import answer, open_policy
from equipoise.rollout.serve import build_app

pytest.importorskip("fastapi")
QUESTION = [{"role": "user", "content": "how do i bake bread"}]


@pytest.fixture(scope="module")
def client(policy_folder) -> Iterator[openai.OpenAI]:
    policy = open_policy(policy_folder, torch.device("cpu"), torch.float32)
    app = build_app(policy, Sampling(max_new_tokens=6, temperature=0.0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with openai.OpenAI(base_url=url, api_key="any", max_retries=5) as client:
        yield client
    server.should_exit = True
    thread.join()
    listener.close()


def test_the_openai_client_gets_the_policy_s_own_answer(client, policy_folder):
    policy = open_policy(policy_folder, torch.device("cpu"), torch.float32)
    greedy = Sampling(max_new_tokens=6, temperature=0.0)
    (expected,) = answer(policy, [Prompt.from_text(QUESTION[0]["content"])], greedy, torch.Generator())
    found = client.chat.completions.create(model="tiny-policy", messages=QUESTION)
    assert found.choices[0].message.content == expected.text
    assert found.usage.completion_tokens <= 6
    assert found.choices[0].finish_reason == ("stop" if expected.finished else "length")


def test_a_stream_adds_up_to_the_whole(client):
    whole = client.chat.completions.create(model="tiny-policy", messages=QUESTION)
    stream = client.chat.completions.create(model="tiny-policy", messages=QUESTION, stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(parts) == whole.choices[0].message.content


def test_a_request_may_set_temperature_limit_and_seed(client):
    texts = [
        client.chat.completions.create(
            model="tiny-policy", messages=QUESTION, temperature=1.5, max_tokens=12, seed=seed
        ).choices[0]
        for seed in (1, 1, 2)
    ]
    assert texts[0].message.content == texts[1].message.content != texts[2].message.content


def test_the_policy_is_listed_by_name(client):
    assert [model.id for model in client.models.list()] == ["tiny-policy"]


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"model": "another", "messages": QUESTION}, "no model 'another'(.|\n)*tiny-policy"),
        ({"model": "tiny-policy", "messages": [{"role": "assistant", "content": "ok"}]}, "end with a user turn"),
        ({"model": "tiny-policy", "messages": QUESTION, "max_tokens": 500}, "context of 96"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(client, request_, why):
    with pytest.raises(openai.BadRequestError, match="400") as error:
        client.chat.completions.create(**request_)
    error.match(why)


def test_a_body_that_is_no_json_is_a_bad_request(client):
    with pytest.raises(openai.BadRequestError, match="Expecting property name"):
        client.post("/chat/completions", cast_to=object, content=b"{", options={})


def test_only_this_machine_is_served_unless_told_otherwise(policy_folder):
    assert ServeConfig(policy=policy_folder).host == "127.0.0.1"
