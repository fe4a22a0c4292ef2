"""Files that nobody made for us: a prompt and its responses under the names that people give them."""

import json

import pytest

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.files.imports import import_files
from equipoise.annotate.labels import DECOUPLED
from equipoise.annotate.store.project import create_project, open_project
from equipoise.errors import DataError

TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Why?"},
]


def items(project):
    with open_project(project) as store:
        return list(store.items())


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "responses": ["a", "b", "c"]},
        {"instruction": "p", "response_1": "a", "response_2": "b", "response_3": "c"},
        {"prompt": "p", "response_0": "a", "response_1": "b", "response_2": "c"},  # PKU-SafeRLHF has two
        {"question": "p", "answer_a": "a", "answer_b": "b", "answer_c": "c"},
    ],
)
def test_all_responses_of_a_row_are_one_item_that_asks_everything(project, write, row):
    (summary,) = import_files(project, [write("mine.jsonl", [row])])
    (item,) = items(project)
    assert (summary.format, summary.items, summary.problems) == ("plain", 1, ())
    assert (item.prompt.text, item.responses, item.questions) == ("p", ("a", "b", "c"), DECOUPLED)
    assert item.source == "mine.jsonl"


def test_a_table_of_cells_is_read_too(project, write):
    import_files(project, [write("mine.csv", 'prompt,response_a,response_b\n"p, q","a\nb",\n')])
    assert [(item.prompt.text, item.responses) for item in items(project)] == [("p, q", ("a\nb", ""))]


def test_rows_of_one_response_are_put_together_by_prompt_and_an_empty_one_is_a_response(project, write):
    rows = [{"prompt": "p", "response": text} for text in ("a", "", "b")] + [{"prompt": "q", "response": "a"}]
    (summary,) = import_files(project, [write("mine.jsonl", rows)])
    found = {item.prompt.text: item for item in items(project)}
    assert set(found["p"].responses) == {"a", "", "b"}
    assert found["q"].questions == ("safety",)
    assert (summary.empty_responses, found["p"].source) == (1, "mine.jsonl")


def test_a_conversation_may_be_the_prompt_and_its_kind_and_category_come_along(project, write):
    row = {"prompt": TURNS, "responses": ["a", "b"], "kind": "harmful", "category": "self_harm"}
    import_files(project, [write("mine.jsonl", [row])])
    (item,) = items(project)
    assert [turn.content for turn in item.prompt.messages] == ["Hi", "Hello!", "Why?"]
    assert (item.prompt.kind, item.prompt.category) == ("harmful", "self_harm")


def test_the_last_answer_of_a_demonstration_is_a_response(project, write):
    rows = [{"messages": [*TURNS, {"role": "assistant", "content": text}]} for text in ("a", "b")]
    import_files(project, [write("chats.jsonl", rows)])
    (item,) = items(project)
    assert ([turn.content for turn in item.prompt.messages], set(item.responses)) == (
        ["Hi", "Hello!", "Why?"],
        {"a", "b"},
    )


def test_columns_of_any_name_are_mapped(project, write):
    mapping = write("map.toml", 'prompt = "request"\nresponses = ["chosen", "rejected"]\n')
    rows = [{"request": "p", "chosen": "a", "rejected": "b"}]
    import_files(project, [write("dpo.jsonl", rows)], mapping=mapping)
    assert [item.responses for item in items(project)] == [("a", "b")]


def test_rows_that_cannot_be_used_are_named_and_the_others_stay(project, write):
    rows = [
        {"prompt": "p", "responses": ["a", "b"]},
        {"prompt": "q", "responses": ["a", 3]},
        {"prompt": "r"},
        {"prompt": " ", "responses": ["a", "b"]},
        {"prompt": "s", "responses": [*"abcdefg"]},
        {"prompt": "t", "responses": ["a", "b"], "kind": "nasty"},
        ["u"],
    ]
    path = write("mine.jsonl", rows)
    (summary,) = import_files(project, [path])
    assert (summary.rows, summary.items) == (7, 1)
    assert [problem.split(": ")[0] for problem in summary.problems] == [f"{path}:{n}" for n in range(2, 8)]
    for problem, words in zip(
        summary.problems,
        ("holds 3 (int), not text", "`response` is missing", "`prompt` is empty", "need 2 to 6", "kind", "list"),
        strict=True,
    ):
        assert words in problem


def test_a_list_of_prompts_alone_is_refused_with_the_form_that_is_wanted(project, write):
    with pytest.raises(DataError) as refusal:
        import_files(project, [write("prompts.jsonl", [{"prompt": "p"}])])
    form = refusal.value.fix.split("responses: ")[1].split("; ")[0]
    assert set(json.loads(form)) == {"prompt", "responses"}


def test_a_kind_is_said_of_prompts_that_do_not_say_it(tmp_path, write):
    create_project(tmp_path / "project", ProjectConfig(), 1.0)
    files = [
        write("mine.jsonl", [{"prompt": "p", "responses": ["a", "b"]}]),
        write("known.jsonl", [{"prompt": "q", "responses": ["a", "b"], "kind": "harmless"}]),
        write("single.jsonl", [{"prompt": "r", "response": "a"}]),
    ]
    import_files(tmp_path / "project", files, kind="harmful")
    kinds = {item.prompt.text: item.prompt.kind for item in items(tmp_path / "project")}
    assert kinds == {"p": "harmful", "q": "harmless", "r": "harmful"}
