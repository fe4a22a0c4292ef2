"""A project and browsers without a browser: each has cookies of its own and sends the forms that it was shown."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.testclient import TestClient

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.labels import Draft, Item, Label, RankingLabel, VerdictLabel
from equipoise.annotate.store import people, project, queue
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.annotate.web.app import build_app
from equipoise.annotate.web.config import ServeConfig
from equipoise.records import Prompt, Verdict

NOW = 1_800_000_000.0
PASSWORD = "correct horse"
HASHED = people.hash_password(PASSWORD)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Browser(TestClient):
    """Follows no redirect by itself."""

    def __init__(self, app: Starlette, address: str = "127.0.0.1") -> None:
        super().__init__(app, follow_redirects=False, client=(address, 50000))

    def token(self, path: str) -> str:
        """The CSRF token in the forms of a page."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path).text)
        assert found, path
        return found[1]

    def submit(self, path: str, shown_on: str, **fields: Any) -> Any:
        """Send a form as the page `shown_on` would."""
        return self.post(path, data={"csrf": self.token(shown_on), **fields})

    def sign_in(self, name: str, password: str = PASSWORD) -> Any:
        return self.submit("/signin", "/signin", name=name, password=password)


class Site:
    """A project that is being served."""

    def __init__(self, path: Path, app: Starlette, clock: Clock, item: str = "") -> None:
        self.path, self.app, self.clock, self.item = path, app, clock, item

    def store(self) -> Store:
        return Store(self.path / STORE_FILE)

    def browser(self, name: str = "", address: str = "127.0.0.1") -> Browser:
        """Somebody's browser, signed in if a name is given: without a password, as those take long."""
        browser = Browser(self.app, address)
        if name:
            with self.store() as store:
                token = people.start_session(store, name, self.clock.now)
            browser.cookies.set(self.app.state.cookie, token)
        return browser


@contextmanager
def serving(path: Path, config: dict[str, Any] | None = None, **settings: Any) -> Iterator[Site]:
    """A project with a lead, Lena, and two labellers, Ann and Bob; all have the same password."""
    clock = Clock()
    chosen = {"title": "A project", "overlap": 2, "gold_share": 0, **(config or {})}
    project.create_project(path, ProjectConfig.model_validate(chosen), NOW)
    with Store(path / STORE_FILE) as store:
        for name in ("Lena", "Ann", "Bob"):
            token = people.invite(store, name, "lead" if name == "Lena" else "labeller", NOW)
            people.accept_invite(store, token, HASHED, NOW)
    app = build_app(path, ServeConfig(**settings), clock)
    with TestClient(app):
        yield Site(path, app, clock)


def make_items(*texts: str, source: str = "made", responses: tuple[str, ...] = ("one", "two")) -> list[Item]:
    return [Item(prompt=Prompt.from_text(text), responses=responses, source=source) for text in texts]


def answer(store: Store, name: str, safe: tuple[bool, ...], helpful: tuple[int, ...], now: float = NOW) -> str:
    """Let somebody answer their next item; a safe response ranks before an unsafe one. Returns the item's id."""
    work = queue.take_item(store, name, now)
    assert work is not None
    labels: list[Label] = [
        VerdictLabel(
            work.item.id, name, at, Verdict(is_safe=one, categories=() if one else ("privacy_violation",))
        )
        for at, one in enumerate(safe)
    ]
    harm = tuple(int(not one and any(safe)) for one in safe)
    labels += [RankingLabel(work.item.id, name, "helpfulness", helpful)]
    labels += [RankingLabel(work.item.id, name, "harmlessness", harm)]
    queue.submit(store, name, work.item.id, labels, now + 30)
    return work.item.id


def draft(*safe: bool) -> Draft:
    return Draft(verdicts={at: Verdict(is_safe=one) for at, one in enumerate(safe)})
