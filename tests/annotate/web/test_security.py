"""Attacks on the web app over HTTP, each as somebody would try it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import Route
from web_client import NOW, Browser, Site, answer, make_items, serving

from equipoise.annotate.store import people
from equipoise.annotate.web.security import FAILURES_PER_ACCOUNT, Window

LEAD_PAGES = (
    "/lead",
    "/lead/progress",
    "/lead/agreement",
    "/lead/agreement/labellers",
    "/lead/items",
    "/lead/gold",
    "/lead/adjudicate",
    "/lead/people",
    "/lead/guideline",
    "/lead/audit",
    "/lead/audit.csv",
    "/lead/hits.jsonl",
    "/lead/prompts.jsonl",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("site") / "project") as site:
        yield site


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path / "project", posts_per_minute=20) as site:
        yield site


def test_every_page_but_signing_in_asks_who_it_is(site: Site) -> None:
    paths = [route.path for route in site.app.routes if isinstance(route, Route)]
    stranger = site.browser()
    for path in paths:
        path = path.replace("{item}", "0" * 16).replace("{number:int}", "1").replace("{token}", "none")
        if path.startswith(("/signin", "/join/")):
            continue
        assert stranger.get(path).headers.get("location") == "/signin", path
        assert stranger.post(path).headers.get("location") == "/signin", path


@pytest.mark.parametrize("path", LEAD_PAGES)
def test_a_labeller_sees_no_page_of_the_leads(site: Site, path: str) -> None:
    refused = site.browser("Ann").get(path)
    assert refused.status_code == 403 and not re.search(r"\bBob\b", refused.text)  # a token may hold these letters
    assert site.browser("Lena").get("/lead/people").status_code == 200


def test_no_change_below_lead_is_open_to_a_labeller_with_a_valid_token(site: Site) -> None:
    ann = site.browser("Ann")
    csrf = {"csrf": ann.token("/redteam")}
    for route in site.app.routes:
        if isinstance(route, Route) and route.path.startswith("/lead") and "POST" in (route.methods or ()):
            path = route.path.replace("{item}", "0" * 16)
            assert ann.post(path, data=csrf).status_code == 403, path
    invited = ann.post("/lead/people/invite", data={**csrf, "name": "Eve", "role": "lead"})
    assert invited.status_code == 403
    with site.store() as store:
        assert people.person(store, "Eve") is None


def test_a_change_without_this_sessions_token_is_refused(site: Site) -> None:
    lena, ann = site.browser("Lena"), site.browser("Ann")
    form = {"name": "Mallory", "role": "lead"}
    foreign = ann.token("/redteam")
    for csrf in ({}, {"csrf": ""}, {"csrf": "guess"}, {"csrf": foreign}, {"csrf": "é"}):
        assert lena.post("/lead/people/invite", data={**form, **csrf}).status_code == 403
    mine = lena.token("/lead/people")
    sent = lena.post("/lead/people/invite", data={**form, "csrf": mine}, headers={"sec-fetch-site": "cross-site"})
    assert sent.status_code == 403
    with site.store() as store:
        assert people.person(store, "Mallory") is None
    assert lena.post("/lead/people/invite", data=form, headers={"x-csrf-token": mine}).status_code == 200


def test_signing_in_is_guarded_against_forged_forms_too(site: Site) -> None:
    victim = site.browser()
    assert victim.post("/signin", data={"name": "Ann", "password": "correct horse"}).status_code == 403
    victim.get("/signin")
    assert victim.post("/signin", data={"csrf": "x" * 43, "name": "Ann"}).status_code == 403


def test_a_session_prepared_by_somebody_else_is_not_taken_over(site: Site) -> None:
    prepared = "attacker-chose-this-token-attacker-chose-this"
    victim = site.browser()
    victim.cookies.set(site.app.state.cookie, prepared)
    assert victim.sign_in("Bob").status_code == 303
    assert victim.cookies.get(site.app.state.cookie, domain="testserver.local", path="/") != prepared
    attacker = site.browser()
    attacker.cookies.set(site.app.state.cookie, prepared)
    assert attacker.get("/").headers["location"] == "/signin"


def test_signing_in_ends_the_session_that_the_browser_had(site: Site) -> None:
    browser = site.browser("Ann")
    old = browser.cookies[site.app.state.cookie]
    csrf = browser.token("/redteam")
    assert (
        browser.post("/signin", data={"csrf": csrf, "name": "Bob", "password": "correct horse"}).status_code == 303
    )
    with site.store() as store:
        assert people.session(store, old, NOW) is None


def test_signing_out_ends_the_session_on_the_server(site: Site) -> None:
    browser = site.browser("Ann")
    token = browser.cookies[site.app.state.cookie]
    assert browser.submit("/signout", "/redteam").headers["location"] == "/signin"
    thief = site.browser()
    thief.cookies.set(site.app.state.cookie, token)
    assert thief.get("/redteam").headers["location"] == "/signin"


def test_cookies_cannot_be_read_by_scripts_or_used_by_other_sites(site: Site) -> None:
    browser = site.browser()
    for response in (browser.get("/signin"), browser.sign_in("Ann")):
        cookie = response.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
        assert "Secure" not in cookie  # plain HTTP on loopback
    secure = Browser(site.app)
    secure.base_url = "https://testserver"
    assert "Secure" in secure.get("/signin").headers["set-cookie"]


def test_no_page_can_be_framed_sniffed_cached_or_run_foreign_code(site: Site) -> None:
    browser = site.browser("Lena")
    for path in ("/", "/signin", "/lead/people", "/nowhere", "/static/label.js", "/static/nowhere"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer" and "server" not in headers
        assert headers["cache-control"] == ("no-cache" if path.startswith("/static") else "no-store")


@pytest.mark.parametrize(
    "path",
    (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/" + "a" * 5000,
    ),
)
def test_static_files_are_those_of_one_directory(site: Site, path: str) -> None:
    response = site.browser().get(path)
    assert (
        response.status_code in (303, 404)
        and "def build_app" not in response.text
        and "root:" not in response.text
    )


def test_too_many_wrong_passwords_close_one_account_for_a_while_and_no_other(own_site: Site) -> None:
    browser = own_site.browser()
    csrf = browser.token("/signin")
    wrong = {"csrf": csrf, "name": "Ann", "password": "wrong"}
    answers = [browser.post("/signin", data=wrong).status_code for _ in range(FAILURES_PER_ACCOUNT + 1)]
    assert answers == [403] * FAILURES_PER_ACCOUNT + [429]
    right = {**wrong, "password": "correct horse"}
    refused = browser.post("/signin", data=right)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 500
    assert own_site.browser(address="10.0.0.9").sign_in("Ann").status_code == 429  # from anywhere
    assert browser.post("/signin", data={**right, "name": "Bob"}).status_code == 303
    own_site.clock.now += 601
    assert own_site.browser().sign_in("Ann").status_code == 303


def test_an_unknown_name_and_a_wrong_password_read_the_same(site: Site) -> None:
    browser = site.browser()
    unknown, wrong = browser.sign_in("Nobody", "wrong"), browser.sign_in("Bob", "wrong")
    assert (unknown.status_code, wrong.status_code) == (403, 403)
    assert unknown.text == wrong.text


def test_a_flood_of_changes_from_one_account_is_refused_and_others_go_on(own_site: Site) -> None:
    lena = own_site.browser("Lena")
    form = {"name": "New", "role": "labeller", "csrf": lena.token("/lead/people")}
    codes = [lena.post("/lead/people/invite", data=form).status_code for _ in range(22)]
    assert codes == [200] * 20 + [429] * 2
    ann = own_site.browser("Ann")
    assert ann.submit("/redteam", "/redteam").status_code == 404  # no policy is served: it got that far
    own_site.clock.now += 61
    assert lena.post("/lead/people/invite", data=form).status_code == 200


def test_a_window_forgets_when_the_clock_goes_backwards() -> None:
    window = Window(1, 60)
    window.add("key", 1000)
    assert window.wait("key", 1010) == 50
    assert window.wait("key", 900) == 0  # 1000 lies ahead: nobody is locked out until then


def test_a_window_keeps_a_bounded_number_of_keys() -> None:
    window = Window(1, 60)
    for number in range(20_000):
        window.add(str(number), 0)
    assert len(window._events) == 10_000 and window.wait("19999", 1) > 0


def test_a_body_that_is_too_large_is_refused_before_it_is_read(site: Site) -> None:
    lena = site.browser("Lena")
    csrf = lena.token("/lead/guideline")
    form = {"csrf": csrf, "version": "1", "text": "x" * 10_000_000}
    assert lena.post("/lead/guideline", data=form).status_code == 413
    chunks = (b"csrf=" + b"x" * 100_000 for _ in range(50))
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert lena.post("/lead/guideline", content=chunks, headers=headers).status_code == 413
    assert site.browser().post("/signin", data={"name": "x" * 2_000_000}).status_code == 413


def test_a_forged_proxy_header_signs_nobody_in(site: Site, tmp_path: Path) -> None:
    forged = {"x-forwarded-user": "Lena", "x-forwarded-for": "127.0.0.1"}
    assert site.browser().get("/", headers=forged).headers["location"] == "/signin"  # no proxy in the settings
    with serving(tmp_path / "proxied", behind_proxy="X-Forwarded-User") as proxied:
        outside = proxied.browser(address="10.1.2.3")
        assert outside.get("/", headers=forged).headers["location"] == "/signin"


def test_behind_a_proxy_its_header_names_the_person(tmp_path: Path) -> None:
    with serving(tmp_path / "project", behind_proxy="X-Forwarded-User") as site:
        browser = site.browser()
        as_lena = {"x-forwarded-user": "Lena", "x-forwarded-proto": "https"}
        first = browser.get("/", headers=as_lena)
        assert first.headers["location"] == "/lead/progress" and "Secure" in first.headers["set-cookie"]
        other = site.browser("Ann").get("/", headers=as_lena)  # the proxy's word counts, not an older cookie
        assert other.headers["location"] == "/lead/progress"
        stranger = site.browser().get("/", headers={"x-forwarded-user": "<b>Zoe</b>"})
        assert stranger.status_code == 403 and "&lt;b&gt;Zoe" in stranger.text
        twice = site.browser().get("/", headers=[("x-forwarded-user", "Lena"), ("x-forwarded-user", "Ann")])
        assert twice.headers["location"] == "/signin"


def test_a_personal_link_works_once_and_looking_does_not_use_it_up(site: Site) -> None:
    with site.store() as store:
        token = people.invite(store, "Nia", "labeller", NOW)
    nia = site.browser()
    assert nia.get(f"/join/{token}").status_code == 200 == nia.get(f"/join/{token}").status_code
    assert nia.submit(f"/join/{token}", f"/join/{token}", password="short").status_code == 400
    assert nia.submit(f"/join/{token}", f"/join/{token}", password="").headers["location"] == "/"
    assert nia.get("/redteam").status_code == 200
    assert site.browser().get(f"/join/{token}").status_code == 410
    assert site.browser().get("/join/guess").status_code == 410


def test_a_closed_account_is_out_at_once(own_site: Site) -> None:
    ann, lena = own_site.browser("Ann"), own_site.browser("Lena")
    assert ann.get("/redteam").status_code == 200
    change = lena.submit("/lead/people/change", "/lead/people", name="Ann", action="deactivate")
    assert change.status_code == 303
    assert ann.get("/redteam").headers["location"] == "/signin"
    assert own_site.browser().sign_in("Ann").status_code == 403


def test_a_labeller_reads_no_other_labellers_name_or_label(own_site: Site) -> None:
    with own_site.store() as store:
        store.add_items(make_items("first", "second"))
        item = answer(store, "Bob", (True, False), (0, 1))
    ann = own_site.browser("Ann")
    for path in ("/label", "/redteam", "/", f"/lead/item/{item}", "/nowhere"):
        text = ann.get(path).text
        assert not re.search(r"\b(Bob|Lena)\b", text)


def test_a_broken_form_is_refused_in_words(site: Site) -> None:
    lena = site.browser("Lena")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"no boundary at all", b"--x\r\nnonsense\r\n\r\n"):
        assert lena.post("/lead/import", content=body, headers=headers).status_code in (400, 403)
    many = "&".join(f"f{number}=1" for number in range(2000))
    plain = {"content-type": "application/x-www-form-urlencoded"}
    assert lena.post("/lead/guideline", content=many, headers=plain).status_code == 400


def test_a_forged_host_opens_no_page(site: Site) -> None:
    stranger, ann = site.browser(), site.browser("Ann")
    for host in ("here/signin?", "here/join/x#", "here/static/"):
        for path in ("/lead/audit.csv", "/lead/progress", "/options"):
            assert stranger.get(path, headers={"host": host}).headers.get("location") == "/signin", (host, path)
        assert ann.get("/lead/audit.csv", headers={"host": host}).status_code == 403, host
