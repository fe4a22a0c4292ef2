"""What is read of a chat completion."""

import json

import pytest
from pydantic import ValidationError

from equipoise.chat_model import Completion, Reply


def read(finish: str | None = "stop", **message: str | None) -> Reply:
    tree = {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": None}
    return Completion.model_validate_json(json.dumps(tree)).reply


def test_a_reply_is_the_text_and_how_it_ended():
    assert read(content="yes") == Reply("yes", refusal="", is_cut=False, is_refusal=False)
    assert read("length", content="ye") == Reply("ye", refusal="", is_cut=True, is_refusal=False)
    assert read(None, content=None) == Reply("", refusal="", is_cut=False, is_refusal=False)


def test_a_model_refuses_in_a_field_of_its_own_and_a_provider_by_its_reason_to_stop():
    assert read(content=None, refusal="I won't.") == Reply("", refusal="I won't.", is_cut=False, is_refusal=True)
    assert read("content_filter", content="") == Reply("", refusal="", is_cut=False, is_refusal=True)


def test_an_answer_without_choices_is_no_completion():
    with pytest.raises(ValidationError, match="choices"):
        Completion.model_validate_json('{"choices": []}')
