"""A browser for the tests of the labeller's screen, and a served project to look at with it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from web_browser import CHROMIUM, PATIENCE, Desk, serve_project

from equipoise.annotate.labels import Item


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
    desks = list[Desk]()
    with ExitStack() as stack:

        def start(items: list[Item], **settings: object) -> Desk:
            desks.append(stack.enter_context(serve_project(tmp_path / "project", items, **settings)))
            return desks[-1]

        yield start
        for context in browser.contexts:
            context.close()
    for desk in desks:
        assert desk.elsewhere == [] and desk.trouble == []
