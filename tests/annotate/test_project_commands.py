from pathlib import Path

import pytest

from equipoise.annotate import project as projects
from equipoise.annotate.config import CreateConfig
from equipoise.annotate.labels import Item, VerdictLabel
from equipoise.annotate.store import people
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.journal import entries
from equipoise.annotate.store.project import open_project, settings
from equipoise.annotate.store.queue import submit, take_item
from equipoise.cli import main as cli
from equipoise.errors import StoreError
from equipoise.records import Prompt, Verdict


def label_one(path: Path, name: str) -> str:
    with open_project(path) as store:
        item = take_item(store, name, 1.0).item.id
        submit(store, name, item, [VerdictLabel(item, name, 0, Verdict(is_safe=True))], 2.0)
    return item


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = projects.create(CreateConfig(project=tmp_path / "team", title="Monday", overlap=2, gold_share=0))
    with open_project(path) as store:
        store.add_items(
            Item(prompt=Prompt.from_text(f"{n}"), responses=("a",), questions=("safety",)) for n in range(2)
        )
        for name in ("ann", "bob"):
            people.invite(store, name, "labeller", 0.0)
    return path


def test_a_backup_of_a_live_project_is_one_file_that_restores_to_the_same_labels(project, tmp_path):
    item = label_one(project, "ann")
    with open_project(project) as live:
        session = people.start_session(live, "ann", 0.0)
        take_item(live, "bob", 3.0)
        with live.transaction():  # somebody is writing
            live.add_labellers(["late"], "judge")
            with Store(live.path) as other:
                projects._copy(other.path, tmp_path / "early.backup")
        projects.backup(project, tmp_path / "monday.backup")
    projects.restore(tmp_path / "monday.backup", tmp_path / "again")
    with open_project(tmp_path / "again") as store:
        assert [(label.item, label.labeller) for label in store.verdicts()] == [(item, "ann")]
        assert settings(store).config.title == "Monday"
        assert people.session(store, session, 1.0) is None
        assert [entry.what for entry in entries(store, limit=2)] == ["restore", "back up"]
        assert take_item(store, "bob", 4.0).item.id == item
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["labels.sqlite"]
    with Store(tmp_path / "early.backup", read_only=True) as early:
        assert "late" not in early.labellers(), "only what is committed"


def test_nothing_is_overwritten(project, tmp_path):
    projects.backup(project, tmp_path / "one.backup")
    before = (tmp_path / "one.backup").read_bytes()
    with pytest.raises(StoreError, match="there already"):
        projects.backup(project, tmp_path / "one.backup")
    with pytest.raises(StoreError, match="not empty"):
        projects.restore(tmp_path / "one.backup", project)
    assert (tmp_path / "one.backup").read_bytes() == before
    with pytest.raises(StoreError, match="cannot be written"):
        projects.backup(project, tmp_path / "missing" / "one.backup")


def test_what_is_no_whole_backup_is_refused_and_nothing_is_made(project, tmp_path):
    with open_project(project) as store, store.transaction():
        store.add_items(
            Item(prompt=Prompt.from_text(f"more {n} " * 50), responses=("a",), questions=("safety",))
            for n in range(200)
        )
    projects.backup(project, tmp_path / "good.backup")
    whole = (tmp_path / "good.backup").read_bytes()
    (tmp_path / "cut.backup").write_bytes(whole[: len(whole) // 2 // 4096 * 4096])
    (tmp_path / "text.backup").write_text("not a database " * 100)
    Store(tmp_path / "empty.backup").close()
    for name, words in (("cut", None), ("text", "not a database"), ("empty", None), ("none", "no such file")):
        with pytest.raises(StoreError, match=words):
            projects.restore(tmp_path / f"{name}.backup", tmp_path / "again")
        assert not (tmp_path / "again").exists()


def test_the_status_counts_items_people_and_what_is_missing(project):
    label_one(project, "ann")
    text = projects.status(project)
    assert "Monday: 2 items, each for 2 people" in text
    assert "complete 0 (0%), begun 1\n" in text
    assert "answers 1 of 4" in text
    assert "ann (person): 1 done, 0 skipped, 1 s per item" in text
    assert "cannot complete" not in text
    label_one(project, "bob")
    projects.erase(project, "bob")
    text = projects.status(project)
    assert "complete 1 (50%)" in text
    assert "bob" not in text
    assert "erased-2 (person, closed): 1 done" in text
    assert "1 active people cannot complete items that need 2" in text


def test_a_project_lives_on_the_command_line(tmp_path, capsys):
    team, copy = tmp_path / "team", tmp_path / "copy"

    def run(*words: str) -> str:
        assert cli.main(["annotate", *words]) == 0
        return capsys.readouterr().out.strip()

    run("create", str(team), "--title", "Friday", "--overlap", "1", "--taxonomy", "pku19")
    (tmp_path / "more.toml").write_text("overlap = 5\n")
    run("create", str(tmp_path / "other"), str(tmp_path / "more.toml"))
    assert "each for 5 people" in run("status", str(tmp_path / "other"))
    link = run("invite", str(team), "Ann Bee", "--lead", "--url", "http://labels.lan/")
    with open_project(team) as store:
        assert settings(store).config.title == "Friday"
        token = link.removeprefix("http://labels.lan/join/")
        assert people.invited(store, token, 1.0).role == "lead"
    back = run("invite", str(team), "Ann Bee", "--url", "http://labels.lan").rpartition("/")[2]
    with open_project(team) as store:
        assert people.invited(store, token, 1.0) is None
        assert people.invited(store, back, 1.0).role == "lead"  # a way back in takes nothing away
    run("backup", str(team), str(tmp_path / "b"))
    run("restore", str(tmp_path / "b"), str(copy))
    assert run("erase", str(copy), "Ann Bee").startswith("erased-1")
    assert "Ann Bee" not in run("status", str(copy))
    assert "Ann Bee" in run("status", str(team))
    assert cli.main(["annotate", "status", str(tmp_path)]) == 2
    assert "no labelling project" in capsys.readouterr().err
