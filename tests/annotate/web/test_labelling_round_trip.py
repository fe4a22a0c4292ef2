"""Labels survive the way through the screens and out again, and a server killed in the middle."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from web_browser import Desk, item_of, keys_for, labels_in, needs_chromium, next_item

from equipoise.annotate.config import ExportConfig, ProjectConfig
from equipoise.annotate.files.export import export
from equipoise.annotate.labels import Item
from equipoise.annotate.store import people
from equipoise.annotate.store import project as projects
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.records import Prompt

pytestmark = needs_chromium
PAIRS = Path(os.environ.get("EQUIPOISE_REAL_DATA", "")) / "pku_safe_rlhf/pairs_32.json"


@pytest.mark.skipif(not PAIRS.is_file(), reason="EQUIPOISE_REAL_DATA is not set: no PKU-SafeRLHF pairs")
def test_pku_pairs_come_out_as_people_labelled_them(
    desk_of: Callable[..., Desk], browser: Browser, tmp_path: Path
) -> None:
    rows = json.loads(PAIRS.read_text(encoding="utf-8"))
    items = [
        Item(prompt=Prompt.from_text(row["prompt"]), responses=(row["response_0"], row["response_1"]))
        for row in rows
    ]
    row_of = {item.id: row for item, row in zip(items, rows, strict=True)}
    desk = desk_of(items, overlap=1, gold_share=0)
    page = desk.join(desk.open(browser.new_page()))
    for _ in rows:
        with next_item(page) as item:
            row = row_of[item]
            safe = (row["is_response_0_safe"], row["is_response_1_safe"])
            keys = keys_for(desk.shown(item), safe, row["better_response_id"], row["safer_response_id"])
            desk.press(page, *keys)
    out = export(ExportConfig(project=desk.folder, out=tmp_path / "out"))
    exported = [
        json.loads(line) for line in (out / "pku_safe_rlhf.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert exported == rows
    assert sum(row["better_response_id"] != row["safer_response_id"] for row in exported) == 19
    differ = sum(row["is_response_0_safe"] != row["is_response_1_safe"] for row in rows)
    assert desk.keys == 4 * len(rows) - differ


SERVE = """
import sys, time
from pathlib import Path
from equipoise.annotate.web.config import ServeConfig
from equipoise.annotate.web.serve import serve
serve(Path(sys.argv[1]), ServeConfig(port=int(sys.argv[2])), time.time())
"""


@contextmanager
def killed_in_the_end(folder: Path, port: int) -> Iterator[None]:
    """Serve in a process of its own, and kill it with no chance to say goodbye."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder), str(port)], stdout=subprocess.DEVNULL
    ) as server:
        try:
            for _ in range(300):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield
        finally:
            server.send_signal(signal.SIGKILL)


def test_a_killed_server_and_a_new_browser_resume_where_it_was(tmp_path: Path, browser: Browser) -> None:
    folder = tmp_path / "project"
    projects.create_project(folder, ProjectConfig(overlap=1, gold_share=0), time.time())
    item = Item(prompt=Prompt.from_text("Question"), responses=("one", "two"))
    with Store(folder / STORE_FILE) as store:
        store.add_items([item])
        people.invite(store, "Lea", "lead", time.time())
        link = people.invite(store, "Ann", "labeller", time.time())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    desk = Desk(url, f"{url}/join/{link}", folder, [0.0])
    first = browser.new_context()
    with killed_in_the_end(folder, port):
        page = desk.join(desk.open(first.new_page()))
        desk.press(page, "u", "v")
        expect(page.locator(".category[aria-pressed=true]")).to_have_count(1)
    desk.press(page, "u")
    expect(page.locator("#trouble")).to_contain_text("No answer from the server.")
    cookies = first.cookies()
    first.close()
    with killed_in_the_end(folder, port):
        second = browser.new_context()
        second.add_cookies(cookies)
        page = desk.open(second.new_page())
        page.goto(url)
        assert item_of(page) == item.id
        expect(page.locator("[data-badges='unsafe,']")).to_be_visible()
        with next_item(page):
            desk.press(page, "s", "1")
        second.close()
    assert labels_in(desk)[item.id][1]["helpfulness"]
    assert desk.elsewhere == [] and desk.trouble == []
