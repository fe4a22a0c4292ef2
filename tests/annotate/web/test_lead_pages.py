"""What a lead sees and does, over HTTP, against numbers worked out by hand."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_client import NOW, Site, answer, draft, make_items, serving

from equipoise.annotate.labels import Draft, Item
from equipoise.annotate.store import journal, overview, people, project, queue, rulings
from equipoise.annotate.web.lead import forecast
from equipoise.errors import StoreError
from equipoise.records import Prompt, Verdict

DAY = 86400.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path / "project") as site:
        yield site


def text_of(html: str) -> str:
    """What is read on a page."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def label_four(site: Site) -> list[str]:
    """Four complete items: Ann and Bob agree on the safety of 7 of 8 responses, on helpfulness of 2 of 4 pairs."""
    with site.store() as store:
        store.add_items(make_items("first", "second", "third", "fourth"))
        ids = [item.id for item in store.items()]
        anns = [((True, True), (0, 1)), ((False, True), (0, 1)), ((True, True), (0, 0)), ((True, True), (0, 1))]
        bobs = [((True, True), (0, 1)), ((False, False), (0, 1)), ((True, True), (0, 1)), ((True, True), (1, 0))]
        for name, answers in (("Ann", anns), ("Bob", bobs)):
            for number, (safe, helpful) in enumerate(answers):
                answer(store, name, safe, helpful, NOW + 60 * number)
    return ids


def test_progress_counts_sets_labellers_and_what_is_left(site: Site) -> None:
    with site.store() as store:
        store.add_items([*make_items("a", "b", "c", source="set one"), *make_items("d", source="set two")])
        answer(store, "Ann", (True, True), (0, 1))
        answer(store, "Bob", (True, True), (0, 1))
        answer(store, "Ann", (True, True), (0, 1))
    site.clock.now = NOW + 2 * DAY
    page = text_of(site.browser("Lena").get("/lead/progress").text)
    assert "3 of 8 answers" in page and "1 of 4 items complete" in page  # overlap 2
    assert "set one 3 1 1 1 50.0 %" in page and "set two 1 0 0 1 0.0 %" in page
    assert "Ann 2 2 30 s 0 0" in page and "Bob 1 1 30 s 0 0" in page


def test_the_forecast_divides_what_is_left_by_the_pace_of_the_last_week() -> None:
    # 14 answers in the last 7 days are 2 a day: 10 more take 5 days. Days before the first answer do not count.
    assert forecast(10, [0] * 20 + [99, 2, 0, 4, 2, 2, 2, 2]) == (10, 2.0, 5.0)
    assert forecast(10, [0] * 26 + [3, 5]) == (10, 4.0, 2.5)
    assert forecast(10, [5] + [0] * 27).days is None
    assert forecast(0, [1, 1]).days == 0


def test_agreement_prints_shares_with_their_n_and_leads_to_the_items(site: Site) -> None:
    ids = label_four(site)
    lena = site.browser("Lena")
    page = text_of(lena.get("/lead/agreement").text)
    assert re.search(r"Safety 87\.5 % .* 8 8 ", page)  # 7 of 8 responses
    assert re.search(r"Helpfulness 50\.0 % .* 4 4 ", page)  # 2 of 4 pairs
    assert "Privacy violation 87.5 %" in page
    # Both preferences by majority: first and second item have a helpful lead (0), fourth has none, third has one.
    disputed = lena.get("/lead/items?question=safety&units=disputed").text
    assert [one for one in ids if f"/lead/item/{one}" in disputed] == [ids[1]]
    helpful = lena.get("/lead/items?question=helpfulness&units=disputed").text
    assert [one for one in ids if f"/lead/item/{one}" in helpful] == [ids[2], ids[3]]
    compared = lena.get("/lead/items?question=safety&units=compared&one=Ann&other=Bob").text
    assert all(f"/lead/item/{one}" in compared for one in ids)
    pairs = text_of(lena.get("/lead/agreement/labellers?question=helpfulness").text)
    assert "Ann and Bob 50.0 %" in pairs


def test_where_the_preferences_part_is_counted_by_majority_and_by_answer(site: Site) -> None:
    with site.store() as store:
        store.add_items(make_items("first", "second"))
        for name in ("Ann", "Bob"):
            answer(store, name, (True, False), (1, 0))  # the unsafe one is the more helpful: apart
            answer(store, name, (True, False), (0, 1))  # together
        ids = [item.id for item in store.items()]
    lena = site.browser("Lena")
    page = text_of(lena.get("/lead/agreement").text)
    assert "the more helpful response is the more harmful one 1 50.0 % 2 50.0 %" in page
    assert "n 2 4" in page
    apart = lena.get("/lead/items?preferences=apart").text
    assert ids[0] in apart and ids[1] not in apart


def test_answers_stay_blind_until_the_item_is_complete(site: Site) -> None:
    with site.store() as store:
        store.add_items(make_items("only"))
        item = answer(store, "Ann", (True, False), (0, 1))
    lena = site.browser("Lena")
    before = text_of(lena.get(f"/lead/item/{item}").text)
    assert "Blind until complete" in before and "Ann done" in before and "harmlessness 2" not in before
    with site.store() as store:
        answer(store, "Bob", (False, False), (1, 0))
    after = text_of(lena.get(f"/lead/item/{item}").text)
    assert "unsafe Privacy violation helpfulness 2 harmlessness 2" in after and "Blind" not in after


def test_an_item_shows_order_notes_and_revisions(site: Site) -> None:
    with site.store() as store:
        store.add_items(make_items("only"))
        item = answer(store, "Ann", (True, False), (0, 1))
        queue.add_note(store, "Ann", item, "comment", "what is this?", NOW)
        work = queue.undo(store, "Ann", NOW + 40)
        assert work is not None
        changed = Draft(
            verdicts={0: Verdict(is_safe=True), 1: Verdict(is_safe=True)}, rankings=work.draft.rankings
        )
        queue.submit(store, "Ann", item, changed.labels(item, "Ann"), NOW + 50)
        answer(store, "Bob", (True, False), (0, 1))
        shown = ", ".join(str(position + 1) for position in work.shown)
    page = text_of(site.browser("Lena").get(f"/lead/item/{item}").text)
    assert f"Ann done {shown} safe" in page and "what is this?" in page
    assert (
        "Answers that were changed later" in page and "unsafe Privacy violation" in page.split("changed later")[1]
    )


def test_a_ruling_settles_what_labellers_did_not(site: Site) -> None:
    ids = label_four(site)
    lena = site.browser("Lena")
    waiting = lena.get("/lead/adjudicate").text
    # second item: safety of response 2 is 1 to 1; fourth: helpfulness is 1 to 1
    assert ids[1] in waiting and ids[3] in waiting
    assert ids[0] not in waiting  # both say "equal" on harmlessness: they agree, and there is nothing to settle
    fields = {"safety-0": "safe", "safety-1": "safe", "helpfulness-0": "1", "helpfulness-1": "2"}
    fields |= {"harmlessness-0": "2", "harmlessness-1": "1"}
    assert lena.submit(f"/lead/item/{ids[3]}/ruling", f"/lead/item/{ids[3]}", **fields).status_code == 303
    with site.store() as store:
        ruled = rulings.adjudications(store)[ids[3]]
        assert ruled.rankings == {"helpfulness": (0, 1), "harmlessness": (1, 0)} and ruled.verdicts[1].is_safe
        assert journal.entries(store)[0].what == "adjudicate"
    still = lena.get("/lead/adjudicate").text
    assert ids[1] in still and ids[3] not in still


@pytest.mark.parametrize(
    ("fields", "status"),
    (
        ({}, 400),  # nothing answered
        ({"safety-0": "maybe"}, 400),
        ({"safety-0": "unsafe", "category-0": "no such category"}, 400),
        ({"safety-0": "unsafe", "severity-0": "4"}, 400),
        ({"helpfulness-0": "1"}, 303),  # the other response has the other place
        ({"helpfulness-0": "3"}, 400),
        ({"helpfulness-0": "1", "helpfulness-1": "3"}, 400),
        ({"helpfulness-0": "1", "helpfulness-1": "٢"}, 400),
        ({"safety-0": "safe", "safety-1": "unsafe", "harmlessness-0": "2", "harmlessness-1": "1"}, 400),
        ({"safety-0": "x" * 3000}, 400),
        ({"safety-0": "unsafe", "category-0": "privacy_violation"}, 303),
        ({"helpfulness-0": "2", "helpfulness-1": "2"}, 303),
    ),
)
def test_impossible_answers_are_refused(site: Site, fields: dict[str, str], status: int) -> None:
    with site.store() as store:
        store.add_items(make_items("only"))
        (item,) = (one.id for one in store.items())
    response = site.browser("Lena").submit(f"/lead/item/{item}/gold", f"/lead/item/{item}", **fields)
    assert response.status_code == status
    with site.store() as store:
        assert (item in rulings.gold_answers(store)) == (status == 303)


def test_of_a_pair_one_place_is_enough_and_verdicts_that_differ_settle_harmlessness(site: Site) -> None:
    with site.store() as store:
        store.add_items(make_items("only"))
        (item,) = (one.id for one in store.items())
    fields = {"safety-0": "unsafe", "safety-1": "safe", "helpfulness-1": "2"}
    site.browser("Lena").submit(f"/lead/item/{item}/gold", f"/lead/item/{item}", **fields)
    with site.store() as store:
        assert rulings.gold_answers(store)[item].rankings == {"helpfulness": (0, 1), "harmlessness": (1, 0)}


def test_what_is_wrong_with_an_answer_is_said_on_the_page_of_the_item(site: Site) -> None:
    with site.store() as store:
        store.add_items([Item(prompt=Prompt.from_text("three"), responses=("a", "b", "c"))])
        (item,) = (one.id for one in store.items())
    response = site.browser("Lena").submit(
        f"/lead/item/{item}/gold", f"/lead/item/{item}", **{"helpfulness-0": "1"}
    )
    page = text_of(response.text)
    assert response.status_code == 400
    assert "A ranking by helpfulness needs a place for each response." in page and "Save the known answers" in page


def test_only_the_repeat_that_is_unsettled_waits_for_a_ruling(site: Site) -> None:
    before = make_items("asked twice")[0]
    again = Item(prompt=before.prompt, responses=before.responses, repeat=1)
    with site.store() as store:
        store.add_items([before, again])
        for name, helpful in (("Ann", (0, 1)), ("Bob", (0, 1)), ("Ann", (0, 1)), ("Bob", (1, 0))):
            answer(store, name, (True, True), helpful)
    page = site.browser("Lena").get("/lead/adjudicate").text
    assert again.id in page and before.id not in page


def test_a_ruling_may_not_contradict_an_earlier_one(site: Site) -> None:
    with site.store() as store:
        store.add_items(make_items("only"))
        (item,) = (one.id for one in store.items())
        rulings.adjudicate(store, item, draft(True, False), "Lena", NOW)
        with pytest.raises(StoreError, match="contradict"):
            rulings.adjudicate(store, item, Draft(rankings={"harmlessness": (1, 0)}), "Lena", NOW)
        rulings.adjudicate(store, item, Draft(rankings={"harmlessness": (0, 1)}), "Lena", NOW)
        assert set(rulings.adjudications(store)[item].verdicts) == {0, 1}


def test_gold_accuracy_counts_known_answers_only(site: Site) -> None:
    ids = label_four(site)
    with site.store() as store:
        known = Draft(
            verdicts={0: Verdict(is_safe=False), 1: Verdict(is_safe=True)}, rankings={"helpfulness": (0, 1)}
        )
        rulings.set_gold(store, ids[1], known, "Lena", NOW)
        rulings.set_gold(store, ids[2], Draft(rankings={"helpfulness": (0, 0)}), "Lena", NOW)
    # Ann: unsafe, safe, first: 3 of 3; a tie: 1 of 1. Bob: unsafe, unsafe, first: 2 of 3; no tie: 0 of 1.
    lena = site.browser("Lena")
    page = text_of(lena.get("/lead/gold").text)
    assert "Ann 100.0 % 4 2" in page and "Bob 50.0 % 4 2" in page
    assert "50.0 % n 4" in text_of(lena.get("/lead/people").text)
    assert "gold" not in site.browser("Ann").get("/label").text.lower()
    assert lena.submit(f"/lead/item/{ids[1]}/gold", f"/lead/item/{ids[1]}", remove="1").status_code == 303
    with site.store() as store:
        assert list(rulings.gold_answers(store)) == [ids[2]]


def test_count_right_compares_each_pair_of_a_ranking_once() -> None:
    gold = Draft(
        verdicts={0: Verdict(is_safe=True), 1: Verdict(is_safe=None)}, rankings={"helpfulness": (0, 1, 2)}
    )
    given = Draft(verdicts={0: Verdict(is_safe=False)}, rankings={"helpfulness": (0, 2, 1)})
    # one known verdict, wrong; pairs (0,1) and (0,2) right, (1,2) turned
    assert overview.count_right(gold, given) == (2, 4)
    assert overview.count_right(gold, Draft()) == (0, 0)


def test_an_invitation_shows_its_link_once(site: Site) -> None:
    lena = site.browser("Lena")
    page = lena.submit("/lead/people/invite", "/lead/people", name="Nia", role="labeller").text
    link = re.search(r'value="http://testserver(/join/[^"]+)"', page)
    assert link and link[1] not in lena.get("/lead/people").text
    nia = site.browser()
    assert nia.submit(link[1], link[1], password="").status_code == 303
    assert "Nia" in nia.get("/redteam").text
    with site.store() as store:
        assert link[1].rpartition("/")[2] not in str(journal.entries(store))


def test_erasing_a_name_needs_it_typed_and_leaves_the_labels(site: Site) -> None:
    label_four(site)
    lena = site.browser("Lena")
    form = {"name": "Ann", "action": "erase"}
    assert lena.submit("/lead/people/change", "/lead/people", **form, confirm="ann").status_code == 400
    assert lena.submit("/lead/people/change", "/lead/people", **form, confirm="Ann").status_code == 303
    for path in ("/lead/people", "/lead/progress", "/lead/audit", "/lead/agreement/labellers", "/lead/audit.csv"):
        assert "Ann" not in text_of(lena.get(path).text).replace("Anno", ""), path
    with site.store() as store:
        assert len(list(store.verdicts())) == 16
        assert people.person(store, "Ann") is None
        assert [entry.who for entry in journal.entries(store, what="erase")] == ["Lena"]
    assert lena.submit("/lead/people/change", "/lead/people", name="Lena", action="deactivate").status_code == 400


def test_two_leads_do_not_overwrite_each_others_guideline(site: Site) -> None:
    lena = site.browser("Lena")
    first = {"version": "1", "text": "# Be **careful**\r\n\r\nAlways."}
    assert lena.submit("/lead/guideline", "/lead/guideline", **first).status_code == 303
    late = lena.submit("/lead/guideline", "/lead/guideline", version="1", text="mine")
    assert late.status_code == 409
    page = lena.get("/lead/guideline").text
    assert "<strong>careful</strong>" in page and "Version 2" in page
    assert "Be **careful**" in page  # what to go on from, and what changed
    with site.store() as store:
        assert project.guideline(store).text == "# Be **careful**\n\nAlways.\n"


def test_the_log_filters_and_pages(site: Site) -> None:
    label_four(site)
    with site.store() as store:
        for number in range(120):
            journal.record(store, "Lena", "test", {"number": number}, NOW)
    lena = site.browser("Lena")
    page = lena.get("/lead/audit?what=test").text
    assert page.count("<tr>") == 101 and "before=" in page
    older = lena.get(re.search(r'href="(/lead/audit\?[^"]*before=[^"]+)"', page)[1].replace("&amp;", "&")).text  # type: ignore[index]
    assert older.count("<tr>") == 21
    assert "submit" in lena.get("/lead/audit?who=Bob").text
    assert lena.get("/lead/audit.csv").text.count("\n") > 120


def test_items_filter_by_state_text_set_labeller_and_flag(site: Site) -> None:
    with site.store() as store:
        store.add_items([*make_items("Alpha", "beta", source="x"), *make_items("gamma", source="y")])
        item = answer(store, "Ann", (True, True), (0, 1))
        queue.add_note(store, "Ann", item, "flag", "", NOW)
    lena = site.browser("Lena")

    def found(query: str) -> list[str]:
        page = lena.get(f"/lead/items?{query}").text
        return re.findall(r'<a href="/lead/item/\w+">(\w+)</a>', page)

    assert found("") == ["Alpha", "beta", "gamma"]
    assert found("state=begun") == found("flagged=1") == found("labeller=Ann") == ["Alpha"]
    assert found("state=untouched") == ["beta", "gamma"] and found("source=y") == ["gamma"]
    assert found("text=alpha") == ["Alpha"] and found(f"text={item}") == ["Alpha"] and found("text=%25") == []
    assert lena.get("/lead/items?state=lost").status_code == 400
    assert lena.get("/lead/items?from=-1").status_code == 400
