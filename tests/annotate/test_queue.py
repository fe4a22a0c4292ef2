from pathlib import Path

import pytest

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.labels import Assignment, Draft, Item, RankingLabel, VerdictLabel
from equipoise.annotate.store.journal import entries
from equipoise.annotate.store.people import decline, invite, set_active
from equipoise.annotate.store.progress import people_progress, progress, totals
from equipoise.annotate.store.project import create_project, open_project
from equipoise.annotate.store.queue import add_note, open_item, save_draft, skip, submit, take_item, undo
from equipoise.annotate.store.rulings import set_gold
from equipoise.errors import StoreError
from equipoise.records import Prompt, Verdict

SAFE, UNSAFE = Verdict(is_safe=True), Verdict(is_safe=False, categories=("self_harm",))
LEASE = 30 * 60.0


def make_items(count: int, **fields: str) -> list[Item]:
    return [Item(prompt=Prompt.from_text(f"prompt {n}", **fields), responses=("a", "b")) for n in range(count)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "team"
    create_project(path, ProjectConfig(overlap=2, gold_share=0), 0.0)
    return path


@pytest.fixture
def store(project: Path):
    with open_project(project) as opened:
        opened.add_items(make_items(3))
        for name in ("ann", "bob", "cid"):
            invite(opened, name, "labeller", 0.0)
        yield opened


def answers(item: str, labeller: str, first: int = 0) -> list[VerdictLabel | RankingLabel]:
    """Both safe, one response better in both rankings."""
    ranks = (0, 1) if first == 0 else (1, 0)
    verdicts = [VerdictLabel(item, labeller, position, SAFE) for position in (0, 1)]
    return [*verdicts, *(RankingLabel(item, labeller, q, ranks) for q in ("helpfulness", "harmlessness"))]


def label_next(store, labeller: str, now: float) -> str:
    work = take_item(store, labeller, now)
    submit(store, labeller, work.item.id, answers(work.item.id, labeller), now)
    return work.item.id


def states(store) -> dict[tuple[int, str], str]:
    rows = store.rows(
        "SELECT a.item, l.name, a.state FROM assignments a JOIN labellers l ON l.number = a.labeller"
    )
    return {(item, name): state for item, name, state in rows}


def test_every_item_goes_to_as_many_people_as_the_overlap_and_begun_ones_come_first(store):
    ids = [item.id for item in store.items()]
    assert [label_next(store, name, 1.0) for name in ("ann", "bob", "bob", "cid")] == [
        ids[0],
        ids[0],
        ids[1],
        ids[1],
    ]
    assert [label_next(store, name, 2.0) for name in ("cid", "ann")] == [ids[2], ids[2]]
    assert [take_item(store, name, 3.0) for name in ("ann", "bob", "cid")] == [None, None, None]
    assert totals(store)[:5] == (3, 3, 0, 6, 6)


def test_a_person_keeps_the_item_and_the_order_shown_until_it_is_finished(store):
    first = take_item(store, "ann", 1.0)
    save_draft(store, "ann", first.item.id, Draft(verdicts={1: UNSAFE}, screen={"step": 2}), 5.0)
    again = take_item(store, "ann", 6.0)
    assert (again.item, again.shown) == (first.item, first.shown)
    assert again.draft == Draft(verdicts={1: UNSAFE}, screen={"step": 2})
    assert open_item(store, "ann", first.item.id, 7.0) == again


def test_sides_are_shown_in_both_orders(store):
    store.add_items(make_items(100)[3:])
    shown = []
    for _ in range(100):
        shown.append(take_item(store, "ann", 1.0).shown)
        label_next(store, "ann", 1.0)
    assert 30 < shown.count((0, 1)) < 70  # 4 standard deviations of a fair coin


def test_a_lease_that_ran_out_goes_to_the_next_person_and_comes_back_while_there_is_room(store):
    item = take_item(store, "ann", 0.0).item.id
    take_item(store, "bob", 0.0)  # the same item: now both of its places are held
    assert take_item(store, "cid", LEASE - 1).item.id != item
    skip(store, "cid", take_item(store, "cid", LEASE - 1).item.id, "no", LEASE - 1)
    assert take_item(store, "cid", LEASE + 1).item.id == item, "two leases ran out"
    assert take_item(store, "ann", LEASE + 2).item.id == item, "one place is left, and her draft is there"
    assert take_item(store, "bob", LEASE + 3).item.id != item, "no place is left for him"


def test_an_item_that_others_answered_meanwhile_is_refused_and_the_answers_stay_in_the_journal(store):
    item = take_item(store, "ann", 0.0).item.id
    for name in ("bob", "cid"):
        assert label_next(store, name, LEASE + 1) == item
    with pytest.raises(StoreError, match="Others have answered"):
        submit(store, "ann", item, answers(item, "ann"), LEASE + 2)
    with pytest.raises(StoreError, match="Others have answered"):
        save_draft(store, "ann", item, Draft(verdicts={0: SAFE}), LEASE + 2)
    with pytest.raises(StoreError, match="Others have answered"):
        open_item(store, "ann", item, LEASE + 3)
    assert {label.labeller for label in store.verdicts()} == {"bob", "cid"}
    (entry,) = entries(store, what="refused submit")
    assert (entry.who, entry.detail["item"]) == ("ann", item)
    assert Draft.model_validate(entry.detail["answers"]).labels(item, "ann") == answers(item, "ann")
    assert take_item(store, "ann", LEASE + 4).item.id != item


def test_a_late_submit_is_welcome_while_there_is_room(store):
    item = take_item(store, "ann", 0.0).item.id
    submit(store, "ann", item, answers(item, "ann"), 10 * LEASE)
    assert {label.labeller for label in store.verdicts()} == {"ann"}


def test_a_clock_that_goes_back_brings_no_lease_back_to_life_and_keeps_none_for_years(store):
    item = take_item(store, "ann", 0.0).item.id
    assert label_next(store, "bob", LEASE + 1) == item
    assert take_item(store, "cid", LEASE + 1).item.id == item
    with pytest.raises(StoreError, match="Others have answered"):
        submit(store, "ann", item, answers(item, "ann"), 1.0)
    year = 365 * 86400.0
    assert take_item(store, "cid", year).item.id == item
    assert take_item(store, "ann", 2.0).item.id != item, "held from now on, not from next year"
    assert label_next(store, "ann", 3.0) != item
    skip(store, "ann", take_item(store, "ann", 4.0).item.id, "no", 4.0)
    assert take_item(store, "ann", 3.0 + LEASE).item.id == item


def test_undo_opens_what_was_finished_last_even_when_the_clock_went_back(store):
    first, second = label_next(store, "ann", 100.0), label_next(store, "ann", 50.0)
    work = undo(store, "ann", 40.0)
    assert (work.item.id, work.is_reopened) == (second, True)
    assert work.draft.labels(second, "ann") == answers(second, "ann")
    assert undo(store, "ann", 41.0).item.id == first
    assert undo(store, "ann", 42.0) is None
    assert take_item(store, "ann", 43.0).item.id == first, "forward again in the same order"
    submit(store, "ann", first, answers(first, "ann"), 44.0)
    assert take_item(store, "ann", 45.0).item.id == second


def test_labels_hold_while_an_item_is_reopened_and_old_ones_are_kept_as_a_revision(store):
    item = label_next(store, "ann", 1.0)
    undo(store, "ann", 2.0)
    assert len(list(store.verdicts())) == 2
    assert label_next(store, "bob", 1e9) == item
    assert take_item(store, "cid", 1e9).item.id != item, "a reopened item keeps its place without end"
    submit(store, "ann", item, answers(item, "ann", first=1), 2e9)
    assert [label.ranks for label in store.rankings() if label.labeller == "ann"] == [(1, 0), (1, 0)]
    ((old, finished_at),) = store.rows("SELECT answers, finished_at FROM revisions")
    assert Draft.model_validate_json(old).labels(item, "ann") == answers(item, "ann")
    assert finished_at == 1.0


def test_the_same_answers_after_an_undo_are_no_revision(store):
    item = label_next(store, "ann", 1.0)
    undo(store, "ann", 2.0)
    submit(store, "ann", item, answers(item, "ann"), 3.0)
    assert states(store)[1, "ann"] == "done"
    assert store.rows("SELECT * FROM revisions") == []


def test_two_tabs_that_submit_one_item_make_one_label(store):
    item = label_next(store, "ann", 1.0)
    submit(store, "ann", item, answers(item, "ann"), 2.0)  # an answer that got lost on its way, sent again
    with pytest.raises(StoreError, match="finished this item already"):
        submit(store, "ann", item, answers(item, "ann", first=1), 3.0)
    with pytest.raises(StoreError, match="finished this item already"):
        save_draft(store, "ann", item, Draft(), 3.0)
    assert [label.ranks for label in store.rankings()] == [(0, 1), (0, 1)]
    assert len(entries(store, what="refused submit")) == 1


def test_a_skipped_item_goes_to_somebody_else_and_never_back(store):
    item = take_item(store, "ann", 1.0).item.id
    with pytest.raises(StoreError, match="skip needs a text"):
        skip(store, "ann", item, " ", 2.0)
    skip(store, "ann", item, "cannot read it", 2.0)
    skip(store, "ann", item, "cannot read it", 2.0)  # a double click
    assert {label_next(store, name, 3.0) for name in ("bob", "cid")} == {item}
    assert item not in {label_next(store, "ann", 4.0) for _ in range(2)}
    assert store.rows("SELECT kind, text FROM notes") == [("skip", "cannot read it")]
    with pytest.raises(StoreError, match="skipped this item"):
        submit(store, "ann", item, answers(item, "ann"), 5.0)


def test_a_skip_can_be_undone_while_there_is_room(store):
    item = take_item(store, "ann", 1.0).item.id
    save_draft(store, "ann", item, Draft(verdicts={0: SAFE}), 1.5)
    skip(store, "ann", item, "by mistake", 2.0)
    assert undo(store, "ann", 3.0).draft.verdicts == {0: SAFE}
    skip(store, "ann", item, "yes", 4.0)
    for name in ("bob", "cid"):
        label_next(store, name, 5.0)
    assert undo(store, "ann", 6.0) is None


def test_skipping_a_reopened_item_withdraws_its_labels_and_keeps_them(store):
    item = label_next(store, "ann", 1.0)
    undo(store, "ann", 2.0)
    skip(store, "ann", item, "changed my mind", 3.0)
    assert list(store.verdicts()) == []
    assert len(store.rows("SELECT * FROM revisions")) == 1
    assert {label_next(store, name, 4.0) for name in ("bob", "cid")} == {item}


def test_an_item_of_another_person_and_one_that_is_not_there_look_the_same(store):
    item = take_item(store, "ann", 1.0).item.id
    take_item(store, "bob", 1.0)
    other = next(one.id for one in store.items() if one.id != item)
    messages = set()
    for missing in (other, "0123456789abcdef"):
        for act in (
            lambda i: open_item(store, "bob", i, 2.0),
            lambda i: save_draft(store, "bob", i, Draft(), 2.0),
            lambda i: submit(store, "bob", i, answers(i, "bob"), 2.0),
            lambda i: skip(store, "bob", i, "no", 2.0),
            lambda i: add_note(store, "bob", i, "comment", "hm", 2.0),
        ):
            with pytest.raises(StoreError) as error:
                act(missing)
            messages.add(str(error.value).replace(missing, "…"))
    assert len(messages) == 1
    assert "not yours" in messages.pop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given, item: given[1:], "missing: safety 0"),
        (lambda given, item: given[:-1], "missing: harmlessness"),
        (
            lambda given, item: [
                VerdictLabel(item, "ann", 0, Verdict(is_safe=False, categories=("x",))),
                *given[1:],
            ],
            "no such",
        ),
        (
            lambda given, item: [VerdictLabel(item, "ann", 0, Verdict(is_safe=False, severity=2)), *given[1:]],
            "severities",
        ),
        (lambda given, item: [VerdictLabel(item, "ann", 0, UNSAFE), *given[1:]], "contradict"),
        (lambda given, item: [*given[:-1], RankingLabel(item, "ann", "harmlessness", (0, 1, 2))], "wrong shape"),
        (lambda given, item: [*given, RankingLabel(item, "ann", "single", (0, 1))], "does not ask"),
        (lambda given, item: [*given, VerdictLabel(item, "ann", 2, SAFE)], "about no response"),
        (
            lambda given, item: [*given[:-1], RankingLabel(item, "bob", "harmlessness", (0, 1))],
            "another item or lab",
        ),
    ],
)
def test_impossible_and_incomplete_answers_are_refused_and_nothing_changes(store, change, message):
    item = take_item(store, "ann", 1.0).item.id
    with pytest.raises(StoreError, match=message):
        submit(store, "ann", item, change(answers(item, "ann"), item), 2.0)
    assert list(store.verdicts()) == []
    assert states(store)[1, "ann"] == "open"


def test_a_declined_category_is_not_handed_out(store):
    store.add_items([Item(prompt=Prompt.from_text("sad", category="self_harm"), responses=("a", "b"))])
    sad = list(store.items())[-1].id
    first = take_item(store, "bob", 1.0).item.id
    labels = [*answers(first, "bob")[:1], VerdictLabel(first, "bob", 1, UNSAFE), *answers(first, "bob")[2:]]
    submit(store, "bob", first, labels, 1.0)
    decline(store, "ann", {"self_harm"}, 1.0)
    got = {label_next(store, "ann", 2.0) for _ in range(2)}
    assert not got & {sad, first}, "neither what the prompt says nor what bob found"
    assert take_item(store, "ann", 3.0) is None
    decline(store, "ann", set(), 4.0)
    assert take_item(store, "ann", 5.0).item.id in (sad, first)


def test_an_item_kept_for_somebody_stays_theirs_until_they_are_shut_out(store):
    item = list(store.items())[2].id
    for name in ("ann", "bob"):
        store.assign([Assignment(item, name, (1, 0))])
    assert take_item(store, "ann", 1.0).item.id == item
    for _ in range(2):
        label_next(store, "cid", 1.0)
    assert take_item(store, "cid", 1e9) is None
    set_active(store, "bob", False, 2e9)
    assert take_item(store, "cid", 2e9).item.id == item
    with pytest.raises(StoreError, match="account is closed"):
        take_item(store, "bob", 2e9)


def test_judges_are_handed_every_item_once_and_take_no_place(store):
    store.add_labellers(["gpt"], "judge")
    assert len({label_next(store, "gpt", 1.0) for _ in range(3)}) == 3
    assert take_item(store, "gpt", 2.0) is None
    assert totals(store).answers == 0
    assert len({label_next(store, name, 3.0) for name in ("ann", "bob")}) == 1


def test_progress_and_pace_are_counted(store):
    assert progress(store, "ann", 0.0) == (0, 0, 3, None, None)
    for now in (100.0, 200.0):
        item = take_item(store, "ann", now).item.id
        submit(store, "ann", item, answers(item, "ann"), now + 10 + now / 10)  # 20 s, then 30 s
    skip(store, "ann", take_item(store, "ann", 300.0).item.id, "no", 310.0)
    assert progress(store, "ann", 310.0) == (2, 1, 0, 25.0, 100.0)
    assert progress(store, "ann", 2000.0).working_since is None, "a pause"
    assert progress(store, "bob", 310.0).left == 3
    assert totals(store) == (3, 0, 2, 2, 6, 0, 0)
    ann = people_progress(store)[0]
    assert (ann.name, ann.done, ann.skipped, ann.open, ann.last_at) == ("ann", 2, 1, 0, 310.0)


def test_gold_items_come_once_in_a_block_to_everybody_at_no_fixed_place_and_take_no_place(tmp_path):
    create_project(tmp_path / "team", ProjectConfig(overlap=1, gold_share=0.25), 0.0)
    with open_project(tmp_path / "team") as store:
        store.add_items(make_items(60))
        gold = [item.id for item in store.items()][:10]
        places = []
        for name in ("ann", "bob"):
            invite(store, name, "lead", 0.0)
            for item in gold:
                set_gold(store, item, Draft(verdicts={0: SAFE}), name, 0.0)
            is_gold = [label_next(store, name, 1.0) in gold for _ in range(20)]
            blocks = [is_gold[at : at + 4] for at in range(0, 20, 4)]
            assert [sum(block) for block in blocks] == [1] * 5
            places += [block.index(True) for block in blocks]
        assert len(set(places)) > 1
        assert totals(store)[:5] == (50, 30, 0, 30, 50)
        assert set(store.rows("SELECT done FROM items WHERE number <= 5")) == {(2,)}, "the same five, by both"
