import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.labels import Assignment, Item, RankingLabel, VerdictLabel
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.people import invite
from equipoise.annotate.store.project import (
    create_project,
    guideline,
    open_project,
    save_guideline,
    settings,
)
from equipoise.annotate.store.queue import submit, take_item
from equipoise.annotate.store.schema import APPLICATION_ID, STEPS, statements_in
from equipoise.annotate.taxonomy import load_taxonomy
from equipoise.errors import ConfigError, StoreError
from equipoise.records import PKU_CATEGORIES, Prompt, Verdict

ITEM = Item(prompt=Prompt.from_text("hi"), responses=("a", "b"))
SAFETY = ITEM.model_copy(update={"questions": ("safety",), "responses": ("c",)})


def test_a_project_keeps_what_it_was_created_with(tmp_path):
    config = ProjectConfig(title="Monday", overlap=5, taxonomy="pku19", severity=True)
    create_project(tmp_path / "team", config, 7.0)
    with open_project(tmp_path / "team") as store:
        kept = settings(store)
    assert (kept.config, kept.taxonomy.names, kept.created_at) == (config, PKU_CATEGORIES, 7.0)


def test_a_project_is_not_created_over_anything(tmp_path):
    create_project(tmp_path / "team", ProjectConfig(), 0.0)
    with pytest.raises(StoreError, match="not empty"):
        create_project(tmp_path / "team", ProjectConfig(), 0.0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be created"):
        create_project(tmp_path / "file", ProjectConfig(), 0.0)


def test_labels_without_a_project_and_no_labels_at_all_are_told_apart(tmp_path):
    with pytest.raises(StoreError, match="no labelling project"):
        open_project(tmp_path)
    Store(tmp_path / "labels.sqlite").close()
    with pytest.raises(StoreError, match="belong to no project"):
        open_project(tmp_path)


def test_every_version_of_the_guideline_stays_and_labels_know_theirs(tmp_path):
    create_project(tmp_path / "team", ProjectConfig(gold_share=0), 0.0)
    with open_project(tmp_path / "team") as store:
        first = guideline(store)
        store.add_items([SAFETY])
        for name in ("ann", "bob"):
            invite(store, name, "labeller", 0.0)
        for name in ("ann", "bob"):
            take_item(store, name, 1.0)
            submit(store, name, SAFETY.id, [VerdictLabel(SAFETY.id, name, 0, Verdict(is_safe=True))], 1.0)
            assert save_guideline(store, "Be kind.", "ann", 2.0) == 2
        assert guideline(store) == (2, "Be kind.", "ann", 2.0)
        assert guideline(store, 1) == first
        assert store.rows("SELECT guideline FROM assignments ORDER BY labeller") == [(1,), (2,)]
        with pytest.raises(StoreError, match="no such guideline"):
            guideline(store, 3)
        with pytest.raises(StoreError, match="needs text"):
            save_guideline(store, " ", "ann", 3.0)


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_taxonomy_of_ones_own_is_read_from_a_file(tmp_path, suffix):
    path = tmp_path / f"ours.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps({"categories": [{"name": "spam"}, {"name": "x_y,z", "title": "Z"}]}))
    else:
        path.write_text('[[categories]]\nname = "spam"\n[[categories]]\nname = "x_y,z"\ntitle = "Z"\n')
    taxonomy = load_taxonomy(str(path))
    assert taxonomy.names == ("spam", "x_y,z")
    assert [one.label for one in taxonomy.categories] == ["Spam", "Z"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"categories": []}', "categories"),
        ('{"categories": [{"name": "a"}, {"name": "a"}]}', "same name"),
        ('{"categories": [{"name": ""}]}', "name"),
        ("[", "cannot be read"),
        (None, "no such taxonomy"),
    ],
)
def test_a_broken_taxonomy_is_refused_and_nothing_is_created(tmp_path, text, message):
    path = tmp_path / "ours.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        create_project(tmp_path / "team", ProjectConfig(taxonomy=str(path)), 0.0)
    assert not (tmp_path / "team").exists()


def old_database(path: Path) -> None:
    """A file of schema 1: two items, one labeller who answered the second whole and the first in part."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(STEPS[0] + f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")
        for number, item in enumerate((ITEM, SAFETY), start=1):
            row = (item.prompt.model_dump_json(), json.dumps(item.responses), json.dumps(item.questions))
            db.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?, 'old')", (number, item.id, *row))
            db.execute("INSERT OR IGNORE INTO labellers VALUES (1, 'sim', 'simulated')")
            db.execute("INSERT INTO assignments VALUES (?, 1, ?)", (number, ("[1, 0]", "[0]")[number - 1]))
        db.execute("INSERT INTO rankings VALUES (1, 1, 'helpfulness', '[0, 1]', 5.0)")
        verdict = Verdict(is_safe=True).model_dump_json()
        db.execute("INSERT INTO verdicts VALUES (2, 1, 0, ?, 9.0)", (verdict,))
        db.commit()


def test_an_older_database_is_brought_up_to_date_and_a_copy_is_kept(tmp_path):
    path = tmp_path / "labels.sqlite"
    old_database(path)
    with Store(path) as store:
        assert list(store.rankings()) == [RankingLabel(ITEM.id, "sim", "helpfulness", (0, 1))]
        assert list(store.assignments()) == [
            Assignment(ITEM.id, "sim", (1, 0)),
            Assignment(SAFETY.id, "sim", (0,)),
        ]
        columns = "SELECT item, state, finished_at, leased_until FROM assignments ORDER BY item"
        assert store.rows(columns) == [(1, "open", None, None), (2, "done", 9.0, None)]
        store.seal()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.sqlite", "labels.sqlite.v1"]
    with closing(sqlite3.connect(tmp_path / "labels.sqlite.v1")) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (1,)
        assert copy.execute("SELECT count(*) FROM verdicts").fetchone() == (1,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_older_database_is_read_without_being_changed(tmp_path):
    path = tmp_path / "labels.sqlite"
    old_database(path)
    before = path.read_bytes()
    with Store(path, read_only=True) as store:
        assert len(list(store.items())) == 2
        assert [label.position for label in store.verdicts()] == [0]
        assert len(list(store.assignments())) == 2
        with pytest.raises(StoreError, match="cannot be saved"):
            store.add_labellers(["ann"], "person")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["labels.sqlite"]


def test_an_older_database_that_cannot_be_brought_up_to_date_stays_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "labels.sqlite"
    old_database(path)
    monkeypatch.setattr("equipoise.annotate.store.schema.STEPS", (STEPS[0], STEPS[1] + "CREATE TABLE items (x);"))
    with pytest.raises(StoreError, match="already exists"):
        Store(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'project'").fetchone() == (0,)


def test_a_step_falls_into_its_statements_even_with_triggers_and_comments():
    trigger = "CREATE TRIGGER r AFTER INSERT ON t\nBEGIN\n  SELECT 1;\n  SELECT 2;\nEND;\n\n"
    step = f"CREATE TABLE t (a); -- one; two\n{trigger}"
    assert len(list(statements_in(step))) == 2
    assert sum("CREATE TRIGGER" in one for one in statements_in(STEPS[1])) == STEPS[1].count("CREATE TRIGGER")
