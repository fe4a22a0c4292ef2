"""What stands around a served project: a sign-in proxy, a second server, other projects, links, old databases."""

import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from web_client import NOW, Browser, Site, make_items, serving

from equipoise.annotate.store import people
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.annotate.store.schema import APPLICATION_ID, STEPS
from equipoise.annotate.web.app import build_app
from equipoise.annotate.web.config import ServeConfig
from equipoise.annotate.web.serve import serve
from equipoise.errors import StoreError

ANN, BOB = {"x-user": "Ann"}, {"x-user": "Bob"}
SAFE = ("safe 0", "safe 1", "rest helpfulness", "rest harmlessness")


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path / "project", behind_proxy="X-User") as site:
        yield site


def sessions(site: Site) -> int:
    with site.store() as store:
        return int(store.rows("SELECT count(*) FROM sessions")[0][0])


# ---- behind a sign-in proxy


def test_behind_a_proxy_a_forged_form_is_refused_although_the_proxy_names_the_person(proxied: Site) -> None:
    lead = {"x-user": "Lena"}
    form = {"name": "Mallory", "role": "lead"}
    victim = proxied.browser()
    victim.get("/lead/people", headers=lead)
    mine = Browser(proxied.app)
    other = mine.get("/redteam", headers=ANN).text.partition('name="csrf" value="')[2].partition('"')[0]
    assert other
    for browser in (victim, proxied.browser()):  # another site's form comes with the session's cookie, or without
        for csrf in ("", "guess", other):
            sent = browser.post("/lead/people/invite", data={**form, "csrf": csrf}, headers=lead)
            assert sent.status_code == 403
    with proxied.store() as store:
        assert people.person(store, "Mallory") is None


def test_behind_a_proxy_a_token_is_of_one_session_and_one_person(proxied: Site) -> None:
    browser = proxied.browser()
    page = browser.get("/options", headers=ANN).text
    csrf = page.partition('name="csrf" value="')[2].partition('"')[0]
    form = {"csrf": csrf, "theme": "dark"}
    assert browser.post("/options", data=form, headers=ANN).status_code == 200
    assert browser.post("/options", data=form, headers=BOB).status_code == 403  # the proxy names somebody else now
    assert "Bob" in browser.get("/options", headers=BOB).text


def test_a_session_prepared_behind_a_proxy_or_on_joining_is_not_taken_over(proxied: Site) -> None:
    cookie, attacker = proxied.app.state.cookie, proxied.browser("Bob")
    planted = attacker.cookies[cookie]
    victim = proxied.browser()
    victim.cookies.set(cookie, planted)
    assert "Ann" in victim.get("/options", headers=ANN).text
    assert not re.search(r"\bAnn\b", attacker.get("/options").text)
    with proxied.store() as store:
        link = f"/join/{people.invite(store, 'Nia', 'labeller', NOW)}"
    joining = proxied.browser()
    joining.cookies.set(cookie, planted)
    assert joining.submit(link, link, password="").status_code == 303
    with proxied.store() as store:
        assert people.session(store, planted, NOW) is None  # ended: it is nobody's


def test_a_proxy_names_people_in_utf_8_and_closed_or_unknown_accounts_stay_out(proxied: Site) -> None:
    with proxied.store() as store:
        people.invite(store, "Zoë", "labeller", NOW)
        people.set_active(store, "Bob", False, NOW)
    for name in ("Zoë", "Zoe\u0308"):
        named = {"x-user": name.encode()}
        assert proxied.browser().get("/", headers=named).headers["location"] == "/label"
    before = sessions(proxied)
    for name in ("Bob", "zoe", "", "x" * 5000, b"\xff\xfe"):
        answer = proxied.browser().get("/label", headers={"x-user": name})
        assert answer.status_code == 403 or answer.headers["location"] == "/signin"
    assert sessions(proxied) == before


def test_a_session_goes_on_from_page_to_page_behind_a_proxy(proxied: Site) -> None:
    browser = proxied.browser()
    for _ in range(5):
        assert browser.get("/options", headers=ANN).status_code == 200
    assert sessions(proxied) == 1


def test_behind_a_proxy_a_full_disk_is_not_taken_for_a_stranger(proxied: Site) -> None:
    client = proxied.browser()
    with proxied.store() as store:
        store.rows("CREATE TRIGGER full BEFORE INSERT ON sessions BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    refused = client.get("/label", headers=ANN)
    assert (
        refused.status_code == 400 and "disk is full" in refused.text and "not in this project" not in refused.text
    )
    assert "default-src 'none'" in refused.headers["content-security-policy"]


# ---- two servers, two projects


@contextmanager
def also_served(site: Site, path: Path | None = None) -> Iterator[Site]:
    """The same project by a second server."""
    app, clock = build_app(path or site.path, ServeConfig(), site.clock), site.clock
    with TestClient(app):
        yield Site(path or site.path, app, clock)


def label_next(browser: Browser) -> str:
    page = browser.get("/label").text
    item = page.partition('data-item="')[2].partition('"')[0]
    form = {"csrf": browser.token("/label"), "item": item, "at": "0", "step": SAFE, "send": "1"}
    assert not item or browser.post("/label", data=form).status_code == 303
    return item


def test_two_servers_on_one_project_hand_each_item_to_each_person_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "project")
    with serving(tmp_path / "project") as one:
        with one.store() as store:
            store.add_items(make_items(*(f"question {number}" for number in range(6))))
        with also_served(one, tmp_path / "link") as two:  # reached through a link: the same project, and cookies
            assert one.app.state.cookie == two.app.state.cookie
            browsers = [site.browser(name) for site in (one, two) for name in ("Ann", "Bob")]
            handed = [label_next(browser) for _ in range(3) for browser in browsers]
            assert len(handed) == 12 and len(set(handed)) == 6 and not any(map(label_next, browsers))
            ann = one.browser("Ann")
            elsewhere = Browser(two.app)
            elsewhere.cookies.update(ann.cookies)
            assert elsewhere.get("/options").status_code == 200
            ann.submit("/signout", "/options")
            assert elsewhere.get("/options").headers["location"] == "/signin"
        with one.store() as store:
            assert len(list(store.verdicts())) == 6 * 2 * 2


def test_two_projects_on_one_machine_share_no_session(tmp_path: Path) -> None:
    with serving(tmp_path / "a") as one, serving(tmp_path / "b") as two:
        assert one.app.state.cookie != two.app.state.cookie
        here, there = one.browser("Lena"), two.browser("Ann")
        both = {**dict(here.cookies), **dict(there.cookies)}
        for site, name in ((one, "Lena"), (two, "Ann")):
            browser = site.browser()
            browser.cookies.update(both)
            assert name in browser.get("/options").text
        thief = two.browser()
        thief.cookies.set(two.app.state.cookie, here.cookies[one.app.state.cookie])
        assert thief.get("/options").headers["location"] == "/signin"
        csrf = there.token("/options")
        assert here.post("/options", data={"csrf": csrf}).status_code == 403


# ---- what cannot be served, and what has to be brought up to date first


@contextmanager
def without_privileges() -> Iterator[None]:
    """Nothing can be written that nobody may write, for root as well."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_read_only_project_is_refused_in_words_before_anything_listens() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to nobody
        path = Path(folder) / "project"
        with serving(path):
            pass
        for one, mode in ((Path(folder), 0o755), (path, 0o555), (path / STORE_FILE, 0o444)):
            one.chmod(mode)
        with without_privileges(), pytest.raises(StoreError, match=r"cannot be opened.*(\n.*)*read-?only|unable"):
            serve(path, ServeConfig(port=0), NOW)
        path.chmod(0o755)


def test_serving_a_database_of_an_older_version_brings_it_up_to_date_and_keeps_a_copy(tmp_path: Path) -> None:
    """Schema 1 knew no people who sign in and no projects: it is brought up to date, then refused in words."""
    path = tmp_path / "project" / STORE_FILE
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as old:
        old.executescript(STEPS[0])
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        old.execute("PRAGMA user_version = 1")
        old.execute("INSERT INTO labellers (name, kind) VALUES ('ann', 'simulated')")
        old.commit()
    with pytest.raises(StoreError, match="belong to no project"):
        serve(path.parent, ServeConfig(port=0), NOW)
    with Store(path) as store:
        assert store.labellers() == {"ann": "simulated"} and people.people(store) == []
    copy = path.with_name(f"{STORE_FILE}.v1")
    with closing(sqlite3.connect(copy)) as kept:
        assert kept.execute("PRAGMA user_version").fetchone() == (1,)
        assert kept.execute("SELECT name FROM labellers").fetchall() == [("ann",)]


def test_a_project_of_a_newer_version_is_not_served_and_not_touched(tmp_path: Path) -> None:
    with serving(tmp_path / "project"):
        pass
    path = tmp_path / "project" / STORE_FILE
    with closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
        newer.execute("PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer version"):
        serve(path.parent, ServeConfig(port=0), NOW)
    assert path.read_bytes() == before and sorted(p.name for p in path.parent.iterdir()) == [STORE_FILE]
