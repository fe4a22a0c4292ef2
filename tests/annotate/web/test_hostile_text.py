"""Hostile text in every place where somebody can write some, and every page that might show it."""

from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient
from web_client import NOW, Clock, Site, answer, draft

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.labels import Item
from equipoise.annotate.store import chats, people, project, queue, rulings
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.annotate.web.app import build_app
from equipoise.annotate.web.config import RedteamPolicy, ServeConfig
from equipoise.records import Prompt

EVIL = (
    "</textarea></title><script>alert(1)</script><img src=//x.example/b onerror=alert(1)>\"'><svg onload=alert(1)>"
)
SHORT = "\"'><img src=x onerror=alert(1)><script>"
TAXONOMY = "[[categories]]\nname = '''privacy_violation'''\n[[categories]]\nname = '''{0}'''\ntitle = '''{0}'''\n"


class ActiveContent(HTMLParser):
    """Collects everything in a page that runs, styles inline, or loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            address = (value or "").strip().lower()
            outside = name in ("src", "href", "action", "formaction", "data", "poster", "srcset") and not (
                address.startswith(("/", "#", "data:,")) and not address.startswith("//")
            )
            if name.startswith("on") or name == "style" or outside:
                self.found.append(f"<{tag} {name}={value!r}>")
        if tag == "script" and not dict(attrs).get("src"):
            self.found.append("<script>")
        if tag in ("style", "iframe", "object", "embed", "base"):
            self.found.append(f"<{tag}>")


def active(html: str) -> list[str]:
    parser = ActiveContent()
    parser.feed(html)
    return parser.found


def test_the_checker_sees_what_it_should() -> None:
    assert active(f"<p>{EVIL}</p>") == [
        "<script>",
        "<img src='//x.example/b'>",
        "<img onerror='alert(1)'>",
        "<svg onload='alert(1)'>",
    ]
    assert active('<a href="javascript:x">') and active('<p style="a">') and not active('<a href="/lead">')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A project in which everything that can be text is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "taxonomy.toml").write_text(TAXONOMY.format(EVIL.replace('"', "")[:90]), encoding="utf-8")
    config = ProjectConfig(title=EVIL, overlap=1, gold_share=0, taxonomy=str(folder / "taxonomy.toml"))
    project.create_project(folder / "project", config, NOW)
    with Store(folder / "project" / STORE_FILE) as store:
        for name in ("Lena", SHORT):
            role: people.Role = "lead" if name == "Lena" else "labeller"
            people.accept_invite(store, people.invite(store, name, role, NOW), None, NOW)
        messages = [{"role": "system", "content": EVIL}, {"role": "user", "content": f"{EVIL} {{0}}"}]
        for number in range(3):
            prompt = Prompt.model_validate({"messages": messages, "category": EVIL})
            prompt = Prompt.model_validate(
                {**prompt.model_dump(), "messages": [*messages, {"role": "user", "content": f"{EVIL}{number}"}]}
            )
            store.add_items(
                [Item(prompt=prompt, responses=(EVIL, f"[x](javascript:alert(1)) {EVIL}"), source=EVIL)]
            )
        item = answer(store, SHORT, (True, False), (0, 1))
        queue.add_note(store, SHORT, item, "flag", EVIL, NOW)
        work = queue.take_item(store, SHORT, NOW)
        assert work is not None
        queue.skip(store, SHORT, work.item.id, EVIL, NOW)
        queue.undo(store, SHORT, NOW)
        rulings.set_gold(store, work.item.id, draft(True, False), "Lena", NOW)
        project.save_guideline(store, EVIL, "Lena", NOW)
        number = chats.start_chat(store, SHORT, EVIL, NOW)
        said = (chats.Turn(role="user", content=EVIL), chats.Turn(role="assistant", content=EVIL, cost=1.0))
        chats.add_turns(store, SHORT, number, said, NOW)
        chats.mark_hit(store, SHORT, number, chats.Hit(turn=1, category="privacy_violation", comment=EVIL), NOW)
    policy = RedteamPolicy(url="http://127.0.0.1:9/v1", model=EVIL)
    clock = Clock()
    app = build_app(folder / "project", ServeConfig(policy=policy), clock)
    with TestClient(app):
        yield Site(folder / "project", app, clock, item)


QUERY = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E%3Cimg%20src=x%20onerror=alert(1)%3E"
PAGES = (
    "/",
    "/lead/progress",
    "/lead/agreement?whom=everybody",
    "/lead/agreement/labellers?question=safety",
    "/lead/items",
    f"/lead/items?text={QUERY}&source={QUERY}&labeller={QUERY}&one={QUERY}&other={QUERY}&question=category:{QUERY}",
    f"/lead/items?state={QUERY}",
    f"/lead/items?from={QUERY}",
    "/lead/item/{item}",
    f"/lead/item/{QUERY}",
    "/lead/gold",
    "/lead/adjudicate",
    "/lead/people",
    "/lead/guideline",
    f"/lead/guideline?version={QUERY}",
    "/lead/audit",
    f"/lead/audit?who={QUERY}&what={QUERY}",
    "/redteam",
    "/redteam/1",
    "/label",
    f"/{QUERY}",
    f"/join/{QUERY}",
)


@pytest.mark.parametrize("name", ("Lena", SHORT, ""))
def test_no_page_runs_or_loads_what_somebody_wrote(site: Site, name: str) -> None:
    browser = site.browser(name)
    shown = 0
    for path in PAGES:
        response = browser.get(path.replace("{item}", site.item), follow_redirects=True)
        assert response.status_code < 500, path
        assert active(response.text) == [], path
        shown += "alert(1)" in response.text
    assert shown > (10 if name == "Lena" else 3)  # it is there, and does nothing


def test_a_refused_form_shows_what_was_sent_as_text(site: Site) -> None:
    lena = site.browser("Lena")
    sent = (
        ("/lead/people/invite", {"name": f"{SHORT} ", "role": EVIL}),
        ("/lead/people/invite", {"name": f"erased-{SHORT}"[:60], "role": "lead"}),
        ("/lead/people/change", {"name": SHORT, "action": EVIL}),
        ("/lead/guideline", {"text": EVIL, "version": EVIL}),
        ("/redteam/1/say", {"question": EVIL, "turns": "2"}),
    )
    for path, fields in sent:
        response = lena.submit(path, "/lead/people", **fields)
        assert 400 <= response.status_code < 500 and active(response.text) == [], path
        assert active(lena.post(path, data={"csrf": "no", **fields}).text) == []


def test_the_log_as_a_table_starts_no_formula(site: Site) -> None:
    with site.store() as store:
        people.invite(store, "=1+1", "labeller", NOW)
        people.accept_invite(store, people.invite(store, "=1+1", "labeller", NOW), None, NOW)
    response = site.browser("Lena").get("/lead/audit.csv")
    assert (
        response.headers["content-type"].startswith("text/csv")
        and "attachment" in response.headers["content-disposition"]
    )
    assert ",'=1+1," in response.text and ",=1+1," not in response.text
