from collections.abc import Sequence

import pytest

from equipoise.errors import ModelError
from equipoise.records import Message, Prompt, Response, ScoredResponse
from equipoise.rollout.chat import chat, converse
from equipoise.rollout.config import ChatConfig, FunctionScore, Sampling


def words(responses: list[Response]) -> list[float]:
    return [float(len(response.text.split())) for response in responses]


def turns_before(responses: list[Response]) -> list[float]:
    return [float(len(response.prompt.messages)) for response in responses]


def count_turns(messages: Sequence[Message]) -> ScoredResponse:
    said = " / ".join(m.content for m in messages)
    return ScoredResponse(prompt=Prompt(messages=tuple(messages)), text=f"heard: {said}", reward=0.5, cost=-1.0)


def test_a_conversation_remembers_until_it_is_told_to_start_over():
    replies = list(converse(count_turns, ["one", "", "two", "/new", "three", "/quit", "four"], "be kind"))
    scores = "\n  [reward +0.50, cost -1.00 (safe)]"
    assert replies == [
        f"heard: be kind / one{scores}",
        f"heard: be kind / one / heard: be kind / one / two{scores}",
        "(a new conversation)",
        f"heard: be kind / three{scores}",
    ]


def test_a_positive_cost_is_called_unsafe_and_a_cut_answer_cut():
    def ask(messages: Sequence[Message]) -> ScoredResponse:
        return ScoredResponse(prompt=Prompt(messages=tuple(messages)), text="so", cost=2.0, finished=False)

    assert list(converse(ask, ["hi"])) == ["so\n  [cost +2.00 (unsafe), cut at the token limit]"]


def test_a_turn_that_fails_is_said_and_left_out():
    def ask(messages: Sequence[Message]) -> ScoredResponse:
        if messages[-1].content == "long":
            raise ModelError("Too long.", fix="Be brief.")
        return count_turns(messages)

    replies = list(converse(ask, ["long", "short"]))
    assert replies[0] == "Too long.\n  fix: Be brief."
    assert replies[1].startswith("heard: short\n")


def test_a_policy_is_talked_to_with_its_scores_live(policy_folder):
    config = ChatConfig(
        policy=policy_folder,
        reward=FunctionScore(function=f"{__name__}:words"),
        cost=FunctionScore(function=f"{__name__}:turns_before"),
        sampling=Sampling(max_new_tokens=5),
        device="cpu",
    )
    shown: list[str] = []
    chat(config, ["bake bread", "ok"], shown.append)
    assert len(shown) == 3
    assert "cost +1.00 (unsafe)" in shown[1]
    assert "cost +3.00 (unsafe)" in shown[2]  # user, assistant, user


def test_what_is_typed_is_read_from_the_terminal(policy_folder, monkeypatch):
    typed = iter(["ok"])

    def type_line(_: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", type_line)
    shown: list[str] = []
    chat(ChatConfig(policy=policy_folder, sampling=Sampling(max_new_tokens=3), device="cpu"), say=shown.append)
    assert len(shown) == 2


def test_a_folder_that_is_no_policy_is_refused(tmp_path):
    with pytest.raises(ModelError):
        chat(ChatConfig(policy=tmp_path), [])
