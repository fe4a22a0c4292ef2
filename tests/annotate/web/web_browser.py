"""A labeller's browser and the server it talks to, for the tests that look at the screen."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Page

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.labels import Item
from equipoise.annotate.store import people
from equipoise.annotate.store import project as projects
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.annotate.web.app import build_app
from equipoise.annotate.web.config import ServeConfig
from equipoise.annotate.web.serve import address_of, listen

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 30_000  # milliseconds: the machine may be busy with other things
needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium")


@dataclass
class Desk:
    """A served project, and what a labeller did there."""

    url: str
    link: str
    folder: Path
    now: list[float]
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


@contextmanager
def serve_project(folder: Path, items: list[Item], **settings: object) -> Iterator[Desk]:
    """A new project with these items, Ann as its labeller, served until the block ends."""
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
    try:
        yield Desk(url, f"{url}/join/{token}", folder, now)
    finally:
        server.should_exit = True
        thread.join(10)


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


def labels_in(desk: Desk) -> dict[str, tuple[tuple[bool | None, ...], dict[str, tuple[int, ...]]]]:
    """Item → verdicts by position, ranks by question."""
    with closing(desk.store()) as store:
        found = {item.id: ([None] * len(item.responses), dict[str, tuple[int, ...]]()) for item in store.items()}
        for verdict in store.verdicts():
            found[verdict.item][0][verdict.position] = verdict.verdict.is_safe
        for ranking in store.rankings():
            found[ranking.item][1][ranking.question] = ranking.ranks
    return {item: (tuple(verdicts), rankings) for item, (verdicts, rankings) in found.items()}
