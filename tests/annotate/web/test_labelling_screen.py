"""The labeller's screen in a real browser: Debian's Chromium, driven by Playwright, against a server on loopback."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.labels import Item
from equipoise.annotate.store import people
from equipoise.annotate.store import project as projects
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.annotate.web.app import build_app
from equipoise.annotate.web.config import ServeConfig
from equipoise.annotate.web.serve import address_of, listen
from equipoise.records import Prompt

CHROMIUM = Path("/usr/bin/chromium")
PAIRS = Path(os.environ.get("EQUIPOISE_REAL_DATA", "")) / "pku_safe_rlhf/pairs_32.json"
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium")
PATIENCE = 30_000  # milliseconds: the machine may be busy with other things
PASSWORD = "correct horse"  # noqa: S105


@dataclass
class Desk:
    """A served project, and what a labeller did there."""

    url: str
    link: str
    folder: Path
    now: list[float]
    context: BrowserContext | None = None
    keys: int = 0
    elsewhere: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def open(self, page: Page) -> Page:
        """Watch what the page asks for, and what goes wrong in it."""
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda r: r.url.startswith((self.url, "data:")) or self.elsewhere.append(r.url))
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("dialog", lambda dialog: (self.trouble.append(dialog.message), dialog.dismiss()))
        return page

    def join(self, page: Page) -> Page:
        """Sign in by the personal link."""
        page.goto(self.link)
        page.get_by_role("button", name="Start").click()
        page.wait_for_selector("#panel")
        page.wait_for_load_state()  # the script that hears the keys
        return page

    def press(self, page: Page, *keys: str) -> None:
        """Press keys one after the other, as fast as they come."""
        for key in keys:
            page.keyboard.press(key)
        self.keys += len(keys)

    def store(self) -> Store:
        return Store(self.folder / STORE_FILE, read_only=True)

    def shown(self, item: str) -> tuple[int, ...]:
        with closing(self.store()) as store:
            return next(a.shown for a in store.assignments() if a.item == item)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def desk_of(tmp_path: Path, browser: Browser) -> Iterator[Callable[..., Desk]]:
    """Serve a project with these items; everything stops after the test, and nothing may have gone wrong."""
    desks = list[tuple[Desk, uvicorn.Server, threading.Thread]]()

    def start(items: list[Item], **settings: object) -> Desk:
        folder = tmp_path / "project"
        projects.create_project(folder, ProjectConfig.model_validate(settings), time.time())
        with Store(folder / STORE_FILE) as store:
            store.add_items(items)
            token = people.invite(store, "Ann", "labeller", time.time())
        now, listener = [0.0], listen("127.0.0.1", 0)
        app = build_app(folder, ServeConfig(), clock=lambda: time.time() + now[0])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = address_of(listener)
        desks.append((Desk(url, f"{url}/join/{token}", folder, now), server, thread))
        return desks[-1][0]

    yield start
    for context in browser.contexts:
        context.close()
    for desk, server, thread in desks:
        server.should_exit = True
        thread.join(10)
        assert desk.elsewhere == [] and desk.trouble == []


def pair(number: int, **prompt: str) -> Item:
    return Item(
        prompt=Prompt.from_text(f"Question {number}", **prompt),
        responses=(f"First answer to {number}", f"Second answer to {number}"),
    )


def item_of(page: Page) -> str:
    return page.locator("#work").get_attribute("data-item") or ""


@contextmanager
def next_item(page: Page) -> Iterator[str]:
    """What is done inside finishes the item."""
    item = item_of(page)
    yield item
    page.wait_for_function("item => document.querySelector('#work').dataset.item !== item", arg=item)


def keys_for(shown: tuple[int, ...], safe: tuple[bool, bool], better: int, safer: int) -> list[str]:
    """What a labeller presses who holds these views; positions are the item's own."""
    verdicts = ["s" if safe[position] else "u" for position in shown]
    rankings = [str(shown.index(better) + 1)] + ([str(shown.index(safer) + 1)] if safe[0] == safe[1] else [])
    return verdicts + rankings


def views_of(number: int) -> tuple[tuple[bool, bool], int, int]:
    """Made-up views on pair `number`: every combination comes up, and they agree with themselves."""
    safe = (number % 2 == 0, number % 4 < 2)
    safer = number % 3 % 2 if safe[0] == safe[1] else safe.index(True)
    return safe, number % 5 % 2, safer


def labels_in(desk: Desk) -> dict[str, tuple[tuple[bool | None, ...], dict[str, tuple[int, ...]]]]:
    """Item → verdicts by position, ranks by question."""
    with closing(desk.store()) as store:
        found = {item.id: ([None] * len(item.responses), dict[str, tuple[int, ...]]()) for item in store.items()}
        for verdict in store.verdicts():
            found[verdict.item][0][verdict.position] = verdict.verdict.is_safe
        for ranking in store.rankings():
            found[ranking.item][1][ranking.question] = ranking.ranks
    return {item: (tuple(verdicts), rankings) for item, (verdicts, rankings) in found.items()}


def expected(safe: tuple[bool, bool], better: int, safer: int) -> tuple[object, object]:
    ranks = {0: (0, 1), 1: (1, 0)}
    return safe, {"helpfulness": ranks[better], "harmlessness": ranks[safer]}


def test_twenty_pairs_by_keyboard_alone(desk_of: Callable[..., Desk], browser: Browser) -> None:
    items = [pair(number) for number in range(21)]
    views = {item.id: views_of(number) for number, item in enumerate(items)}
    desk = desk_of(items, overlap=1, gold_share=0)
    page = desk.open(browser.new_page())

    page.goto(desk.link)  # a password on joining, then out, and in again with it
    page.get_by_label("Password").focus()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("Ann")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel")
    page.wait_for_load_state()  # the script that hears the keys

    skipped, per_pair = "", list[int]()
    for number in range(21):
        item = item_of(page)
        keys = keys_for(desk.shown(item), *views[item])
        if number == 3:  # the first tries are wrong: undo step by step, and after sending
            desk.press(page, "u", "u", "Backspace", "Backspace")
            with next_item(page):
                desk.press(page, *("u", "u", "0", "0"))
            desk.press(page, "Backspace")
            page.wait_for_selector(f"#work[data-item='{item}']")
            desk.press(page, *["Backspace"] * 3)
        if number == 5:
            with next_item(page):
                desk.press(page, "Shift+S", "1")
            skipped = item
            continue
        if number == 7:
            desk.press(page, "Shift+F")
            page.keyboard.type("strange")
            page.keyboard.press("Control+Enter")
            expect(page.locator(".said")).to_have_text("Flag kept.")
        if number == 9:  # a reload in the middle
            desk.press(page, *keys[:2])
            expect(page.locator(".response[data-verdict='']")).to_have_count(0)
            page.reload()
            keys = keys[2:]
        with next_item(page):
            before = desk.keys
            desk.press(page, *keys)
        if number not in (3, 9):
            per_pair.append(desk.keys - before)
    expect(page.get_by_role("heading", name="Nothing is left for you now")).to_be_visible()

    assert len(per_pair) == 18 and set(per_pair) == {3, 4}
    answered = {item: labels for item, labels in labels_in(desk).items() if item != skipped}
    assert answered == {item: expected(*view) for item, view in views.items() if item != skipped}
    assert labels_in(desk)[skipped] == ((None, None), {})
    with closing(desk.store()) as store:
        notes = store.rows("SELECT kind, text FROM notes ORDER BY kind")
    assert notes == [("flag", "strange"), ("skip", "I cannot judge this")]


def test_categories_take_one_key_each_and_severity_one(desk_of: Callable[..., Desk], browser: Browser) -> None:
    desk = desk_of([pair(0)], overlap=1, gold_share=0, taxonomy="pku19", severity=True)
    page = desk.join(desk.open(browser.new_page()))
    shown = desk.shown(item_of(page))
    key = {
        name: page_key
        for name, page_key in zip(
            *(re.findall(pattern, _categories(page, desk)) for pattern in (r"category 0 ([\w -]+)=", r"=(\w)")),
            strict=True,
        )
    }
    assert len(key) == len(set(key.values())) == 19
    desk.press(page, "2", key["Violence"], key["Drugs"], key["Drugs"], key["Animal Abuse"], "s")
    with next_item(page):
        desk.press(page, "1")
    with closing(desk.store()) as store:
        verdicts = {label.position: label.verdict for label in store.verdicts()}
    assert verdicts[shown[0]].categories == ("Violence", "Animal Abuse") and verdicts[shown[0]].severity == 2
    assert verdicts[shown[1]].is_safe and verdicts[shown[1]].severity == 0


def _categories(page: Page, desk: Desk) -> str:
    desk.press(page, "u")
    page.wait_for_selector(".category")
    buttons = page.locator(".category").all()
    return "\n".join(f"{one.get_attribute('value')}={one.get_attribute('data-key')}" for one in buttons)


def test_an_order_that_verdicts_settle_is_filled_in_and_explained(
    desk_of: Callable[..., Desk], browser: Browser
) -> None:
    item = Item(prompt=Prompt.from_text("Four"), responses=("one", "two", "three", "four"))
    desk = desk_of([item], overlap=1, gold_share=0)
    page = desk.join(desk.open(browser.new_page()))
    shown = desk.shown(item.id)
    desk.press(page, "s", "u", "s", "u", "2", "=", "3", "0")  # helpfulness: B = C, then A = D
    harmlessness = page.get_by_role("group", name="Harmlessness")
    expect(harmlessness).to_contain_text("A and C are safe and B and D are not: safe always ranks before unsafe.")
    desk.press(page, "2")
    expect(page.get_by_role("alert").first).to_contain_text("B is unsafe, so it comes after every safe response.")
    with next_item(page):
        desk.press(page, "3", "0")  # C, then A; B = D
    verdicts, rankings = labels_in(desk)[item.id]
    assert [verdicts[position] for position in shown] == [True, False, True, False]
    assert [rankings["helpfulness"][position] for position in shown] == [1, 0, 0, 1]
    assert [rankings["harmlessness"][position] for position in shown] == [1, 2, 0, 2]


HOSTILE = (
    "<script>window.hacked = 1; fetch('https://evil.example/a')</script><img src='https://evil.example/b' "
    "onerror='window.hacked = 1'> ![x](https://evil.example/c.png) [go](javascript:window.hacked=1) "
    "<https://evil.example/d> <style>body{display:none}</style><iframe src='//evil.example/e'></iframe>"
    "<meta http-equiv=refresh content='0;url=https://evil.example/f'></div></main></body>",
    "\u202egnp.exe\x00\x1b[2J \ud7ff \u05d0\u05d1\u05d2 "
    + "\u0301" * 500
    + "\n"
    + "A" * 5000
    + "\n"
    + "many words " * 900_000,
)


def test_a_hostile_response_can_do_nothing(desk_of: Callable[..., Desk], browser: Browser) -> None:
    item = Item(prompt=Prompt.from_text(HOSTILE[0]), responses=HOSTILE)
    desk = desk_of([item], overlap=1, gold_share=0)
    page = desk.join(desk.open(browser.new_page()))
    assert page.evaluate("window.hacked") is None
    assert "evil.example" in page.locator(".responses").inner_text()
    assert page.locator("#work :is(script, img, iframe, style, meta, a[href*=evil])").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "characters are not on this page" in page.locator(".responses").inner_text()
    whole = page.request.get(desk.url + (page.locator("a:has-text('plain text')").get_attribute("href") or ""))
    assert whole.headers["content-type"].startswith("text/plain") and len(whole.text()) > 9_000_000
    with next_item(page):
        desk.press(page, "u", "u", "0", "0")  # desk_of checks that no request left and no script ran


def test_two_tabs_on_one_item(desk_of: Callable[..., Desk], browser: Browser) -> None:
    desk = desk_of([pair(0), pair(1)], overlap=1, gold_share=0)
    context = browser.new_context()
    one, two = desk.open(context.new_page()), desk.open(context.new_page())
    desk.join(one)
    two.goto(f"{desk.url}/label")
    first = item_of(one)
    assert item_of(two) == first
    desk.press(one, "u")
    expect(one.locator("[data-badges='unsafe,']")).to_be_visible()
    desk.press(two, "s")
    expect(two.get_by_role("alert").first).to_contain_text("changed meanwhile, perhaps in another tab")
    expect(two.locator("[data-badges='unsafe,']")).to_be_visible()
    desk.press(two, "s")
    with next_item(two):
        desk.press(two, "1")
    desk.press(one, "s")
    expect(one.get_by_role("alert").first).to_contain_text("You have finished this item already.")
    assert item_of(one) == item_of(two) != first
    assert labels_in(desk)[first][1] != {}


def test_blur_break_and_declined_categories(desk_of: Callable[..., Desk], browser: Browser) -> None:
    category = "animal_abuse"
    items = [pair(0, kind="harmful"), pair(1), pair(2), pair(3, category=category)]
    desk = desk_of(items, overlap=1, gold_share=0)
    page = desk.join(desk.open(browser.new_page()))
    assert item_of(page) == items[0].id
    expect(page.locator("[data-blurred] .text[inert]")).to_have_count(2)
    desk.press(page, "s")
    expect(page.get_by_role("alert").first).to_contain_text("still blurred")
    desk.press(page, "Shift+V")
    expect(page.locator("[data-blurred]")).to_have_count(0)
    with next_item(page):
        desk.press(page, "s", "s", "0", "0")
    for _ in range(8):
        desk.now[0] += 420
        page.reload()
        desk.press(page, "s", "Backspace")
    with next_item(page):
        desk.press(page, "s", "s", "0", "0")
    desk.press(page, "Shift+O")
    page.get_by_label("Animal abuse").check()
    page.get_by_role("group", name="Colors").get_by_label("dark").check()
    page.get_by_role("button", name="Keep").click()
    expect(page.locator("html[data-theme=dark]")).to_have_count(1)
    page.get_by_role("link", name="Back to labelling").click()
    page.wait_for_load_state()
    with next_item(page):
        desk.press(page, "s", "s", "0", "0")
    expect(page.locator("#panel")).to_contain_text("apart from the categories you declined")
    assert labels_in(desk)[items[3].id] == ((None, None), {})


def test_a_phone_by_touch_without_keys(desk_of: Callable[..., Desk], browser: Browser) -> None:
    desk = desk_of([pair(0)], overlap=1, gold_share=0)
    phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = desk.join(desk.open(phone.new_page()))
    for words in ("Unsafe", "Hate speech, offensive language"):
        page.locator(".question", has_text="Is A safe?").get_by_role("button", name=words).tap()
    page.locator(".now").get_by_role("button", name="Safe", exact=True).tap()
    expect(page.locator(".now")).to_contain_text("Helpfulness")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    boxes = [box for button in page.locator(".answer:visible").all() if (box := button.bounding_box())]
    assert boxes and all(box["height"] >= 38 for box in boxes)
    with next_item(page):
        page.locator(".now").get_by_role("button", name="Equal").tap()
    assert labels_in(desk)[pair(0).id][1]["helpfulness"] == (0, 0)


def test_without_javascript_every_step_is_a_page(desk_of: Callable[..., Desk], browser: Browser) -> None:
    desk = desk_of([pair(0)], overlap=1, gold_share=0)
    page = desk.join(desk.open(browser.new_context(java_script_enabled=False).new_page()))
    page.locator(".now").get_by_role("button", name="Unsafe").click()
    page.get_by_role("button", name="Privacy violation").click()
    page.get_by_role("button", name="Undo").click()
    page.locator(".now").get_by_role("button", name="Unsafe").click()
    page.locator(".now").get_by_role("button", name="B").click()
    page.locator(".now").get_by_role("button", name="Equal").click()
    expect(page.get_by_role("heading", name="Nothing is left for you now")).to_be_visible()
    verdicts, rankings = labels_in(desk)[pair(0).id]
    assert verdicts == (False, False) and rankings["harmlessness"] == (0, 0)
