import sqlite3
from pathlib import Path

import pytest

from equipoise.annotate.labels import Assignment, Item, RankingLabel, VerdictLabel
from equipoise.annotate.store.core import Store
from equipoise.errors import StoreError
from equipoise.records import Prompt, Verdict

PROMPT = Prompt.from_text("how do i open a jar ?")
ITEM = Item(prompt=PROMPT, responses=("twist the lid .", "no .", "smash it ."))
SAFE, UNSAFE, UNSCORED = Verdict(is_safe=True), Verdict(is_safe=False), Verdict(is_safe=None)


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "labels.sqlite") as opened:
        opened.add_items([ITEM])
        opened.add_labellers(["ann", "bob"], "person")
        opened.assign([Assignment(ITEM.id, "ann", (2, 0, 1))])
        yield opened


def ranking(ranks, question="harmlessness", item=ITEM.id, labeller="ann"):
    return RankingLabel(item, labeller, question, ranks)


def verdicts(*values):
    return [VerdictLabel(ITEM.id, "ann", position, value) for position, value in enumerate(values)]


def contents(path: Path):
    with Store(path, read_only=True) as store:
        labels = [*store.verdicts(), *store.rankings()]
        return list(store.items()), store.labellers(), list(store.assignments()), labels


def test_what_goes_in_comes_out(store):
    labels = [*verdicts(SAFE, UNSCORED, Verdict(is_safe=False, categories=("violence",), severity=2))]
    store.add_labels([*labels, ranking((0, 1, 2), "helpfulness"), ranking((0, 1, 1))])
    assert list(store.items()) == [ITEM]
    assert store.labellers() == {"ann": "person", "bob": "person"}
    assert list(store.assignments()) == [Assignment(ITEM.id, "ann", (2, 0, 1))]
    assert list(store.verdicts()) == labels
    assert list(store.rankings()) == [ranking((0, 1, 1)), ranking((0, 1, 2), "helpfulness")]


def test_everything_added_twice_is_there_once(store):
    for _ in range(2):
        store.add_items([ITEM])
        store.add_labellers(["bob", "ann"], "person")
        store.assign([Assignment(ITEM.id, "ann", (2, 0, 1))])
        store.add_labels([*verdicts(SAFE, SAFE, UNSAFE), ranking((0, 0, 1))])
    assert [len(part) for part in contents(store.path)] == [1, 2, 1, 4]


def test_another_value_for_a_label_is_refused_and_the_first_stays(store):
    store.add_labels([ranking((0, 1, 2), "helpfulness")])
    with pytest.raises(StoreError, match="another label already"):
        store.add_labels([ranking((1, 0, 2), "helpfulness")])
    with pytest.raises(StoreError, match="in another order"):
        store.assign([Assignment(ITEM.id, "ann", (0, 1, 2))])
    with pytest.raises(StoreError, match="other questions"):
        store.add_items([ITEM.model_copy(update={"questions": ("safety",)})])
    with pytest.raises(StoreError, match="another kind"):
        store.add_labellers(["ann"], "judge")
    assert list(store.rankings()) == [ranking((0, 1, 2), "helpfulness")]


@pytest.mark.parametrize(
    ("given", "ranks", "message"),
    [
        ((SAFE, UNSAFE, UNSAFE), (2, 0, 1), "safe response always ranks safer"),
        ((SAFE, UNSAFE, UNSAFE), (0, 0, 1), "safe response always ranks safer"),  # nor as a tie
        ((SAFE, UNSAFE, UNSAFE), (0, 1, 1), None),
        ((SAFE, SAFE, UNSAFE), (1, 0, 2), None),
        ((UNSCORED, SAFE, UNSAFE), (2, 0, 1), None),  # unscored binds nothing
    ],
)
def test_a_safe_response_must_rank_safer_than_an_unsafe_one(store, given, ranks, message):
    if message is None:
        store.add_labels([*verdicts(*given), ranking(ranks)])
        return
    with pytest.raises(StoreError, match=message):
        store.add_labels([*verdicts(*given), ranking(ranks)])
    assert not list(store.verdicts()), "all labels of a call or none"


def test_the_contradiction_is_found_whichever_stage_came_first(store):
    store.add_labels([ranking((2, 0, 1))])
    with pytest.raises(StoreError, match="response 0 is safe with harmlessness rank 2"):
        store.add_labels(verdicts(SAFE, UNSAFE, UNSAFE))
    store.add_labels(verdicts(UNSAFE, SAFE, UNSAFE))


def test_helpfulness_and_the_mixed_question_are_not_bound_by_safety(store):
    store.add_labels([*verdicts(SAFE, UNSAFE, UNSAFE), ranking((2, 0, 1), "helpfulness")])


@pytest.mark.parametrize("ranks", [(0, 1), (0, 1, 2, 3), (1, 2, 3), (-1, 0, 1), (0, 1, 1.5), ("0", "1", "2"), ()])
def test_a_ranking_of_the_wrong_shape_is_refused(store, ranks):
    with pytest.raises(StoreError, match="wrong shape"):
        store.add_labels([ranking(ranks)])


@pytest.mark.parametrize("position", [-1, 3])
def test_a_verdict_on_no_response_is_refused(store, position):
    with pytest.raises(StoreError, match="about no response"):
        store.add_labels([VerdictLabel(ITEM.id, "ann", position, SAFE)])


def test_a_safe_response_that_violates_a_category_is_refused(store):
    with pytest.raises(StoreError, match="cannot violate a category"):
        store.add_labels(verdicts(Verdict(is_safe=True, categories=("violence",))))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (ranking((0, 1, 2), item="0123"), "no such item"),
        (ranking((0, 1, 2), labeller="eve"), "no such labeller"),
        (ranking((0, 1, 2), labeller="bob"), "not assigned"),
        (ranking((0, 1, 2), "single"), "does not ask about single"),
    ],
)
def test_a_label_on_what_was_not_asked_is_refused(store, label, message):
    with pytest.raises(StoreError, match=message):
        store.add_labels([label])


def test_assignments_must_name_known_things_and_every_response(store):
    for given, message in [
        (Assignment("0123", "ann", (0, 1, 2)), "no such item"),
        (Assignment(ITEM.id, "eve", (0, 1, 2)), "no such labeller"),
        (Assignment(ITEM.id, "bob", (0, 1, 1)), "no order"),
    ]:
        with pytest.raises(StoreError, match=message):
            store.assign([given])


@pytest.mark.parametrize(
    ("responses", "questions", "message"),
    [
        (("only one .",), ("safety", "helpfulness"), r"1 response\(s\) cannot be labelled"),
        ((), ("safety",), r"0 response\(s\)"),
        (tuple("abcdefg"), ("safety",), r"7 response\(s\)"),
        (("a", "a"), ("safety",), "same response twice"),
        (("a", "b"), (), "needs questions"),
        (("a", "b"), ("safety", "safety"), "each once"),
    ],
)
def test_an_item_that_nobody_could_answer_is_refused(store, responses, questions, message):
    with pytest.raises(StoreError, match=message):
        store.add_items([Item(prompt=PROMPT, responses=responses, questions=questions)])
    assert list(store.items()) == [ITEM]


def test_one_response_can_be_asked_about_its_safety_and_may_be_empty(store):
    store.add_items([Item(prompt=PROMPT, responses=("",), questions=("safety",))])
    assert [item.responses for item in store.items()][1] == ("",)


def test_an_item_is_identified_by_conversation_and_responses_alone():
    assert ITEM.id == ITEM.model_copy(update={"source": "elsewhere"}).id
    assert ITEM.id != Item(prompt=PROMPT, responses=("no .", "twist the lid .", "smash it .")).id


def test_a_newer_schema_is_refused_and_left_alone(store):
    store.seal()
    store.close()
    with sqlite3.connect(store.path) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    before = store.path.read_bytes()
    for read_only in (True, False):
        with pytest.raises(StoreError, match="newer version"):
            Store(store.path, read_only=read_only)
    assert store.path.read_bytes() == before


def test_files_that_are_no_labelling_database_are_refused(tmp_path):
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "missing.sqlite", read_only=True)
    text = tmp_path / "notes.sqlite"
    text.write_text("these are notes, not a database, and they are quite long " * 20)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(text)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE music (title TEXT)")
    other.commit()
    other.close()
    with pytest.raises(StoreError, match="no labelling database of ours"):
        Store(tmp_path / "other.sqlite")


def test_a_read_only_store_refuses_labels_in_our_words(store):
    with Store(store.path, read_only=True) as reader, pytest.raises(StoreError, match="cannot be saved"):
        reader.add_labels(verdicts(SAFE))


def test_a_sealed_store_is_one_file_readable_in_a_read_only_folder(store):
    store.add_labels(verdicts(SAFE, SAFE, UNSAFE))
    store.seal()
    store.close()
    assert [path.name for path in store.path.parent.iterdir()] == ["labels.sqlite"]
    assert len(contents(store.path)[3]) == 3
    assert [path.name for path in store.path.parent.iterdir()] == ["labels.sqlite"]


def test_a_broken_transaction_leaves_nothing(store):
    with pytest.raises(KeyboardInterrupt), store.transaction():
        store.add_labels(verdicts(SAFE, SAFE, UNSAFE))
        raise KeyboardInterrupt
    assert not list(store.verdicts())


def test_two_writers_share_one_database(store):
    store.assign([Assignment(ITEM.id, "bob", (0, 1, 2))])
    with Store(store.path) as second:
        second.add_labels([ranking((0, 1, 2), "helpfulness", labeller="bob")])
        store.add_labels([ranking((2, 1, 0), "helpfulness")])
        assert [label.labeller for label in second.rankings()] == ["ann", "bob"]
