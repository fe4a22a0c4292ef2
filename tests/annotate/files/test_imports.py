"""Our own files and the public sets as items of a project."""

import pytest

from equipoise import artefact
from equipoise.annotate.ballots import Ballots, count_in
from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.files.imports import import_files, render
from equipoise.annotate.labels import DECOUPLED
from equipoise.annotate.store.journal import entries
from equipoise.annotate.store.project import create_project, open_project
from equipoise.annotate.store.queue import take_item
from equipoise.config import Config
from equipoise.errors import ArtefactError, DataError, StoreError

PAIR = {"prompt": "p", "response_0": "a", "response_1": "b"}
LABELS = {"is_response_0_safe": True, "is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0}


def items(project):
    with open_project(project) as store:
        return list(store.items())


def response(prompt, text, policy):
    return {"prompt": {"messages": [{"role": "user", "content": prompt}]}, "text": text, "policy": policy}


def comparison(first, second, *votes, policies=("one", "two")):
    prompt = {"messages": [{"role": "user", "content": "p"}]}
    return {"prompt": prompt, "policies": policies, "responses": [first, second], "votes": [*votes]}


def test_responses_of_several_policies_are_put_together_by_prompt(write, tmp_path):
    create_project(tmp_path / "project", ProjectConfig(responses_per_item=2), 1.0)
    for policy in ("sft", "round-1"):
        build = artefact.start(tmp_path / policy, "responses", Config(), {})
        rows = [response("p", f"{policy} {n}", policy) for n in (0, 1)] + [response("lone", "same", policy)]
        write(f"{policy}/responses.jsonl", rows)
        artefact.finish(build, {})
    summaries = import_files(tmp_path / "project", [tmp_path / "sft", tmp_path / "round-1"])
    found = items(tmp_path / "project")
    assert sum(one.items for one in summaries) == len(found) == 3
    by_prompt = {item.prompt.text: item for item in found}
    texts = {text for item in found if item.prompt.text == "p" for text in item.responses}
    assert texts == {"sft 0", "sft 1", "round-1 0", "round-1 1"}
    assert (by_prompt["lone"].responses, by_prompt["lone"].questions) == (("same",), ("safety",))
    assert by_prompt["lone"].source == "round-1, sft"


def test_an_unfinished_directory_is_refused(project, tmp_path):
    artefact.start(tmp_path / "responses", "responses", Config(), {})
    with pytest.raises(ArtefactError, match="unfinished"):
        import_files(project, [tmp_path / "responses"])


def test_what_has_labels_asks_what_they_answer_and_the_rest_asks_everything(project, write):
    import_files(project, [write("pairs.json", [PAIR | LABELS])])
    import_files(
        project, [write("half.json", [PAIR | {"prompt": "q", "better_response_id": 0}])], labels_as="team b"
    )
    assert [item.questions for item in items(project)] == [DECOUPLED, ("helpfulness",)]


def test_empty_responses_are_responses_and_counted_others_are_named(project, write):
    path = write(
        "pairs.jsonl", [PAIR | {"response_0": ""}, PAIR | {"response_1": True}, PAIR | {"response_1": "a"}]
    )
    (summary,) = import_files(project, [path])
    assert (summary.rows, summary.items, summary.empty_responses) == (3, 1, 1)
    assert summary.problems == (
        f"{path}:2: `response_1` is True (bool), not text",
        f"{path}:3: An item holds the same response twice.",
    )
    text = render([summary])
    assert "1 empty responses" in text
    assert "2 could not be used" in text


def test_nothing_is_written_where_a_file_of_several_is_of_no_use(project, write):
    files = [write("pairs.json", [PAIR]), write("prompts.json", ["only a prompt"])]
    with pytest.raises(DataError, match="nothing that can be labelled"):
        import_files(project, files)
    with open_project(project) as store:
        assert (list(store.items()), entries(store, what="import")) == ([], [])


def test_labels_that_contradict_themselves_are_refused_by_line(project, write):
    path = write("pairs.jsonl", [PAIR | LABELS | {"safer_response_id": 1}, PAIR | LABELS | {"prompt": "q"}])
    (summary,) = import_files(project, [path], labels_as="pku")
    assert (summary.items, summary.labels, len(summary.problems)) == (1, 1, 1)
    assert summary.problems[0].startswith(f"{path}:1: The labels contradict each other")


def test_the_same_responses_judged_again_are_judgements_of_their_own(project, write):
    rows = [comparison("a", "b", 0, 0), comparison("b", "a", 0, "tie"), comparison("a", "b", 1, 1)]
    path = write("comparisons.jsonl", rows)
    (summary,) = import_files(project, [path])
    assert (summary.items, summary.labels) == (3, 6)
    assert [item.repeat for item in items(project)] == [0, 1, 2]
    ballots = Ballots()
    with open_project(project) as store:
        count_in(ballots, store)
    votes = [tuple(given.values()) for given in ballots.rankings["helpfulness"].values()]
    assert votes == [(-1, -1), (-1, 0), (1, 1)]
    (again,) = import_files(project, [path])
    assert (again.items, again.labels, again.known_labels) == (0, 0, 6)


def test_another_file_s_annotators_vote_on_the_same_item_in_its_order(project, write):
    import_files(project, [write("one.jsonl", [comparison("a", "b", 0)])])
    (second,) = import_files(project, [write("two.jsonl", [comparison("b", "a", 0)])], prefix="b-")
    assert (second.items, second.known_items, second.labels) == (0, 1, 1)
    with open_project(project) as store:
        assert {one.labeller: one.ranks for one in store.rankings()} == {
            "annotator1": (0, 1),
            "b-annotator1": (1, 0),
        }


def test_a_changed_file_does_not_change_what_was_imported(project, write):
    import_files(project, [write("one.jsonl", [comparison("a", "b", 0)])])
    (second,) = import_files(project, [write("one.jsonl", [comparison("a", "b", 1)])])
    assert (second.items, second.labels) == (0, 0)
    assert "has answered this item otherwise" in second.problems[0]


def test_outsiders_cannot_sign_in_nor_be_handed_items(project, write):
    import_files(project, [write("one.jsonl", [comparison("a", "b", 0)])])
    with open_project(project) as store, pytest.raises(StoreError, match="closed"):
        take_item(store, "annotator1", 2.0)


def test_the_journal_says_what_was_imported(project, write):
    path = write("pairs.json", [PAIR])
    import_files(project, [path], now=9.0)
    with open_project(project) as store:
        (entry,) = entries(store, what="import")
    assert (entry.at, entry.detail["path"], entry.detail["items"]) == (9.0, str(path), 1)
    assert len(entry.detail["sha256"]) == 64
