from pathlib import Path

import pytest

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.labels import Item, VerdictLabel
from equipoise.annotate.store import people
from equipoise.annotate.store.journal import entries, record
from equipoise.annotate.store.people import Person
from equipoise.annotate.store.project import create_project, open_project
from equipoise.annotate.store.queue import add_note, submit, take_item
from equipoise.errors import StoreError
from equipoise.records import Prompt, Verdict

DAY = 86400.0


@pytest.fixture
def store(tmp_path: Path):
    create_project(tmp_path / "team", ProjectConfig(overlap=1), 0.0)
    with open_project(tmp_path / "team") as opened:
        yield opened


def test_a_personal_link_lets_one_person_in_once(store):
    token = people.invite(store, "Ann Bee", "lead", 0.0)
    assert people.invited(store, token, 1.0) == Person("Ann Bee", "lead", is_active=True, has_password=False)
    stored = people.hash_password("correct horse")
    assert people.accept_invite(store, token, stored, 2.0).has_password
    assert people.check_password("correct horse", people.password_of(store, "Ann Bee"))
    assert not people.check_password("correct horsf", people.password_of(store, "Ann Bee"))
    with pytest.raises(StoreError, match="not valid"):
        people.accept_invite(store, token, None, 3.0)
    assert people.people(store) == [Person("Ann Bee", "lead", is_active=True, has_password=True)]


def test_a_link_ends_after_two_weeks_and_with_the_next_one(store):
    first = people.invite(store, "ann", "labeller", 0.0)
    second = people.invite(store, "ann", "labeller", 0.0)
    assert people.invited(store, first, 1.0) is None
    assert people.invited(store, second, 14 * DAY) is None
    assert people.invited(store, second, 14 * DAY - 1).name == "ann"
    assert people.invited(store, "", 1.0) is None
    assert people.accept_invite(store, second, None, 1.0).has_password is False


def test_sessions_last_a_week_and_end_on_sign_out_new_password_and_shutting_out(store):
    for name in ("ann", "bob"):
        people.invite(store, name, "labeller", 0.0)
    bob = people.start_session(store, "bob", 0.0)
    assert people.session(store, bob, 7 * DAY) is None
    for end in (
        lambda token: people.end_session(store, token),
        lambda token: people.set_password(store, "ann", "scrypt$…", 1.0),
        lambda token: people.set_active(store, "ann", False, 1.0),
    ):
        token = people.start_session(store, "ann", 0.0)
        assert people.session(store, token, 1.0).person.name == "ann"
        end(token)
        assert people.session(store, token, 1.0) is None
        assert people.session(store, bob, 1.0).person.name == "bob"
    with pytest.raises(StoreError, match="account is closed"):
        people.start_session(store, "ann", 2.0)
    assert people.password_of(store, "ann") is None


def test_neither_tokens_nor_passwords_are_in_the_files(store):
    invite = people.invite(store, "ann", "labeller", 0.0)
    session = people.start_session(store, "ann", 0.0)
    people.set_password(store, "ann", people.hash_password("correct horse"), 0.0)
    on_disk = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert b"ann" in on_disk
    assert not [secret for secret in (invite, session, "correct horse") if secret.encode() in on_disk]


def test_two_people_with_one_password_have_different_hashes_and_short_ones_are_refused():
    assert people.hash_password("correct horse") != people.hash_password("correct horse")
    with pytest.raises(StoreError, match="at least 8 characters"):
        people.hash_password("horse")


def test_without_a_password_every_password_is_wrong():
    assert not people.check_password("", None)


@pytest.mark.parametrize("name", ["", " ann", "a" * 61, "a\nb", "a\u202eb", "erased-1"])
def test_what_cannot_be_a_name_is_refused(store, name):
    with pytest.raises(StoreError, match="cannot be a name"):
        people.invite(store, name, "labeller", 0.0)


def test_the_name_of_a_judge_is_not_a_persons(store):
    store.add_labellers(["gpt"], "judge")
    with pytest.raises(StoreError, match="another kind"):
        people.invite(store, "gpt", "labeller", 0.0)
    assert people.people(store) == []


def test_declined_categories_are_kept_until_replaced(store):
    people.invite(store, "ann", "labeller", 0.0)
    people.decline(store, "ann", {"b", "a"}, 0.0)
    people.decline(store, "ann", {"c", "a"}, 0.0)
    assert people.declined(store, "ann") == {"a", "c"}


def test_an_erased_name_is_nowhere_and_the_labels_stay_under_one_pseudonym(store):
    store.add_items([Item(prompt=Prompt.from_text("hi"), responses=("a",), questions=("safety",))])
    for name in ("Ann Bee", "Ann"):
        people.invite(store, name, "lead", 0.0, by="" if name == "Ann Bee" else "Ann Bee")
    item = take_item(store, "Ann Bee", 1.0).item.id
    add_note(store, "Ann Bee", item, "comment", "Ann Bee wrote this, not Ann Beetle.", 1.0)
    submit(store, "Ann Bee", item, [VerdictLabel(item, "Ann Bee", 0, Verdict(is_safe=True))], 1.0)
    record(store, "Ann", "assign", {"to": ["Ann Bee"]}, 2.0)
    session = people.start_session(store, "Ann Bee", 2.0)

    assert people.erase_person(store, "Ann Bee", 3.0) == "erased-1"
    assert people.erase_person(store, "erased-1", 3.0) == "erased-1"
    assert [label.labeller for label in store.verdicts()] == ["erased-1"]
    assert people.session(store, session, 3.0) is None
    assert {entry.who for entry in entries(store)} == {"", "Ann", "erased-1"}
    assert entries(store, what="assign")[0].detail == {"to": ["erased-1"]}
    assert store.rows("SELECT text FROM notes") == [("erased-1 wrote this, not Ann Beetle.",)]
    on_disk = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert on_disk.replace(b"Ann Beetle", b"").count(b"Ann Bee") == 0
    assert people.person(store, "Ann").is_active
    with pytest.raises(StoreError, match="no such person"):
        people.erase_person(store, "Ann Bee", 4.0)


def test_the_journal_cannot_be_rewritten(store):
    for statement in ("DELETE FROM journal", "UPDATE journal SET what = 'nothing'", "UPDATE journal SET at = 0"):
        with pytest.raises(StoreError, match="never"), store.transaction():
            store.rows(statement)


def test_the_journal_is_read_from_the_newest_page_by_page(store):
    for n in range(5):
        record(store, "", "count", {"n": n}, float(n))
    newest = entries(store, limit=2, what="count")
    assert [entry.detail["n"] for entry in newest] == [4, 3]
    assert [e.detail["n"] for e in entries(store, what="count", before=newest[-1].number)] == [2, 1, 0]
    assert entries(store, who="nobody") == []
