"""Label Studio, Argilla and Potato files, written here the way these tools write them."""

import pytest

from equipoise.annotate.files.imports import import_files
from equipoise.annotate.labels import Draft
from equipoise.annotate.store.history import answers, given
from equipoise.annotate.store.project import open_project
from equipoise.errors import ConfigError, DataError, StoreError
from equipoise.records import Verdict

TEXTS = {"prompt": "how do i open a jar ?", "answer1": "twist the lid .", "answer2": "smash it ."}


def contents(project):
    """Items as (responses, questions), and by annotator what they answered."""
    with open_project(project) as store:
        items = {item.id: item for item in store.items()}
        found = {(items[item].responses, name): draft for (item, name), draft in answers(store).items()}
        return [(item.responses, item.questions) for item in items.values()], found


def annotation(who, *results, **more):
    return {
        "id": 1,
        "completed_by": who,
        "created_at": "2024-05-01T12:00:00.000000Z",
        "result": [*results],
        **more,
    }


def pairwise(selected, name="helpfulness"):
    return {"from_name": name, "to_name": name, "type": "pairwise", "value": {"selected": selected}}


def choice(name, *choices):
    return {"from_name": name, "to_name": "text", "type": "choices", "value": {"choices": [*choices]}}


def task(*annotations, data=TEXTS, **more):
    return {"id": 7, "data": data, "annotations": [*annotations], "predictions": [], **more}


def test_label_studio_pairwise_and_choices(project, write):
    full = [choice("safety_0", "safe"), choice("safety_1", "unsafe"), choice("categories_1", "violence", "theft")]
    path = write(
        "export.json",
        [
            task(
                annotation({"id": 3, "email": "ann@example.org"}, pairwise("left"), *full),
                annotation(12, pairwise("right"), choice("safety_0", "safe"), choice("safety_1", "safe")),
                annotation(13, was_cancelled=True),
                predictions=[{"model_version": "m", "result": []}],
            )
        ],
    )
    (summary,) = import_files(project, [path], now=5.0)
    assert (summary.format, summary.items, summary.labels, summary.problems) == ("label_studio", 1, 2, ())
    assert summary.left_out == {"predictions of models": 1, "cancelled annotations": 1}
    items, found = contents(project)
    texts = (TEXTS["answer1"], TEXTS["answer2"])
    assert items == [(texts, ("safety", "helpfulness"))]
    safe = Verdict(is_safe=True)
    unsafe = Verdict(is_safe=False, categories=("violence", "theft"))
    assert found == {
        (texts, "ann@example.org"): Draft(verdicts={0: safe, 1: unsafe}, rankings={"helpfulness": (0, 1)}),
        (texts, "12"): Draft(verdicts={0: safe, 1: safe}, rankings={"helpfulness": (1, 0)}),
    }
    with open_project(project) as store:
        how = {one.labeller: one for one in given(store)}
    assert {one.finished_at for one in how.values()} == {1714564800.0}
    assert how["12"].origin == "export.json:2"
    assert (how["12"].shown, how["12"].guideline) == (None, None)


def test_label_studio_ranker(project, write):
    data = {
        "prompt": "hi",
        "items": [{"id": f"llm_{n}", "title": f"LLM {n}", "body": f"text {n}"} for n in range(3)],
    }
    results = [
        {"from_name": "rank", "type": "ranker", "value": {"ranker": {"rank": ["llm_2", "llm_0", "llm_1"]}}},
        {"from_name": "harm", "type": "ranker", "value": {"ranker": ["llm_1", "llm_0", "llm_2"]}},
    ]
    mapping = write("map.toml", '[questions]\nrank.asks = "helpfulness"\nharm.asks = "harmlessness"\n')
    import_files(project, [write("e.json", [task(annotation(1, *results), data=data)])], mapping=mapping)
    _, found = contents(project)
    assert [draft.rankings for draft in found.values()] == [{"helpfulness": (1, 2, 0), "harmlessness": (1, 0, 2)}]


def test_a_mapping_says_what_names_and_values_mean(project, write):
    mapping = write(
        "map.toml",
        """
        prompt = "ask"
        responses = ["b", "a"]
        [questions.which]
        asks = "harmlessness"
        values = { "first is worse" = 1, "no difference" = "tie" }
        """,
    )
    data = {"ask": "hi", "a": "one", "b": "two"}
    stars = {"from_name": "stars", "type": "rating", "value": {"rating": 4}}
    path = write(
        "e.json",
        [
            task(
                annotation(1, choice("which", "first is worse"), choice("comment", "x"), stars),
                annotation(2, choice("which", "no difference")),
                data=data,
            )
        ],
    )
    (summary,) = import_files(project, [path], mapping=mapping)
    items, found = contents(project)
    assert items[0][0] == ("two", "one")
    assert {name: draft.rankings for (_, name), draft in found.items()} == {
        "1": {"harmlessness": (1, 0)},
        "2": {"harmlessness": (0, 0)},
    }
    unnamed = "answers to `{}`, which the mapping does not name"
    assert summary.left_out == {unnamed.format(name): 1 for name in ("comment", "stars")}


def test_an_answer_that_does_not_fit_is_named_and_the_others_stay(project, write):
    path = write("e.jsonl", [
        task(annotation(1, pairwise("up")), annotation(2, pairwise("left"))),
        task(annotation(1, {"from_name": "helpfulness", "type": "rating"}), data=TEXTS | {"prompt": "x"}),
        task(annotation(1, pairwise("left")), data=TEXTS | {"answer2": 3}),
        task(annotation(None, pairwise("left")), data=TEXTS | {"prompt": "y"}),
    ])  # fmt: skip
    (summary,) = import_files(project, [path])
    assert (summary.items, summary.labels) == (2, 1)
    reasons = [line.removeprefix(f"{path}:") for line in summary.problems]
    assert [reason.split(":")[0] for reason in reasons] == ["1", "2", "3", "4"]
    expected = [
        "'up'",
        "{'type': 'rating'}, no choice and no ranking",
        "`answer2` is 3 (int), not text",
        "no `completed_by`",
    ]
    assert all(words in reason for words, reason in zip(expected, reasons, strict=True))


def test_a_safe_response_ranked_more_harmful_is_refused(project, write):
    verdicts = [choice("safety_0", "unsafe"), choice("safety_1", "safe")]
    path = write("e.jsonl", [task(annotation(1, *verdicts, pairwise("left", "harmlessness")))])
    (summary,) = import_files(project, [path])
    assert (summary.items, summary.labels) == (1, 0)
    assert "a safe response always ranks safer" in summary.problems[0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": 1, "prompt": "x", "annotation_id": 3, "annotator": 1, "pw": "left"}, "JSON-MIN"),
        ({"data": TEXTS, "completions": []}, "before 1.0"),
        (task(annotation(1, pairwise("left", "which one is it"))), "which one is it"),
        (task(annotation(1, pairwise("left")), data={"question_text": "x"}), "`prompt` of the mapping"),
        ({"fields": TEXTS, "responses": [{"user_id": "u", "values": {}}]}, "Argilla 1.x"),
        ({"prompt": "only a prompt"}, "no response to label"),
    ],
)
def test_files_of_no_use_are_refused_by_name(project, write, row, words):
    path = write("e.jsonl", [row])
    with pytest.raises(DataError) as caught:
        import_files(project, [path])
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert contents(project) == ([], {})


def argilla_record(**responses):
    return {"id": "1", "fields": TEXTS, "metadata": {}, "vectors": {}, "status": "completed", "_server_id": "s",
            "suggestions": {"helpfulness": {"value": "tie", "score": None, "agent": "gpt"}},
            "responses": responses}  # fmt: skip


def test_argilla_nested(project, write):
    record = argilla_record(
        helpfulness=[
            {"value": ["answer2", "answer1"], "user_id": "u1"},
            {"value": ["answer1", "answer2"], "user_id": "u2"},
        ],
        safety_0=[{"value": "safe", "user_id": "u1"}],
        safety_1=[{"value": "unsafe", "user_id": "u1"}],
        categories_1=[{"value": ["violence"], "user_id": "u1"}],
    )  # fmt: skip
    (summary,) = import_files(project, [write("records.json", [record])])
    assert (summary.format, summary.left_out) == ("argilla", {"suggestions of models": 1})
    _, found = contents(project)
    by_user = {name: draft for (_, name), draft in found.items()}
    assert by_user["u1"].rankings == {"helpfulness": (1, 0)}
    assert by_user["u1"].verdicts[1] == Verdict(is_safe=False, categories=("violence",))
    assert by_user["u2"] == Draft(rankings={"helpfulness": (0, 1)})


def test_argilla_flat_takes_what_was_submitted(project, write):
    record = {**TEXTS, "id": "1", "status": "pending", "_server_id": "s",
              "helpfulness.responses": [["answer1", "answer2"], ["answer2", "answer1"]],
              "helpfulness.responses.users": ["u1", "u2"],
              "helpfulness.responses.status": ["submitted", "draft"],
              "helpfulness.suggestion": None}  # fmt: skip
    (summary,) = import_files(project, [write("records.jsonl", [record])])
    _, found = contents(project)
    assert {name: draft.rankings for (_, name), draft in found.items()} == {"u1": {"helpfulness": (0, 1)}}
    assert summary.left_out == {"responses that were not submitted": 1}


def test_argilla_ranks_with_ties(project, write):
    value = [{"value": "answer2", "rank": 1}, {"value": "answer1", "rank": 1}]
    import_files(project, [write("r.json", [argilla_record(helpfulness=[{"value": value, "user_id": "u"}])])])
    _, found = contents(project)
    assert [draft.rankings for draft in found.values()] == [{"helpfulness": (0, 0)}]


@pytest.fixture
def potato(write):
    """Potato's output of two annotators, by its old and its new version, and a mapping to the data file."""
    data = write("data.jsonl", [{"id": n, **TEXTS, "prompt": f"request {n}"} for n in range(3)])
    write("out/ann/annotated_instances.jsonl", [
        {"id": "0", "displayed_text": "", "span_annotations": {}, "behavioral_data": {},
         "label_annotations": {
             "helpfulness": {"selection": "B"}, "safety_0": {"safe": "1"}, "safety_1": {"unsafe": "2"}}},
    ])  # fmt: skip
    label = lambda schema, name: {"schema": schema, "name": name}  # noqa: E731
    write("out/bob/user_state.json", {
        "user_id": "bob@example.org", "instance_id_to_span_to_value": {},
        "instance_id_to_label_to_value": {
            "0": [[label("helpfulness", "rank_order"), "answer1,answer2"]],
            "2": [[label("helpfulness", "selection"), "tie"]],
            "9": [[label("helpfulness", "selection"), "A"]],
        },
    })  # fmt: skip
    return data.parent / "out", write("map.toml", f'items = "{data}"\n')


def test_potato_s_folder_of_annotators(project, potato):
    folder, mapping = potato
    (summary,) = import_files(project, [folder], mapping=mapping)
    assert (summary.format, summary.items, summary.labels) == ("potato", 2, 3)
    assert summary.left_out == {"answers to items that data.jsonl does not hold": 1}
    _, found = contents(project)
    by_user = {name: draft for (_, name), draft in found.items()}
    assert by_user["ann"].rankings == {"helpfulness": (1, 0)}
    assert {at: one.is_safe for at, one in by_user["ann"].verdicts.items()} == {0: True, 1: False}
    assert by_user["bob@example.org"].rankings == {"helpfulness": (0, 0)}


def test_potato_needs_its_data_file(project, potato):
    with pytest.raises(DataError, match="hold no texts"):
        import_files(project, [potato[0]])


def test_a_mapping_with_an_unknown_key_is_refused(project, write):
    mapping = write("map.toml", 'reponses = ["a"]\n')
    with pytest.raises(ConfigError, match="responses"):
        import_files(project, [write("e.json", [task()])], mapping=mapping)


def test_a_name_of_somebody_who_works_here_is_refused_and_a_prefix_helps(project, write):
    from equipoise.annotate.store.people import invite

    with open_project(project) as store:
        invite(store, "ann", "labeller", 2.0)
    path = write("e.json", [task(annotation("ann", pairwise("left")))])
    with pytest.raises(StoreError, match="also somebody's name"):
        import_files(project, [path])
    (summary,) = import_files(project, [path], prefix="team-b/")
    assert summary.labellers == ("team-b/ann",)
