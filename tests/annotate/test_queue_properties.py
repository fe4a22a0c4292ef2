"""The queue under random sequences of what several people do, and under real threads and processes."""

import multiprocessing
import random
import signal
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.labels import Draft, Item
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.people import invite
from equipoise.annotate.store.project import create_project, open_project
from equipoise.annotate.store.queue import open_item, save_draft, skip, submit, take_item, undo
from equipoise.errors import StoreError
from equipoise.records import Prompt, Verdict

PEOPLE = ("ann", "bob", "cid", "dan")
OVERLAP = 2
LEASE = 1800.0
KEPT = (
    "SELECT i.id, l.name, {} FROM {} JOIN items i ON i.number = t.item JOIN labellers l ON l.number = t.labeller"
)

name = st.sampled_from(PEOPLE)
which = st.integers(0, 3)


def make_project(path: Path, items: int, people: tuple[str, ...], overlap: int) -> Path:
    create_project(path, ProjectConfig(overlap=overlap, gold_share=0), 0.0)
    with open_project(path) as store, store.transaction():
        store.add_items(
            Item(prompt=Prompt.from_text(f"prompt {n}"), responses=("a",), questions=("safety",))
            for n in range(items)
        )
        for person in people:
            invite(store, person, "labeller", 0.0)
    return path


def verdict(is_safe: bool) -> Draft:
    return Draft(verdicts={0: Verdict(is_safe=is_safe)})


class Team(RuleBasedStateMachine):
    """Four people, four items, overlap 2; the model remembers what was acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = open_project(make_project(Path(self.folder.name) / "team", 4, PEOPLE, OVERLAP))
        self.store.rows("PRAGMA synchronous = OFF")  # nothing is killed here
        self.ids = [item.id for item in self.store.items()]
        self.now = 1e6
        self.latest: dict[tuple[str, str], Draft] = {}
        self.acknowledged: list[tuple[str, str, Draft]] = []
        self.skipped: set[tuple[str, str]] = set()
        self.reopened: set[tuple[str, str]] = set()

    def teardown(self) -> None:
        self.everybody_finishes()
        self.store.close()
        self.folder.cleanup()

    @rule(seconds=st.sampled_from((1.0, LEASE / 2, LEASE + 1, 1e8, -1.0, -LEASE, -1e5)))
    def time_passes(self, seconds: float) -> None:
        self.now = max(0.0, self.now + seconds)

    @rule(person=name)
    def takes(self, person: str) -> None:
        work = take_item(self.store, person, self.now)
        if work is not None:
            key = (work.item.id, person)
            assert key not in self.skipped
            assert (key in self.latest) == work.is_reopened == (key in self.reopened)

    @rule(person=name, item=which, is_safe=st.booleans())
    def drafts(self, person: str, item: int, is_safe: bool) -> None:
        try:
            save_draft(self.store, person, self.ids[item], verdict(is_safe), self.now)
        except StoreError:
            return
        assert open_item(self.store, person, self.ids[item], self.now).draft == verdict(is_safe)

    @rule(person=name, item=which, is_safe=st.booleans())
    def submits(self, person: str, item: int, is_safe: bool) -> None:
        self.send(person, self.ids[item], verdict(is_safe))

    @rule(person=name, is_safe=st.booleans())
    def takes_and_submits(self, person: str, is_safe: bool) -> None:
        work = take_item(self.store, person, self.now)
        if work is not None:
            assert self.send(person, work.item.id, verdict(is_safe)), "what is in hand can be submitted"

    @rule(person=name)
    def skips(self, person: str) -> None:
        work = take_item(self.store, person, self.now)
        if work is not None:
            skip(self.store, person, work.item.id, "no", self.now)
            key = (work.item.id, person)
            self.latest.pop(key, None)
            self.reopened.discard(key)
            self.skipped.add(key)

    @rule(person=name)
    def undoes(self, person: str) -> None:
        work = undo(self.store, person, self.now)
        if work is None:
            return
        key = (work.item.id, person)
        if key in self.latest:
            assert work.draft.is_same(self.latest[key])
            self.reopened.add(key)
        else:
            self.skipped.remove(key)

    @precondition(lambda self: self.acknowledged)
    @rule()
    def the_server_restarts(self) -> None:
        path = self.store.path
        self.store.close()
        self.store = Store(path)

    def send(self, person: str, item: str, answers: Draft) -> bool:
        try:
            submit(self.store, person, item, answers.labels(item, person), self.now)
        except StoreError:
            return False
        if (item, person) not in self.latest or (item, person) in self.reopened:
            self.acknowledged.append((item, person, answers))
            self.latest[item, person] = answers
        self.reopened.discard((item, person))
        return True

    @invariant()
    def no_item_has_more_takers_than_the_overlap(self) -> None:
        taken = Counter(
            item
            for item, state, until in self.store.rows("SELECT item, state, leased_until FROM assignments")
            if state in ("done", "reopened") or (state == "open" and until > 0)
        )
        assert all(count <= OVERLAP for count in taken.values()), taken

    @invariant()
    def the_latest_answers_are_the_labels(self) -> None:
        labels = {(label.item, label.labeller): label.verdict for label in self.store.verdicts()}
        assert labels == {key: draft.verdicts[0] for key, draft in self.latest.items()}
        done = dict(self.store.rows("SELECT id, done FROM items"))
        assert {item: count for item, count in done.items() if count} == Counter(item for item, _ in self.latest)

    @invariant()
    def nothing_acknowledged_is_ever_lost(self) -> None:
        now = [(i, who, Draft.of([v])) for v in self.store.verdicts() for i, who in [(v.item, v.labeller)]]
        old = [
            (item, person, Draft.model_validate_json(answers))
            for item, person, answers in self.store.rows(KEPT.format("t.answers", "revisions t"))
        ]
        assert all(any(one == kept for kept in (*now, *old)) for one in self.acknowledged)

    def everybody_finishes(self) -> None:
        """From any state, the team can label everything `overlap` times, but for what too many skipped."""
        self.now += 2 * LEASE
        for _ in range(100):
            if not [
                self.takes_and_submits(person, True)
                for person in PEOPLE
                if take_item(self.store, person, self.now)
            ]:
                break
        for item in self.ids:
            answered = {who for one, who in self.latest if one == item}
            refused = {who for one, who in self.skipped if one == item}
            assert len(answered) == OVERLAP or answered | refused == set(PEOPLE)


def test_the_queue_keeps_its_promises_under_any_sequence_of_steps():
    few = hypothesis_settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True)
    run_state_machine_as_test(Team, settings=few)


def label_everything(path: Path, person: str, seed: int, sent: "list[tuple[str, str]]") -> None:
    """Take and submit until nothing is left, with a draft, a skip or an undo here and there."""
    dice = random.Random(seed)
    with open_project(path) as store:
        while (work := take_item(store, person, time.time())) is not None:
            item = work.item.id
            if dice.random() < 0.2:
                save_draft(store, person, item, verdict(True), time.time())
            if not work.is_reopened and dice.random() < 0.05:
                skip(store, person, item, "no", time.time())
                continue
            submit(store, person, item, verdict(dice.random() < 0.5).labels(item, person), time.time())
            sent.append((item, person))
            if dice.random() < 0.1:
                undo(store, person, time.time())


def test_threads_with_their_own_connections_label_each_item_exactly_overlap_times(tmp_path):
    people = tuple(f"person {n}" for n in range(8))
    path, sent = make_project(tmp_path / "team", 60, people, 3), []
    with ThreadPoolExecutor(len(people)) as pool:
        work = [pool.submit(label_everything, path, person, n, sent) for n, person in enumerate(people)]
    assert [one.result() for one in work] == [None] * len(people)
    with open_project(path) as store:
        labels = [(label.item, label.labeller) for label in store.verdicts()]
        assert set(labels) == set(sent)
        assert set(Counter(item for item, _ in labels).values()) == {3}
        assert len(set(labels)) == len(labels) == 180


def work_until_killed(path: Path, person: str, log: Path) -> None:
    with open_project(path) as store, log.open("ab", buffering=0) as acknowledged:
        while (work := take_item(store, person, time.time())) is not None:
            submit(store, person, work.item.id, verdict(True).labels(work.item.id, person), time.time())
            acknowledged.write(f"{work.item.id} {person}\n".encode())


def test_no_acknowledged_label_is_lost_when_processes_are_killed(tmp_path):
    people = ("ann", "bob", "cid")
    path = make_project(tmp_path / "team", 400, people, 2)
    start = multiprocessing.get_context("spawn").Process
    for _ in range(3):
        workers = [start(target=work_until_killed, args=(path, who, tmp_path / f"{who}.log")) for who in people]
        for worker in workers:
            worker.start()
        before = sum(log.stat().st_size for log in tmp_path.glob("*.log"))
        deadline = time.monotonic() + 120
        while sum(log.stat().st_size for log in tmp_path.glob("*.log")) < before + 600:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for worker in workers:
            worker.kill()
            worker.join()
            assert worker.exitcode in (-signal.SIGKILL, 0)
    logged = [tuple(line.split()) for log in tmp_path.glob("*.log") for line in log.read_text().splitlines()]
    with open_project(path) as store:
        labels = [(label.item, label.labeller) for label in store.verdicts()]
        assert set(logged) <= set(labels)
        assert len(labels) - len(logged) <= 3 * len(people), "at most one per kill was not acknowledged"
        assert max(Counter(item for item, _ in labels).values()) <= 2
        assert store.rows("PRAGMA integrity_check") == [("ok",)]


def test_taking_an_item_is_quick_with_two_thousand_items_and_fifty_people(tmp_path):
    people = tuple(f"person {n}" for n in range(50))
    with open_project(make_project(tmp_path / "team", 2000, people, 3)) as store:
        numbers = {person: store.find_labeller(person) for person in people}
        insert = "INSERT INTO assignments (item, labeller, shown, state, turn) VALUES (?, ?, '[0]', ?, 1)"
        with store.transaction():  # one person has answered everything, the others have skipped some
            for item in range(1, 2001):
                store.rows(insert, item, numbers["person 0"], "done")
                store.rows(insert, item, numbers[f"person {1 + item % 49}"], "skipped")
        store.rows("PRAGMA synchronous = OFF")  # the queue's own work, not the disk's
        times = []
        for person in (*people[1:], "person 0"):
            start = time.perf_counter()
            work = take_item(store, person, 1.0)
            times.append(time.perf_counter() - start)
            assert (work is None) == (person == "person 0")
    assert sorted(times)[25] < 0.005
    assert times[-1] < 0.05, "nothing is left for somebody who has seen all"


def test_a_full_disk_is_said_and_nothing_is_half_done(tmp_path):
    with open_project(make_project(tmp_path / "team", 3, PEOPLE, 2)) as store:
        item = take_item(store, "ann", 1.0).item.id
        pages = store.rows("PRAGMA page_count")[0][0]
        store.rows(f"PRAGMA max_page_count = {pages}")
        huge = Draft(screen={"text": "x" * 100_000})
        with pytest.raises(StoreError, match="Free space on the disk"):
            save_draft(store, "ann", item, huge, 2.0)
        assert take_item(store, "ann", 3.0).draft == Draft()
        store.rows(f"PRAGMA max_page_count = {pages + 1000}")
        save_draft(store, "ann", item, huge, 4.0)
        submit(store, "ann", item, verdict(True).labels(item, "ann"), 5.0)
        assert len(list(store.verdicts())) == 1
