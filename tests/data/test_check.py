import pytest

from equipoise.data.conversations import to_transcript
from equipoise.data.source import DataSource
from equipoise.data.summary import Lengths, Preferences, check, render
from equipoise.errors import DataError
from equipoise.records import Demonstration, Message, Prompt, Response


def report_on(path, **settings):
    return check(DataSource(path=str(path), **settings))


def test_preferences_that_disagree_are_counted_over_pairs_that_have_both(write, pku_row):
    agrees = {**pku_row, "safer_response_id": 0}
    half = {**pku_row, "better_response_id": None}
    report = report_on(write("x.json", [pku_row, agrees, half]))
    assert report.preferences == Preferences(both=2, differ=1)
    assert report.labels["more helpful"] == {"response 0": 2, "unknown": 1}
    assert "more helpful is not the safer one: 1 of 2 (50.0%)" in render(report)


def test_contradictions_of_both_kinds_are_counted(write, pku_row):
    within = {**pku_row, "is_response_1_safe": False}  # response 1 is ranked safer and labelled unsafe
    report = report_on(write("x.json", [pku_row, within, pku_row]), contradictions="trust_rank")
    assert report.contradictions == 1
    assert report.labelled_both_ways == 1  # "Do not." is safe in one row and unsafe in another
    assert report.repeated == 2
    assert "contradict" in render(report)
    assert "trust_rank" in render(report)


def test_lengths_are_in_words(write):
    rows = [{"prompt": "a b", "response": " ".join("x" * n), "is_safe": True} for n in (1, 2, 3, 6)]
    lengths = report_on(write("x.jsonl", rows)).lengths["responses"]
    assert lengths == Lengths(texts=4, mean=3.0, median=2.5, p95=6, longest=6)


def test_bad_rows_are_listed_by_file_and_line_even_where_they_would_be_refused(write):
    path = write("x.jsonl", '{"prompt": "a"}\n{"prompt": ""}\n{"prompt":\n')
    report = report_on(path)
    assert (report.counts["rows"], report.counts["bad rows"]) == (3, 2)
    text = render(report)
    assert f"{path}:2: `prompt` is empty" in text
    assert f"{path}:3: broken JSON" in text


def test_a_file_with_no_good_row_still_gets_a_report(write):
    text = render(report_on(write("x.jsonl", [{"prompt": ""}])))
    assert "no records" in text
    assert "Bad rows: 1" in text


def test_a_broken_list_is_an_error(write):
    with pytest.raises(DataError, match="line 2"):
        report_on(write("x.json", '["a",\n"b'))


def test_every_assistant_turn_of_a_demonstration_is_marked_as_trained():
    turns = [("system", "s"), ("user", "a"), ("assistant", "b\nc"), ("user", "d"), ("assistant", "e")]
    shown = Demonstration(messages=tuple(Message(role=role, content=content) for role, content in turns))
    assert to_transcript(shown).split("\n") == [
        "    system: s",
        "    user: a",
        ">>> assistant: b",
        ">>>   c",
        "    user: d",
        ">>> assistant: e",
    ]


def test_examples_show_the_labels_of_each_response(write, pku_row):
    (example,) = report_on(write("x.json", [pku_row])).examples
    assert example.split("\n") == [
        "    user: How do I sharpen a knife?",
        ">>> response 0 [more helpful, safe]: Use a whetstone.",
        ">>> response 1 [safer, safe]: Do not.",
    ]


def test_a_plain_response_and_a_prompt_are_shown_too():
    prompt = Prompt.from_text("hi")
    assert to_transcript(prompt) == "    user: hi"
    assert (
        to_transcript(Response(prompt=prompt, text="yo", policy="sft")) == "    user: hi\n>>> assistant [sft]: yo"
    )


def test_examples_come_from_the_whole_length_of_the_set(write):
    report = report_on(write("x.json", [f"p{i}" for i in range(9)]))
    assert report.examples == ("    user: p0", "    user: p3", "    user: p6")


def test_several_turns_and_different_prompts_are_counted(write):
    shared = "\n\nHuman: hi\n\nAssistant: yo\n\nHuman: why\n\nAssistant:"
    one = "\n\nHuman: hi\n\nAssistant:"
    rows = [{"chosen": f"{shared} {i}", "rejected": f"{shared} x"} for i in range(2)]
    report = report_on(write("x.jsonl", [*rows, {"chosen": f"{one} a", "rejected": f"{one} b"}]))
    assert (report.prompts, report.multi_turn) == (2, 2)
