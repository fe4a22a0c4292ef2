"""More attacks over HTTP: what belongs to others, impossible forms, strange requests, names."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from web_client import HASHED, NOW, Site, make_items, serving

from equipoise.annotate.labels import Draft, Item
from equipoise.annotate.store import people, queue
from equipoise.annotate.web import options
from equipoise.annotate.web.labelling import LONGEST_NOTE
from equipoise.annotate.web.moment import MOST_STEPS
from equipoise.errors import StoreError
from equipoise.records import Prompt, Verdict

ALL = ("unsafe 0", "unsafe 1", "rest helpfulness", "rest harmlessness")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("attacked") / "project") as site:
        yield site


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path / "project") as site:
        yield site


def kept(site: Site) -> list[Any]:
    """All that is kept about items and answers, but for leases, which looking renews."""
    tables = ("verdicts", "rankings", "revisions", "notes", "gold", "adjudications", "declined", "journal")
    with site.store() as store:
        rows: list[Any] = [store.rows(f"SELECT * FROM {table}") for table in tables]
        return [*rows, store.rows("SELECT item, labeller, state, draft, turn FROM assignments")]


POSTS = (
    ("/label", {"at": "0", "step": "unsafe 0"}),
    ("/label", {"at": "1", "step": "safe 1"}),
    ("/label", {"at": "0", "step": ALL, "send": "1"}),
    ("/label/undo", {"at": "0"}),
    ("/label/undo", {"at": "1"}),
    ("/label/undo", {"at": "4"}),
    ("/label/skip", {"reason": "mine now"}),
    ("/label/flag", {"text": "mine now"}),
    ("/label/comment", {"text": "mine now"}),
    ("/label/show", {"much": "this"}),
    ("/label/show", {"much": "all"}),
)


def test_another_persons_item_can_be_neither_changed_nor_told_from_none(own_site: Site) -> None:
    """Bob has finished one item, skipped one and has one in hand; Ann has none of these, and one of her own."""
    with own_site.store() as store:
        store.add_items(make_items("own", "done", "skipped", "open", "never handed out", responses=("1st", "2nd")))
        ids = [item.id for item in store.items()]
    ann = own_site.browser("Ann")
    assert ann.submit("/label", "/label", item=ids[0], at="0", step="unsafe 0").status_code == 303
    with own_site.store() as store:
        for item in ids[:4]:
            work = queue.take_item(store, "Bob", NOW)
            assert work is not None and work.item.id == item
            if item == ids[1]:
                verdicts = {0: Verdict(is_safe=False), 1: Verdict(is_safe=True)}
                answers = Draft(verdicts=verdicts, rankings={"helpfulness": (0, 1), "harmlessness": (1, 0)})
                queue.submit(store, "Bob", item, answers.labels(item, "Bob"), NOW)
            elif item != ids[3]:
                queue.skip(store, "Bob", item, "strange", NOW)
    csrf = ann.token("/label")
    before = kept(own_site)
    for path, fields in POSTS:
        answers_by = []
        for item in (*ids[1:], "0" * 32):
            refused = ann.post(path, data={"csrf": csrf, "item": item, **fields})
            assert refused.status_code in (400, 409) and "This item is not yours" in refused.text, (path, item)
            assert "set-cookie" not in refused.headers and "1st" in refused.text  # she sees her own item instead
            answers_by.append(refused.text.replace(item, "that item"))
        assert len(set(answers_by)) == 1, path  # whether it is there cannot be told
    for item in (*ids[1:], "0" * 32):
        assert ann.get(f"/label?item={item}").status_code == 409
        assert ann.get(f"/label/response?item={item}&place=0").status_code == 400
    assert kept(own_site) == before


@pytest.mark.parametrize(
    "fields",
    (
        {},
        {"step": ""},
        {"step": " "},
        {"step": "unsafe 2"},
        {"step": "unsafe -1"},
        {"step": "unsafe 0\x00"},
        {"step": "category 0 " + "x" * 100_000},
        {"step": ("safe 0", "category 0 privacy_violation")},
        {"step": ("safe 0", "unsafe 1", "pick harmlessness 1")},
        {"step": ("unsafe 0", "severity 0 2")},
        {"step": "unsafe 0", "send": "1"},
        {"step": ALL[:3], "send": "1"},
        {"send": "1"},
        {"step": ("unsafe 0", "category 0 privacy_violation", *["category 0 privacy_violation"] * 990)},
        {"at": "", "step": "unsafe 0"},
        {"at": "-1", "step": "unsafe 0"},
        {"at": "1", "step": "unsafe 0"},
        {"at": "0.0", "step": "unsafe 0"},
        {"at": "²", "step": "unsafe 0"},
        {"at": "9" * 5000, "step": "unsafe 0"},
    ),
)
def test_a_labelling_form_with_impossible_values_is_refused_and_changes_nothing(
    site: Site, fields: dict[str, Any]
) -> None:
    with site.store() as store:
        store.add_items(make_items("one item"))
    ann = site.browser("Ann")
    csrf, before = ann.token("/label"), kept(site)
    (item,) = (row[0] for row in site.store().rows("SELECT id FROM items"))
    steps = fields.get("step")
    if isinstance(steps, tuple) and len(steps) > 900:  # so many are fine once, and too many the second time
        sent = ann.post("/label", data={"csrf": csrf, "item": item, "at": "0", **fields})
        assert sent.status_code == 303
        before, fields = kept(site), {**fields, "at": "992", "step": steps[1:]}
        assert MOST_STEPS < 992 + 991
    refused = ann.post("/label", data={"csrf": csrf, "item": item, "at": "0", **fields})
    assert refused.status_code in (400, 409) and "Traceback" not in refused.text
    assert kept(site) == before
    with site.store() as store:
        store.rows("UPDATE assignments SET draft = NULL")


def test_a_step_that_is_a_file_is_none(site: Site) -> None:
    with site.store() as store:
        store.add_items(make_items("one item"))
    ann = site.browser("Ann")
    csrf, before = ann.token("/label"), kept(site)
    files = dict.fromkeys(("step", "item", "at"), ("unsafe 0", b"unsafe 0"))
    assert ann.post("/label", data={"csrf": csrf}, files=files).status_code in (400, 409)
    assert ann.post("/label", files={"csrf": ("csrf", csrf.encode())}).status_code == 403
    assert kept(site) == before


@pytest.mark.parametrize(("path", "name"), (("flag", "text"), ("comment", "text"), ("skip", "reason")))
def test_a_note_has_a_longest_length_so_that_nobody_fills_the_disk(site: Site, path: str, name: str) -> None:
    with site.store() as store:
        store.add_items(make_items("one item"))
    ann = site.browser("Ann")
    csrf = ann.token("/label")
    (item,) = (row[0] for row in site.store().rows("SELECT id FROM items"))
    before = kept(site)
    form = {"csrf": csrf, "item": item, name: "x" * (LONGEST_NOTE + 1)}
    assert ann.post(f"/label/{path}", data=form).status_code == 400
    assert kept(site) == before


def test_showing_what_cannot_be_an_item_sets_no_cookie(site: Site) -> None:
    ann = site.browser("Ann")
    csrf = ann.token("/label")
    for item in ("用", "é", "a\r\nset-cookie: x=1", "x" * 100_000, "all"):
        sent = ann.post("/label/show", data={"csrf": csrf, "item": item, "much": "this"})
        assert sent.status_code == 409 and "set-cookie" not in sent.headers


def test_a_mistake_of_ours_is_a_page_without_details_and_guarded_like_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(options, "option", broken)
    with site.store() as store:
        token = people.start_session(store, "Ann", NOW)
    ann = TestClient(site.app, raise_server_exceptions=False, cookies={site.app.state.cookie: token})
    failed = ann.get("/options")
    assert failed.status_code == 500 and "Something went wrong" in failed.text
    assert "swordfish" not in failed.text and "Error" not in failed.text
    assert "default-src 'none'" in failed.headers["content-security-policy"]
    assert failed.headers["cache-control"] == "no-store"


# ---- strange requests


@pytest.mark.parametrize(
    "host",
    (
        "x/join/",
        "x/signin",
        "x?",
        "x#",
        "x/signin?",
        "x\\signin",
        "a@b/join/",
        "[::1]/join/",
        "x:1/join/",
        "",
        "é",
    ),
)
def test_what_a_request_calls_its_host_opens_no_page(site: Site, host: str) -> None:
    named = {"host": host.encode()}
    for path in ("/lead/people", "/lead/audit.csv", "/label", "/redteam"):
        assert site.browser().get(path, headers=named).headers["location"] == "/signin"
    for path in ("/lead/people", "/lead/audit.csv"):
        assert site.browser("Ann").get(path, headers=named).status_code == 403


def test_a_hostile_host_stands_in_a_personal_link_as_text(site: Site) -> None:
    lena = site.browser("Lena")
    form = {"csrf": lena.token("/lead/people"), "name": "Nia", "role": "labeller"}
    page = lena.post("/lead/people/invite", data=form, headers={"host": 'x"><script>alert(1)</script>'})
    assert page.status_code == 200 and "<script>alert" not in page.text


@pytest.mark.parametrize("path", ("/lead%0a", "/lead/people%0a", "/lead/audit.csv%0A", "/leads", "/lead%00"))
def test_no_spelling_of_a_path_lets_a_labeller_in_with_the_leads(site: Site, path: str) -> None:
    assert site.browser("Ann").get(path).status_code == 403
    assert site.browser().get(path).headers["location"] == "/signin"
    for other in ("//lead/people", "/./lead/people", "/label/../lead/people", "/LEAD/people", "/lead;/people"):
        assert not re.search(r"\bBob\b", site.browser("Ann").get(other).text)


@pytest.mark.parametrize("method", ("OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "PROPFIND", "x" * 500))
def test_methods_that_nothing_uses_do_nothing(site: Site, method: str) -> None:
    before = kept(site)
    ann, stranger = site.browser("Ann"), site.browser()
    csrf = {"x-csrf-token": ann.token("/redteam")}
    for path in ("/label", "/label/skip", "/lead/people/invite", "/signout", "/nowhere"):
        assert stranger.request(method, path).headers["location"] == "/signin"
        assert ann.request(method, path).status_code == 403
        assert ann.request(method, path, headers=csrf).status_code in (403, 404, 405)
    assert ann.request(method, "/static/style.css").status_code == 405
    assert ann.get("/redteam").status_code == 200  # still signed in
    assert kept(site) == before


def test_asking_for_the_head_alone_is_guarded_and_has_no_body(site: Site) -> None:
    ann = site.browser("Ann")
    assert ann.head("/redteam").status_code == 200 and ann.head("/lead/people").status_code == 403
    assert site.browser().head("/redteam").headers["location"] == "/signin"
    for path in ("/signout", "/label/undo", "/lead/export"):
        assert site.browser("Lena").head(path).status_code in (404, 405)


@pytest.mark.parametrize("path", ("/label", "/lead/people", "/static/style.css", "/nowhere"))
def test_there_are_no_web_sockets(site: Site, path: str) -> None:
    for name in ("", "Lena"):
        with pytest.raises(WebSocketDisconnect), site.browser(name).websocket_connect(path):
            pass


# ---- names


@pytest.mark.parametrize(
    "name",
    (
        *("ann", "ANN", "Ａnn", "Ａｎｎ", "Аnn", "Ann\ufe0f", "A\u034fnn", "\u3164", "Ann\u200b", "Ann\u202e"),
        *("Ann\xa0", "Ann\x00", "Eve\r\nSet-Cookie: x=1", "Eve\n", "x" * 61),
    ),
)
def test_a_name_that_reads_as_another_or_holds_what_nobody_sees_is_refused(site: Site, name: str) -> None:
    lena = site.browser("Lena")
    with site.store() as store:
        before = people.people(store)
        with pytest.raises(StoreError):  # as the command line calls it
            people.invite(store, name, "labeller", NOW)
    if name == name.strip():  # forms are stripped
        form = {"name": name, "role": "labeller"}
        assert lena.submit("/lead/people/invite", "/lead/people", **form).status_code == 400
    with site.store() as store:
        assert people.people(store) == before


def test_an_accent_typed_either_way_is_one_name(own_site: Site) -> None:
    composed, apart = "Zo\u00eb", "Zoe\u0308"
    with own_site.store() as store:
        for name in (apart, "Ольга (Olga)", "Αλίκη", "Ann B.", "王伟"):
            token = people.invite(store, name, "labeller", NOW)
        people.accept_invite(store, people.invite(store, composed, "labeller", NOW), HASHED, NOW)
        assert [one.name for one in people.people(store) if one.name.startswith("Zo")] == [composed]
        assert token
    assert own_site.browser().sign_in(apart).status_code == 303
    assert own_site.browser().sign_in(composed).status_code == 303


def test_no_name_gets_into_a_header(own_site: Site) -> None:
    name = 'Eve"; x=1, <b>é</b>'
    lena = own_site.browser("Lena")
    invited = lena.submit("/lead/people/invite", "/lead/people", name=name, role="labeller")
    with own_site.store() as store:
        people.accept_invite(store, people.invite(store, name, "labeller", NOW), HASHED, NOW)
    eve = own_site.browser()
    answers = [invited, eve.sign_in(name), eve.get("/label"), lena.get(f"/lead/audit.csv?who={name}")]
    for response in answers:
        assert response.status_code < 400 and "Eve" not in str(response.headers)


def test_a_name_nobody_can_have_is_not_remembered_by_the_limits(site: Site) -> None:
    browser = site.browser()
    for name in ("x" * 500_000, "x" * 61):
        assert browser.sign_in(name).status_code == 400
    assert all(len(key) <= 60 for key in site.app.state.limits.account._events)


# ---- many categories


def test_fifty_categories_and_six_responses_are_one_form_like_any_other(tmp_path: Path) -> None:
    names = [f"harm number {number}" for number in range(48)] + ["-", "   "]
    path = tmp_path / "taxonomy.toml"
    path.write_text("".join(f"[[categories]]\nname = {name!r}\n" for name in names), encoding="utf-8")
    with serving(tmp_path / "project", {"taxonomy": str(path), "overlap": 1}) as site:
        item = Item(prompt=Prompt.from_text("six"), responses=tuple("abcdef"))
        with site.store() as store:
            store.add_items([item])
        ann, steps = site.browser("Ann"), [f"unsafe {at}" for at in range(6)]
        steps += [f"category {at} {name}" for at in range(6) for name in names]
        csrf = ann.token("/label")
        sent = ann.post("/label", data={"csrf": csrf, "item": item.id, "at": "0", "step": steps})
        assert sent.status_code == 303
        page = ann.get("/label").text
        assert all(f'value="category 5 {name}"' in page for name in names)
        done = ["rest helpfulness", "rest harmlessness"]
        form = {"csrf": csrf, "item": item.id, "at": str(len(steps)), "step": done, "send": "1"}
        assert ann.post("/label", data=form).status_code == 303
        with site.store() as store:
            assert [label.verdict.categories for label in store.verdicts()] == [tuple(names)] * 6
        lena = site.browser("Lena")
        gold = {f"category-{at}": names for at in range(6)} | {f"safety-{at}": "unsafe" for at in range(6)}
        form = {"csrf": lena.token("/lead/people"), **gold}
        assert lena.post(f"/lead/item/{item.id}/gold", data=form).status_code == 303
