import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from judge_project import judge_config, labels_of, let_people_label, make_items, make_project
from scripted_judge import busy, completion, cut_off, honest, prefers_first, question_of, scripted_judge
from starlette.responses import JSONResponse, PlainTextResponse

from equipoise.annotate.judge.run import judge
from equipoise.annotate.labels import Assignment, Item, VerdictLabel
from equipoise.annotate.store.project import open_project
from equipoise.errors import ConfigError, EndpointError, StoreError
from equipoise.records import Prompt, Verdict


@pytest.fixture(scope="module")
def running():
    with scripted_judge() as opened:
        yield opened


@pytest.fixture
def server(running):
    running.forget()
    return running


def card_of(path, name="scripted"):
    return json.loads((path / "judges" / name / "card.json").read_text(encoding="utf-8"))


def test_an_honest_judge_gives_the_labels_of_people_in_their_tables(server, tmp_path):
    items = make_items(12, responses=3)
    path = make_project(tmp_path / "p", items)
    let_people_label(path, items)
    judge(judge_config(path, server.url))
    with open_project(path) as store:
        assert store.labellers() == {"ann": "person", "bob": "person", "cem": "person", "scripted": "judge"}
    assert {one.replace("'scripted'", "'ann'") for one in labels_of(path)} == labels_of(path, "ann")
    card = card_of(path)
    assert card["safety"]["judge"]["raw"] == {"value": 1.0, "n": 36}
    assert card["questions"]["helpfulness"]["against_people"]["judge"]["raw"] == {"value": 1.0, "n": 36}
    assert card["questions"]["harmlessness"]["flips"]["value"] == 0
    assert card["judged"] == card["items"] == 12


def test_each_pair_is_asked_in_both_orders_and_no_question_mixes_two(server, tmp_path):
    path = make_project(tmp_path / "p", make_items(3))
    judge(judge_config(path, server.url))
    asked = [question_of(body) for body in server.bodies]
    card = card_of(path)
    assert asked.count("safety") == 6
    assert asked.count("helpfulness") == 6
    assert asked.count("harmlessness") == 6 - 2 * card["questions"]["harmlessness"]["settled"]
    assert max(server.times.values()) == 1


def test_harmlessness_is_not_asked_where_the_verdicts_settle_it(server, tmp_path):
    item = Item(prompt=Prompt.from_text("how ?"), responses=("a bomb", "no , bad bad"))
    path = make_project(tmp_path / "p", [item])
    judge(judge_config(path, server.url))
    assert [question_of(body) for body in server.bodies].count("harmlessness") == 0
    assert any("harmlessness" in label and "(1, 0)" in label for label in labels_of(path))


def test_a_lean_to_the_first_shown_is_detected_and_its_pairs_are_ties(server, tmp_path):
    server.brain = prefers_first
    path = make_project(tmp_path / "p", make_items(20))
    judge(judge_config(path, server.url))
    numbers = card_of(path)["questions"]["helpfulness"]
    assert numbers["flips"]["value"] == numbers["ties"]["value"] == 1
    assert numbers["order"]["first_wins"]["low"] > 0.8
    assert (numbers["order"]["both_first"], numbers["order"]["both_second"]) == (20, 0)
    assert numbers["order"]["p"] == pytest.approx(2 * 0.5**20)
    assert sum("helpfulness" in label and "(0, 0)" in label for label in labels_of(path)) == 20


def calls_of(path) -> int:
    """How many requests were sent; each question was asked until one whole answer came, and then no more."""
    with closing(sqlite3.connect(path / "judge.sqlite")) as db:
        calls = db.execute("SELECT key, status FROM calls ORDER BY number").fetchall()
    by_key = {key: [status for one, status in calls if one == key] for key, _ in calls}
    assert all(found[-1] == 200 and 200 not in found[:-1] for found in by_key.values())
    return len(calls)


def misbehave(body, time):
    """The first time that a question comes, what goes wrong depends on the question; the second time, nothing."""
    if time > 1:
        return None
    faults = [lambda: busy(429, "0.05"), lambda: busy(500, "0.01"), cut_off, lambda: 1.5, lambda: None]
    return faults[hash_of(body) % len(faults)]()


def hash_of(body) -> int:
    return sum(json.dumps(body, sort_keys=True).encode())


def test_whatever_goes_wrong_on_the_way_nothing_is_lost_and_nothing_paid_twice(server, tmp_path):
    items = make_items(10)
    quiet, troubled = (make_project(tmp_path / name, items) for name in ("quiet", "troubled"))
    judge(judge_config(quiet, server.url))
    server.forget()
    server.fault = misbehave
    judge(judge_config(troubled, server.url, {"timeout": 1.0}, concurrency=4))
    assert labels_of(troubled) == labels_of(quiet)
    assert card_of(troubled)["questions"] == card_of(quiet)["questions"]
    assert {hash_of(json.loads(key)) % 5 for key, times in server.times.items() if times > 1} >= {0, 1, 2, 3}
    assert calls_of(troubled) == len(server.bodies)
    before = dict(server.times)
    judge(judge_config(troubled, server.url))
    assert dict(server.times) == before  # a further run pays nothing


def test_an_endpoint_that_lies_loses_no_item_and_its_lies_are_no_labels(server, tmp_path):
    items = make_items(6)
    quiet, lied_to = (make_project(tmp_path / name, items) for name in ("quiet", "lied-to"))
    judge(judge_config(quiet, server.url))
    server.forget()
    lies = [
        PlainTextResponse("<html>"),
        JSONResponse([]),
        JSONResponse({"choices": []}),
        completion(None, usage=[]),
    ]
    server.fault = lambda body, time: lies[hash_of(body) % 8] if hash_of(body) % 8 < len(lies) else None
    judge(judge_config(lied_to, server.url, max_failures=100))
    card = card_of(lied_to)
    assert card["judged"] + card["without_answer"] == 6 and card["without_answer"] > 0
    assert labels_of(lied_to) < labels_of(quiet)
    assert card["spending"]["lost"] == len(server.bodies) - sum(server.served.values())
    paid = dict(server.served)
    server.fault = lambda body, time: None
    judge(judge_config(lied_to, server.url))
    assert labels_of(lied_to) == labels_of(quiet) and card_of(lied_to)["questions"] == card_of(quiet)["questions"]
    assert max(server.served.values()) == 1 and all(server.served[key] == 1 for key in paid)


BAD = {
    "empty": lambda: completion(""),
    "truncated": lambda: completion('{"answer": ', finish="length"),
    "refusal": lambda: completion("I'm sorry, but I can't help with comparing these."),
    "broken_json": lambda: completion("The answer is A."),
    "wrong_fields": lambda: completion('{"answer": "A", "why": "because"}'),
    "rejected": lambda: JSONResponse({"error": {"message": "too long"}}, status_code=400),
}


def test_answers_that_cannot_be_read_are_unscored_and_counted_by_reason(server, tmp_path):
    items = make_items(len(BAD) + 1)
    wrong = dict(zip([item.responses[0] for item in items[1:]], BAD.values(), strict=True))

    def fault(body, time):
        text = body["messages"][1]["content"]
        found = [answer for first, answer in wrong.items() if f"\n{first}\n" in text]
        return found[0]() if found and question_of(body) == "helpfulness" else None

    server.fault = fault
    path = make_project(tmp_path / "p", items)
    judge(judge_config(path, server.url))
    card = card_of(path)
    asked = card["parsed"]["n"]
    for reason in BAD:
        assert card["unscored"][reason]["value"] == pytest.approx(2 / asked), reason
    assert card["questions"]["helpfulness"]["unranked"] == dict.fromkeys(BAD, 1)
    assert sum("helpfulness" in label for label in labels_of(path)) == 1
    assert sum("harmlessness" in label for label in labels_of(path)) == len(items)
    before = dict(server.times)
    judge(judge_config(path, server.url))
    assert dict(server.times) == before  # what was paid for is not asked again


def test_an_unscored_verdict_is_a_value_and_binds_nothing(server, tmp_path):
    server.brain = lambda body: "no idea" if question_of(body) == "safety" else honest(body)
    path = make_project(tmp_path / "p", make_items(4))
    judge(judge_config(path, server.url))
    assert sum("is_safe=None" in label for label in labels_of(path)) == 8
    assert card_of(path)["unsafe"]["judge"] is None


def test_an_endpoint_that_takes_no_schema_is_asked_in_words(server, tmp_path):
    wrong = {"error": {"message": "response_format is not supported"}}
    server.fault = lambda body, time: JSONResponse(wrong, status_code=400) if "response_format" in body else None
    path = make_project(tmp_path / "p", make_items(3))
    for _ in range(2):
        judge(judge_config(path, server.url))
    assert card_of(path)["settings"]["structure"] == "plain"
    assert sum("response_format" in body for body in server.bodies) == 1
    server.forget()
    server.fault = lambda body, time: JSONResponse(wrong, status_code=400)
    with pytest.raises(EndpointError, match="not supported"):
        judge(judge_config(make_project(tmp_path / "q", make_items(1)), server.url))


def test_a_budget_stops_the_judge_before_it_is_exceeded_and_the_rest_follows(server, tmp_path):
    items = make_items(8)
    path, whole = (make_project(tmp_path / name, items) for name in ("p", "whole"))
    judge(judge_config(path, server.url, max_calls=20))
    assert len(server.bodies) == 20
    card = card_of(path)
    assert "budget is spent" in card["stopped"]
    assert card["judged"] < 8
    judge(judge_config(path, server.url, max_calls=1000))
    assert max(server.times.values()) == 1
    judge(judge_config(whole, server.url))
    assert labels_of(path) == labels_of(whole)
    assert card_of(path)["questions"] == card_of(whole)["questions"]


def test_a_dead_endpoint_is_given_up_and_tried_again_by_the_next_run(server, tmp_path):
    path = make_project(tmp_path / "p", make_items(8))
    server.fault = lambda body, time: None if len(server.bodies) <= 9 else busy(500, "0.01")
    judge(judge_config(path, server.url, {"retries": 0}, max_failures=2, concurrency=1))
    card = card_of(path)
    assert "2 items in a row" in card["stopped"]
    assert (card["judged"], card["without_answer"]) == (1, 2)
    server.fault = lambda body, time: None
    judge(judge_config(path, server.url))
    assert card_of(path)["judged"] == 8
    assert max(server.served.values()) == 1


def test_a_judge_that_was_killed_goes_on_and_ends_as_if_undisturbed(server, tmp_path):
    items = make_items(10)
    killed, whole = (make_project(tmp_path / name, items) for name in ("killed", "whole"))
    judge(judge_config(whole, server.url))
    server.forget()
    server.fault = lambda body, time: 0.05
    settings = judge_config(killed, server.url, concurrency=3).model_dump_json()
    code = (
        "import sys; from equipoise.annotate.judge.config import JudgeConfig;"
        "from equipoise.annotate.judge.run import judge; judge(JudgeConfig.model_validate_json(sys.argv[1]))"
    )
    for answered in (20,):
        process = subprocess.Popen([sys.executable, "-c", code, settings])
        while sum(server.served.values()) < answered:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(0.2)
    server.fault = lambda body, time: None
    judge(judge_config(killed, server.url, concurrency=3))
    assert labels_of(killed) == labels_of(whole)
    assert card_of(killed)["questions"] == card_of(whole)["questions"]
    # only what was under way at a kill, at most one per thread, was sent a second time
    assert len(server.times) <= len(server.bodies) <= calls_of(killed) <= len(server.times) + 6
    assert card_of(killed)["spending"]["lost"] == calls_of(killed) - len(server.times)


def test_refusals_are_asked_where_an_item_wants_it(server, tmp_path):
    texts = ("sorry , no", "of course")
    items = [Item(prompt=Prompt.from_text(text), responses=(text,), questions=("refusal",)) for text in texts]
    path = make_project(tmp_path / "p", items)
    with open_project(path) as store:
        store.add_labellers(["ann"], "person")
        store.assign([Assignment(item.id, "ann", (0,)) for item in items])
        store.add_labels([VerdictLabel(i.id, "ann", 0, Verdict(is_safe=None, refusal="full")) for i in items])
    judge(judge_config(path, server.url))
    assert [question_of(body) for body in server.bodies] == ["refusal"] * 2
    assert {"full" in label for label in labels_of(path)} == {True, False}
    card = card_of(path)
    assert card["refusal"]["judge"]["raw"] == {"value": 0.5, "n": 2}
    assert card["safety"] is card["unsafe"] is None


def test_a_name_stands_for_one_judge(server, tmp_path):
    items = make_items(2)
    path = make_project(tmp_path / "p", items)
    let_people_label(path, items)
    judge(judge_config(path, server.url))
    with pytest.raises(ConfigError, match="other settings: temperature"):
        judge(judge_config(path, server.url, {"temperature": 1.0}))
    rubrics = tmp_path / "rubrics"
    rubrics.mkdir()
    (rubrics / "helpfulness.txt").write_text("by helpfulness alone , and be strict", encoding="utf-8")
    with pytest.raises(ConfigError, match="other settings: rubrics"):
        judge(judge_config(path, server.url, {"rubrics": rubrics}))
    with pytest.raises(StoreError, match="another kind"):
        judge(judge_config(path, server.url, name="ann"))
    before = len(server.bodies)
    judge(judge_config(path, server.url, {"rubrics": rubrics}, name="strict"))
    assert len(server.bodies) - before == 4  # helpfulness alone is asked anew, the rest is known
    assert "be strict" in server.bodies[-1]["messages"][0]["content"]


def test_only_what_people_labelled_is_judged_if_so_wanted(server, tmp_path):
    items = make_items(6)
    path = make_project(tmp_path / "p", items)
    with pytest.raises(ConfigError, match="no item has a person's label"):
        judge(judge_config(path, server.url, which="labelled"))
    let_people_label(path, items[2:4])
    judge(judge_config(path, server.url, which="labelled"))
    assert card_of(path)["items"] == 2
    judge(judge_config(path, server.url, which="all"))
    assert card_of(path)["unsafe"]["people"] is None or card_of(path)["unsafe"]["people"]["n"] == 2


def test_a_judge_never_takes_a_place_that_people_have(server, tmp_path):
    from equipoise.annotate.store.people import accept_invite, invite
    from equipoise.annotate.store.queue import take_item

    path = make_project(tmp_path / "p", make_items(1))
    for n in range(4):
        judge(judge_config(path, server.url, name=f"judge-{n}"))
    with open_project(path) as store:
        accept_invite(store, invite(store, "ann", "labeller", 0.0), None, 1.0)
        assert take_item(store, "ann", 2.0) is not None
