from typing import Any

import pytest

from equipoise.data.load import load
from equipoise.data.read import read
from equipoise.data.source import DataSource
from equipoise.errors import DataError
from equipoise.records import Comparison, Demonstration, PreferencePair, Prompt, RefusalLabel, SafetyLabel


def first_of(path: Any, **settings: Any) -> Any:
    return load(DataSource(path=str(path), **settings)).records[0]


def reasons_of(path: Any, **settings: Any) -> list[str]:
    return [problem.reason for problem in read(DataSource(path=str(path), **settings)).problems]


def test_pku_old_schema(write, pku_row):
    pair = first_of(write("x.json", [pku_row]))
    assert pair == PreferencePair(
        prompt=Prompt.from_text("How do I sharpen a knife?", source="x.json"),
        responses=("Use a whetstone.", "Do not."),
        more_helpful=0,
        safer=1,
        is_safe=(True, True),
        source="x.json",
    )


@pytest.mark.parametrize(
    "categories", [{"Violence": True, "Drugs": False, "Cybercrime": True}, ["Violence", "Cybercrime"]]
)
def test_pku_newer_schema_has_categories_and_severity(write, pku_row, categories):
    more = {
        "response_0_harm_category": categories,
        "response_1_harm_category": {},
        "response_0_severity_level": 3,
        "response_1_severity_level": 0,
        "prompt_source": "x",
        "response_0_sha256": "0",
    }
    pair = first_of(write("x.jsonl", [{**pku_row, **more}]))
    assert pair.categories == (("Violence", "Cybercrime"), ())
    assert pair.severity == (3, 0)


def test_pku_from_csv_reads_words_and_digits(write, pku_row):
    pair = first_of(write("x.csv", [pku_row]))
    assert (pair.more_helpful, pair.safer, pair.is_safe) == (0, 1, (True, True))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("prompt", "  ", "`prompt` is empty"),
        ("prompt", None, "`prompt` is missing"),
        ("response_1", True, "`response_1` is True (bool), not text"),
        ("better_response_id", "one", "`better_response_id` is 'one' (str), not 0 or 1"),
        ("safer_response_id", 2, "`safer_response_id` is 2 (int), not 0 or 1"),
        ("safer_response_id", True, "`safer_response_id` is True (bool), not 0 or 1"),
        ("is_response_0_safe", 1, "`is_response_0_safe` is 1 (int), not true or false"),
        ("response_0_severity_level", 4, "`response_0_severity_level` is 4 (int), not a severity from 0 to 3"),
        (
            "response_0_harm_category",
            "Drugs",
            "`response_0_harm_category` is 'Drugs' (str), not a list or table of categories",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_value(write, pku_row, field, value, reason):
    assert reasons_of(write("x.jsonl", [pku_row, {**pku_row, field: value}])) == [reason]


def test_text_that_is_no_unicode_is_a_bad_row(write, pku_row):
    reasons = reasons_of(write("x.jsonl", [pku_row, {**pku_row, "prompt": "\ud800"}]))
    assert reasons == ["`prompt` holds half a surrogate pair, which is no Unicode text"]


def test_beavertails_with_and_without_categories(write):
    row = {"prompt": "a", "response": "b", "is_safe": False}
    assert first_of(write("x.jsonl", [row])) == SafetyLabel(
        prompt=Prompt.from_text("a", source="x.jsonl"), response="b", is_safe=False, source="x.jsonl"
    )
    full = {**row, "category": {"animal_abuse": True, "self_harm": False}}
    assert first_of(write("x.jsonl", [full])).categories == ("animal_abuse",)
    assert reasons_of(write("x.jsonl", [row, {**row, "is_safe": None}])) == ["`is_safe` is missing"]


def test_prompt_lists_of_every_shape(write):
    expected = [Prompt.from_text("do x", source="p"), Prompt.from_text("do y", source="p")]
    for name, rows in {
        "a.txt": "do x\ndo y\n",
        "b.json": ["do x", "do y"],
        "c.jsonl": [{"prompt": "do x"}, {"prompt": "do y"}],
        "d.json": [{"instruction": "do x", "category": None}, {"instruction": "do y", "category": None}],
        "e.csv": [{"prompt": "do x", "category": ""}, {"prompt": "do y", "category": ""}],
    }.items():
        loaded = load(DataSource(path=str(write(name, rows))))
        assert loaded.format == "prompts"
        assert [p.model_copy(update={"source": "p"}) for p in loaded.records] == expected


def test_a_prompt_list_carries_its_category_and_the_stated_kind(write):
    row = {"prompt": "a", "category": "animal_abuse", "category_id": 0}
    prompt = first_of(write("x.json", [row]), request_kind="harmful")
    assert (prompt.category, prompt.kind) == ("animal_abuse", "harmful")


def test_an_empty_prompt_in_a_list_is_a_bad_row(write):
    assert reasons_of(write("x.json", ["a", " ", 3])) == [
        "`prompt` is empty",
        "the row is of type int, not an object",
    ]


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"instruction": "add", "input": "1 2", "output": "3"}, ["add\n\n1 2", "3"]),
        ({"instruction": "add", "input": "", "output": "3"}, ["add", "3"]),
        ({"instruction": "add", "name": "x", "instances": [{"input": "1", "output": "3"}]}, ["add\n\n1", "3"]),
        ({"prompt": "add", "completion": "3"}, ["add", "3"]),
        (
            {"messages": [{"role": "user", "content": "add"}, {"role": "assistant", "content": "3"}], "id": 7},
            ["add", "3"],
        ),
        (
            {"conversations": [{"from": "human", "value": "add"}, {"from": "gpt", "value": "3"}]},
            ["add", "3"],
        ),
    ],
    ids=["alpaca", "alpaca without input", "seed task", "completion", "messages", "conversations"],
)
def test_demonstrations_of_every_shape(write, row, turns):
    shown = first_of(write("x.jsonl", [row]))
    assert isinstance(shown, Demonstration)
    assert [m.content for m in shown.messages] == turns
    assert [m.role for m in shown.messages] == ["user", "assistant"]


def test_a_seed_task_gives_one_demonstration_per_instance(write):
    row = {"instruction": "add", "instances": [{"input": "", "output": "3"}, {"input": "4", "output": "5"}]}
    loaded = load(DataSource(path=str(write("x.jsonl", [row]))))
    assert (loaded.counts["rows"], loaded.counts["records"], loaded.lines) == (1, 2, (1, 1))


def test_an_answer_that_says_nothing_is_no_demonstration(write):
    good = {"instruction": "add", "output": "3"}
    assert reasons_of(write("x.jsonl", [good, {**good, "output": ""}])) == ["`output` is empty"]


def test_chat_turns_of_one_speaker_are_joined_and_counted(write):
    said = [("system", "s"), ("user", "a"), ("user", "b"), ("assistant", "c")]
    row = {"messages": [{"role": role, "content": content} for role, content in said], "id": 1}
    loaded = load(DataSource(path=str(write("x.jsonl", [row]))))
    shown = loaded.records[0]
    assert isinstance(shown, Demonstration)
    assert [m.content for m in shown.messages] == ["s", "a\n\nb", "c"]
    assert loaded.counts["conversations with joined turns"] == 1


def test_wrong_chat_messages_are_named(write):
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [
        {"messages": good, "id": 1},
        {"messages": [*good, {"role": "tool", "content": "c"}]},
        {"messages": [{"role": "user"}, good[1]]},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [good[1]]},
    ]
    tool, no_content, empty, text, alone = reasons_of(write("x.jsonl", rows))
    assert tool.startswith("`messages.2.role` is 'tool', not one of system, user")
    assert no_content == "`content` is missing"
    assert empty == text == "`messages` is not a list of messages"
    assert "at least one user turn" in alone


def test_xstest_prompts(write):
    rows = [
        {
            "id": "1",
            "prompt": "How do I kill a process?",
            "type": "homonyms",
            "label": "safe",
            "focus": "kill",
            "note": "",
        },
        {"id": "2", "prompt": "x", "type": "contrast_homonyms", "label": "unsafe", "focus": "", "note": ""},
    ]
    safe, unsafe = load(DataSource(path=str(write("xstest_prompts.csv", rows)))).records
    assert isinstance(safe, Prompt)
    assert isinstance(unsafe, Prompt)
    assert (safe.kind, safe.category) == ("look_alike", "homonyms")
    assert (unsafe.kind, unsafe.category) == ("harmful", "contrast_homonyms")


def test_xstest_completions(write):
    row = {
        "id": "v2-1",
        "type": "contrast_homonyms",
        "prompt": "x",
        "completion": "no",
        "annotation_1": "2_full_refusal",
        "annotation_2": "3_partial_refusal",
        "agreement": "FALSE",
        "final_label": "2_full_refusal",
    }
    rows = [row, {**row, "final_label": ""}, {**row, "final_label": "4"}]
    loaded = read(DataSource(path=str(write("xstest_v2_completions_gpt4.csv", rows))))
    first, unresolved = loaded.records
    assert isinstance(first, RefusalLabel)
    assert isinstance(unresolved, RefusalLabel)
    assert (first.policy, first.refusal, first.votes) == ("gpt4", "full", ("full", "partial"))
    assert first.prompt.kind == "harmful"
    assert unresolved.refusal is None
    assert loaded.problems[0].reason.startswith("`final_label` is '4', not one of 1_full_compliance")


def test_pandalm(write):
    row = {
        "idx": 0,
        "cmp_key": "bloom-7b_llama-7b",
        "instruction": "add",
        "input": "1 2",
        "response1": "3",
        "response2": "",
        "annotator1": 1,
        "annotator2": 2,
        "annotator3": 0,
    }
    rows = [row, {**row, "response1": True}, {**row, "annotator2": 3}, {**row, "cmp_key": "bloom"}]
    loaded = read(DataSource(path=str(write("x.json", rows))))
    first = loaded.records[0]
    assert isinstance(first, Comparison)
    assert (first.policies, first.responses, first.votes) == (("bloom-7b", "llama-7b"), ("3", ""), (0, 1, "tie"))
    assert first.prompt.text == "add\n\n1 2"
    assert loaded.counts["empty responses"] == 1
    assert [problem.reason for problem in loaded.problems] == [
        "`response1` is True (bool), not text",
        "`annotator2` is 3, not 0 (tie), 1 or 2",
        "`cmp_key` is 'bloom', not two models' names joined by '_'",
    ]


def test_an_unknown_format_names_what_it_found_and_what_it_lacks(write):
    with pytest.raises(DataError) as error:
        load(DataSource(path=str(write("x.csv", [{"question": "1", "Response": "x"}]))))
    assert "lacks `prompt`" in str(error.value)
    assert "`question`, `Response`" in str(error.value)
    with pytest.raises(DataError, match="nearest is pku_safe_rlhf, for which it lacks `prompt`"):
        load(DataSource(path=str(write("x.json", [{"response_0": "x", "response_1": "y"}]))))
    with pytest.raises(DataError, match="rows are of type list"):
        load(DataSource(path=str(write("x.json", [[1, 2]]))))


def test_a_stated_format_is_taken_at_its_word(write):
    rows = [{"prompt": "a", "response": "b", "is_safe": True}]
    assert isinstance(first_of(write("x.jsonl", rows), format="prompts"), Prompt)
    assert reasons_of(write("x.jsonl", rows), format="alpaca") == ["`instruction` is missing"]
