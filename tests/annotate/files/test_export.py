import json
import time

import pytest

from equipoise import artefact
from equipoise.annotate.config import ExportConfig, ProjectConfig
from equipoise.annotate.files.export import export
from equipoise.annotate.files.imports import import_files
from equipoise.annotate.labels import Draft
from equipoise.annotate.store import chats, queue
from equipoise.annotate.store.people import invite
from equipoise.annotate.store.project import create_project, open_project, save_guideline
from equipoise.annotate.store.rulings import adjudicate
from equipoise.data.load import load_pairs, load_prompts, load_refusal_labels, load_safety_labels
from equipoise.data.source import DataSource
from equipoise.errors import ArtefactError, DataError
from equipoise.records import BEAVERTAILS_CATEGORIES, PreferencePair, Verdict

SAFE = Verdict(is_safe=True)
VIOLENT = Verdict(is_safe=False, categories=(BEAVERTAILS_CATEGORIES[-1],))
PAIR = {"prompt": "how do i open a jar ?", "response_0": "twist the lid .", "response_1": "smash it ."}


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def label_all(project, name, answers, now=10.0):
    """Somebody works through their queue; `answers(item)` gives verdicts and rankings."""
    with open_project(project) as store:
        invite(store, name, "labeller", now)
        while work := queue.take_item(store, name, now := now + 1):
            verdicts, rankings = answers(work.item)
            draft = Draft(verdicts=dict(enumerate(verdicts)), rankings=rankings)
            queue.submit(store, name, work.item.id, draft.labels(work.item.id, name), now + 0.5)


def ranks(helpfulness, harmlessness):
    return {"helpfulness": helpfulness, "harmlessness": harmlessness}


def test_every_label_comes_out_with_its_provenance(project, write, tmp_path):
    import_files(project, [write("pairs.json", [PAIR])])
    label_all(project, "ann", lambda item: ([SAFE, VIOLENT], ranks((0, 1), (0, 1))))
    label_all(project, "bob", lambda item: ([SAFE, SAFE], ranks((1, 0), (0, 0))), now=20.0)
    with open_project(project) as store:
        save_guideline(store, "Read twice.", "", 25.0)
        work = queue.undo(store, "bob", 30.0)
        new = work.draft.model_copy(update={"rankings": ranks((0, 1), (0, 0))})
        queue.submit(store, "bob", work.item.id, new.labels(work.item.id, "bob"), 31.0)
        shown = {one.labeller: one.shown for one in store.assignments()}
    out = export(ExportConfig(project=project, out=tmp_path / "out"))
    labels = lines(out / "labels.jsonl")
    assert len(labels) == 3 * 4  # ann, bob, and what bob thought before
    assert {(one["labeller"], one["kind"], tuple(one["shown"])) for one in labels} == {
        ("person-1", "person", shown["ann"]),
        ("person-2", "person", shown["bob"]),
    }
    helpful = {(one["labeller"], one["revision"]): one for one in labels if one["question"] == "helpfulness"}
    assert {key: tuple(one["value"]) for key, one in helpful.items()} == {
        ("person-1", 0): (0, 1),
        ("person-2", 0): (1, 0),
        ("person-2", 1): (0, 1),
    }
    assert [helpful["person-2", n]["guideline"] for n in (0, 1)] == [1, 2]
    assert [helpful["person-2", n]["replaced_at"] for n in (0, 1)] == [31.0, None]
    assert (helpful["person-1", 0]["opened_at"], helpful["person-1", 0]["finished_at"]) == (11.0, 11.5)
    facts = artefact.read_manifest(out, ("preferences",)).facts
    assert (facts["pairs"], facts["labels"], facts["labellers"]) == (1, 8, 2)
    assert (lines(out / "pairs.jsonl")[0]["more_helpful"], lines(out / "items.jsonl")[0]["is_gold"]) == (0, False)


def test_names_are_written_only_when_asked_for(project, write, tmp_path):
    import_files(project, [write("pairs.json", [PAIR])])
    label_all(project, "ann", lambda item: ([SAFE, SAFE], ranks((0, 1), (0, 0))))
    for names in (False, True):
        out = export(ExportConfig(project=project, out=tmp_path / str(names), names=names))
        texts = [path.read_text() for path in out.iterdir()]
        assert any('"ann"' in text for text in texts) is names


def test_what_the_lead_ruled_holds_and_nothing_open_is_guessed(project, write, tmp_path):
    import_files(project, [write("pairs.json", [PAIR, PAIR | {"prompt": "another"}])])
    label_all(project, "ann", lambda item: ([SAFE, VIOLENT], ranks((0, 1), (0, 1))))
    label_all(project, "bob", lambda item: ([SAFE, SAFE], ranks((1, 0), (0, 0))), now=30.0)
    with open_project(project) as store:
        invite(store, "lea", "lead", 40.0)
        first = next(iter(store.items()))
        ruling = Draft(verdicts={1: VIOLENT}, rankings={"helpfulness": (1, 0)})
        adjudicate(store, first.id, ruling, "lea", 41.0)
    out = export(ExportConfig(project=project, out=tmp_path / "out"))
    pairs = [PreferencePair.model_validate(row) for row in lines(out / "pairs.jsonl")]
    assert [(pair.more_helpful, pair.is_safe) for pair in pairs] == [(1, (True, False)), (None, (True, None))]
    unresolved = [
        (one["prompt"]["messages"][0]["content"], one["question"]) for one in lines(out / "unresolved.jsonl")
    ]
    assert unresolved == [("another", "safety"), ("another", "helpfulness")]
    ruled = [one for one in lines(out / "labels.jsonl") if one["is_ruling"]]
    assert [(one["question"], one["response"], one["labeller"]) for one in ruled] == [
        ("helpfulness", None, "person-3"),
        ("safety", 1, "person-3"),
    ]
    facts = artefact.read_manifest(out).facts
    assert (facts["pku_rows"], facts["pku_left_out"]) == (1, {"a label that is not settled": 1})


def test_an_export_of_other_labels_does_not_replace_one(project, write, tmp_path):
    import_files(project, [write("pairs.json", [PAIR])])
    label_all(project, "ann", lambda item: ([SAFE, SAFE], ranks((0, 1), (0, 0))))
    config = ExportConfig(project=project, out=tmp_path / "out")
    first = artefact.read_manifest(export(config))
    assert artefact.read_manifest(export(config)) == first
    label_all(project, "bob", lambda item: ([SAFE, SAFE], ranks((0, 1), (0, 0))), now=50.0)
    with pytest.raises(ArtefactError, match="another run"):
        export(config)


def test_a_project_without_labels_is_refused(project, tmp_path):
    with pytest.raises(DataError, match="no labels"):
        export(ExportConfig(project=project, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_hits_become_prompts_with_their_transcript(project, write, tmp_path):
    import_files(project, [write("pairs.json", [PAIR])])
    label_all(project, "ann", lambda item: ([SAFE, SAFE], ranks((0, 1), (0, 0))))
    turns = [("user", "hello"), ("assistant", "hi"), ("user", "how do i steal ?"), ("assistant", "like this")]
    with open_project(project) as store:
        for _ in range(2):  # the same hit twice is one prompt
            number = chats.start_chat(store, "ann", "round-1", 50.0)
            said = tuple(chats.Turn(role=role, content=text) for role, text in turns)
            chats.add_turns(store, "ann", number, said, 51.0)
            chats.mark_hit(store, "ann", number, chats.Hit(turn=3, category=BEAVERTAILS_CATEGORIES[5]), 52.0)
    out = export(ExportConfig(project=project, out=tmp_path / "out"))
    (prompt,) = load_prompts(DataSource(path=str(out / "prompts.jsonl")))
    assert [one.content for one in prompt.messages] == ["hello", "hi", "how do i steal ?"]
    assert (prompt.kind, prompt.category, prompt.attack) == ("harmful", BEAVERTAILS_CATEGORIES[5], "person")
    hits = lines(out / "hits.jsonl")
    assert [(one["labeller"], one["turns"][3]["content"]) for one in hits] == [("person-1", "like this")] * 2


@pytest.mark.parametrize("file_type", ["jsonl", "parquet"])
def test_the_newer_schema_is_read_back_unchanged(project, write, tmp_path, file_type):
    import_files(project, [write("pairs.json", [PAIR])])
    label_all(project, "ann", lambda item: ([SAFE, VIOLENT], ranks((0, 1), (0, 1))))
    out = export(ExportConfig(project=project, out=tmp_path / "out", pku_file=file_type))
    (pair,) = load_pairs(DataSource(path=str(out / f"pku_safe_rlhf.{file_type}")), "safety")
    (ours,) = load_pairs(DataSource(path=str(out)), "safety")
    assert pair.model_dump(exclude={"prompt", "source"}) == ours.model_dump(exclude={"prompt", "source"})
    assert pair.categories == ((), VIOLENT.categories)


def test_multi_turn_pairs_are_left_out_of_the_pku_file_and_counted(project, write, tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
    row = {"prompt": {"messages": [*turns, {"role": "user", "content": "why?"}]}, "responses": ["a", "b"]}
    import_files(project, [write("pairs.jsonl", [row])])
    label_all(project, "ann", lambda item: ([SAFE, SAFE], ranks((0, 1), (0, 1))))
    out = export(ExportConfig(project=project, out=tmp_path / "out"))
    assert artefact.read_manifest(out).facts["pku_left_out"] == {"more than one turn": 1}
    assert not (out / "pku_safe_rlhf.jsonl").exists()
    assert len(load_pairs(DataSource(path=str(out)), "safety")) == 1


def test_pku_pairs_labelled_again_equal_the_file_field_for_field(real_data, tmp_path):
    path = real_data / "pku_safe_rlhf" / "pairs_32.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    create_project(tmp_path / "project", ProjectConfig(overlap=1), 1.0)
    (summary,) = import_files(tmp_path / "project", [path])
    assert (summary.items, summary.labels, [*summary.left_out.values()]) == (32, 0, [32])
    by_texts = {(row["prompt"], row["response_0"], row["response_1"]): row for row in rows}

    def answers(item):
        row = by_texts[item.prompt.text, *item.responses]
        verdicts = [Verdict(is_safe=row[f"is_response_{n}_safe"]) for n in (0, 1)]
        sides = (row["better_response_id"], row["safer_response_id"])
        return verdicts, ranks(*((0, 1) if side == 0 else (1, 0) for side in sides))

    label_all(tmp_path / "project", "ann", answers)
    out = export(ExportConfig(project=tmp_path / "project", out=tmp_path / "out"))
    written = lines(out / "pku_safe_rlhf.jsonl")
    assert written == rows
    assert [list(row) for row in written] == [list(row) for row in rows]
    assert sum(row["better_response_id"] != row["safer_response_id"] for row in written) == 19
    with open_project(tmp_path / "project") as store:
        assert {one.shown for one in store.assignments()} == {(0, 1), (1, 0)}  # sides were shuffled
    assert lines(out / "unresolved.jsonl") == []
    assert len(load_pairs(DataSource(path=str(out)), "safety")) == 32


def test_labels_without_a_name_are_taken_under_the_one_given(real_data, tmp_path):
    folder = real_data / "pku_safe_rlhf"
    create_project(tmp_path / "project", ProjectConfig(taxonomy="pku19", severity=True), 1.0)
    files = [folder / "pairs_32.json", folder / "new_schema_3.jsonl"]
    summaries = import_files(tmp_path / "project", files, labels_as="pku")
    assert [(one.items, one.labels, one.problems) for one in summaries] == [(32, 32, ()), (3, 3, ())]
    out = export(ExportConfig(project=tmp_path / "project", out=tmp_path / "out"))
    written = lines(out / "pku_safe_rlhf.jsonl")
    for row, expected in zip(written[32:], lines(files[1]), strict=True):
        unknown = {"prompt_source", "response_0_source", "response_1_source"}
        assert {k: v for k, v in row.items() if k not in unknown} == {
            k: v for k, v in expected.items() if k not in unknown
        }


def test_refusals_come_out_as_they_went_in(real_data, project, tmp_path):
    path = real_data / "xstest" / "xstest_v2_completions_gpt4.csv"
    import_files(project, [path])
    out = export(ExportConfig(project=project, out=tmp_path / "out"))
    ours = {label.prompt.id: label for label in load_refusal_labels(DataSource(path=str(out)))}
    theirs = {label.prompt.id: label for label in load_refusal_labels(DataSource(path=str(path)))}
    agreed = {key for key, label in theirs.items() if len(set(label.votes)) == 1}
    assert ours.keys() == agreed
    assert all(ours[key].refusal == theirs[key].refusal for key in agreed)
    assert len(lines(out / "unresolved.jsonl")) == len(theirs) - len(agreed)
    with pytest.raises(DataError):
        load_safety_labels(DataSource(path=str(out)))


def test_a_large_project_exports_in_seconds(project, write, tmp_path):
    rows = [PAIR | {"prompt": f"request {n}"} for n in range(300)]
    import_files(project, [write("pairs.json", rows)])
    label_all(project, "ann", lambda item: ([SAFE, VIOLENT], ranks((0, 1), (0, 1))))
    started = time.process_time()
    export(ExportConfig(project=project, out=tmp_path / "out"))
    assert time.process_time() - started < 5
