"""What goes wrong around a running server: a full disk, a clock set back, huge texts, senders that never end."""

import asyncio
import io
import json
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from web_client import NOW, Browser, Site, make_items, serving

from equipoise.annotate.store.core import Store
from equipoise.annotate.web import lead_files, security, serve
from equipoise.annotate.web.app import build_app
from equipoise.annotate.web.config import ServeConfig
from equipoise.annotate.web.serve import listen, make_server

SAFE = ("safe 0", "safe 1", "rest helpfulness", "rest harmlessness")
DAY = 86400.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path / "project") as site:
        yield site


def next_item(browser: Browser) -> str:
    return browser.get("/label").text.partition('data-item="')[2].partition('"')[0]


def answer_next(browser: Browser, steps: tuple[str, ...] = SAFE) -> str:
    """Answer the next item, or what is left of it, and return its id."""
    item, at = next_item(browser), str(len(SAFE) - len(steps))
    form = {"csrf": browser.token("/label"), "item": item, "at": at, "step": steps, "send": "1"}
    assert item and browser.post("/label", data=form).status_code == 303
    return item


# ---- a full disk


@contextmanager
def full_disk(site: Site) -> Iterator[None]:
    """The server's own connections cannot add a page to the file, as on a disk without room."""

    def limit(store: Store, most: int) -> None:
        store.rows(f"PRAGMA max_page_count = {most}")

    def now(store: Store) -> int:
        store.rows("PRAGMA wal_checkpoint")
        return int(store.rows("PRAGMA page_count")[0][0])

    ask = site.app.state.desk.ask
    asyncio.run(ask("steps", limit, asyncio.run(ask("steps", now))))
    yield
    asyncio.run(ask("steps", limit, 2**30))


def test_a_full_disk_is_said_on_the_page_and_work_goes_on_when_there_is_room(site: Site) -> None:
    with site.store() as store:
        store.add_items(make_items(*(f"question {number}" for number in range(40))))
    ann, saved, words = site.browser("Ann"), list[str](), ""
    csrf = ann.token("/label")
    with full_disk(site):
        for _ in range(40):
            item = next_item(ann)
            form = {"csrf": csrf, "item": item, "at": "0", "step": SAFE, "send": "1"}
            sent = ann.post("/label", data=form)
            if sent.status_code != 303:
                words = sent.text
                break
            saved.append(item)
        assert "The labels cannot be saved." in words and "Free space on the disk" in words
        note = ann.post("/label/comment", data={"csrf": csrf, "item": item, "text": "x" * 5000})
        assert note.status_code == 400 and "Free space on the disk" in note.text
        assert ann.get("/options").status_code == 200  # what needs no room goes on
        assert labelled(site) == sorted(saved)
    for _ in range(3):
        saved.append(answer_next(ann))
    assert labelled(site) == sorted(saved) and len(set(saved)) == len(saved)


def labelled(site: Site) -> list[str]:
    """Items with all labels of one person; half an item's labels are an error."""
    with site.store() as store:
        verdicts, ranks = [label.item for label in store.verdicts()], [label.item for label in store.rankings()]
    assert sorted(verdicts) == sorted(ranks)  # two of each
    return sorted(set(verdicts))


def test_an_upload_or_export_without_room_is_said_and_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with site.store() as store:
        store.add_items(make_items("only"))
    answer_next(site.browser("Ann"))
    lena = site.browser("Lena")
    csrf = lena.token("/lead/files")
    monkeypatch.setattr(lead_files.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def no_room(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lead_files.shutil, "copyfileobj", no_room)
        sent = lena.post("/lead/import", data={"csrf": csrf}, files={"file": ("a.jsonl", b"{}")})
    assert sent.status_code == 400 and "No space left" in sent.text and "Free space" in sent.text
    assert not list((site.path / "uploads").glob("*"))
    form = {"csrf": csrf, "method": "majority", "pku_file": "jsonl", "pku_schema": "auto"}
    with monkeypatch.context() as patch:
        patch.setattr(lead_files.shutil, "make_archive", no_room)
        sent = lena.post("/lead/export", data=form)
    assert sent.status_code == 400 and "No space left" in sent.text
    assert not list((tmp_path / "temporary").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("starlette.datastructures.UploadFile.write", no_room)
        sent = lena.post("/lead/import", data={"csrf": csrf}, files={"file": ("a.jsonl", b"{}" * 10)})
    assert sent.status_code == 507 and "No space left" in sent.text
    assert lena.post("/lead/export", data=form).status_code == 200


# ---- a clock that is set back


def test_a_clock_set_back_signs_nobody_out_locks_nobody_out_and_hands_nothing_out_twice(site: Site) -> None:
    with site.store() as store:
        store.add_items(make_items("first", "second", "third"))
    ann, stranger = site.browser("Ann"), site.browser()
    first = answer_next(ann)
    held = next_item(ann)
    stranger.sign_in("Lena", "wrong")
    site.clock.now -= 3 * DAY
    assert ann.get("/options").status_code == 200
    assert next_item(ann) == held
    second = answer_next(ann)
    undone = ann.submit("/label/undo", "/label", at="0")  # what was finished last, not what has the latest time
    assert undone.headers["location"] == f"/label?item={second}"
    assert answer_next(ann, SAFE[3:]) == second != first
    assert stranger.sign_in("Lena").status_code == 303
    bob = site.browser("Bob")
    assert len({answer_next(bob) for _ in range(3)}) == 3
    for path in ("/lead/progress", "/lead/people", "/lead/audit", "/lead/audit.csv", f"/lead/item/{first}"):
        assert site.browser("Lena").get(path).status_code == 200


def test_a_lease_that_ran_out_stays_so_when_the_clock_goes_back(tmp_path: Path) -> None:
    with serving(tmp_path / "project", {"overlap": 1, "lease_minutes": 30}) as site:
        with site.store() as store:
            store.add_items(make_items("only"))
        ann, bob = site.browser("Ann"), site.browser("Bob")
        item = next_item(ann)
        form = {"csrf": ann.token("/label"), "item": item, "at": "0", "step": SAFE, "send": "1"}
        site.clock.now += 31 * 60
        assert answer_next(bob) == item
        site.clock.now -= 31 * 60
        refused = ann.post("/label", data=form)
        assert refused.status_code == 409 and "Others have answered this item meanwhile" in refused.text
        with site.store() as store:
            assert {label.labeller for label in store.verdicts()} == {"Bob"}


def test_limits_forget_what_lies_ahead_when_the_clock_goes_back(tmp_path: Path) -> None:
    with serving(tmp_path / "project", posts_per_minute=3) as site:
        ann = site.browser("Ann")
        form = {"csrf": ann.token("/options"), "theme": "dark"}
        assert [ann.post("/options", data=form).status_code for _ in range(4)] == [200, 200, 200, 429]
        site.clock.now -= 3600
        assert [ann.post("/options", data=form).status_code for _ in range(4)] == [200, 200, 200, 429]


# ---- ten megabytes


def test_ten_megabytes_in_a_response_go_in_through_every_page_and_out_again(tmp_path: Path) -> None:
    huge = ("<script>alert(1)</script>\n" + "word " * 2_000_000)[:10_000_000]
    row = {"prompt": "long", "response_0": huge, "response_1": "short", "better_response_id": 1}
    row |= {"is_response_0_safe": True, "is_response_1_safe": True, "safer_response_id": 1}
    with serving(tmp_path / "project", {"overlap": 1}) as site:
        lena, ann = site.browser("Lena"), site.browser("Ann")
        upload = {"file": ("huge.jsonl", json.dumps(row).encode())}
        sent = lena.post("/lead/import", data={"csrf": lena.token("/lead/files")}, files=upload)
        assert "1 items added" in sent.text
        item = next_item(ann)
        pages = [ann.get("/label"), lena.get(f"/lead/item/{item}")]
        for page in (*pages, lena.get("/lead/items"), lena.get("/lead/progress")):
            assert page.status_code == 200 and len(page.text) < 500_000 and "<script>alert" not in page.text
        assert all("10,000,000 characters" in page.text and "alert(1)" in page.text for page in pages)
        place = "0" if "word word" in ann.get(f"/label/response?item={item}&place=0").text else "1"
        whole = ann.get(f"/label/response?item={item}&place={place}")
        assert whole.text == huge and whole.headers["content-type"].startswith("text/plain")
        assert answer_next(ann) == item
        assert lena.get("/lead/agreement").status_code == lena.get("/lead/adjudicate").status_code == 200
        options = {"method": "majority", "pku_file": "parquet", "pku_schema": "auto"}
        exported = lena.submit("/lead/export", "/lead/files", **options)
        archive = zipfile.ZipFile(io.BytesIO(exported.content))
        (pair,) = archive.read("pairs.jsonl").splitlines()
        assert huge in json.loads(pair)["responses"]


# ---- senders that never end


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A real server whose patience is short."""
    monkeypatch.setattr(serve, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(serve, "MOST_CONNECTIONS", 20)
    monkeypatch.setattr(security, "FORM_SECONDS", 0.3)
    with serving(tmp_path / "project"):
        pass
    listener = listen("127.0.0.1", 0)
    server = make_server(build_app(tmp_path / "project", ServeConfig(), lambda: NOW))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(10)


def say(address: tuple[str, int], *pieces: bytes, seconds: float = 5.0) -> bytes:
    """Send the pieces, a little apart, and read until the server closes."""
    with socket.create_connection(address) as connection:
        connection.settimeout(seconds)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


POST = b"POST /signin HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"


def test_a_connection_that_begins_no_request_is_closed(address: tuple[str, int]) -> None:
    assert say(address) == b""
    assert say(address, b"GET /sig", b"nin HTTP/1.1\r\n", b"X: a\r\n") == b""
    again = say(address, b"GET /signin HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /sig")
    assert again.count(b"HTTP/1.1 200") == 1


def test_a_body_that_never_ends_is_answered_and_closed(address: tuple[str, int]) -> None:
    assert b" 408 " in say(address, POST + b"Content-Length: 500\r\n\r\n", b"csrf=")
    assert b" 408 " in say(address, POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n")
    assert b" 413 " in say(address, POST + b"Content-Length: 99999999999\r\n\r\n")


def test_a_head_that_is_too_long_or_broken_is_refused(address: tuple[str, int]) -> None:
    get = b"GET /signin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert b" 200 " in say(address, get + b"\r\n")
    for head in (
        *(b"X: " + b"a" * 1_000_000, b"\r\nX: a" * 50_000, b"no header", b"Content-Length: -1", b"Host: y"),
        b"Content-Length: 1\r\nContent-Length: 2",
    ):
        try:
            answer = say(address, get + head + b"\r\n\r\n")
        except ConnectionError:  # closed before all was sent
            continue
        assert answer == b"" or b" 400 " in answer.splitlines()[0]


def test_connections_beyond_the_room_are_told_so_and_the_server_goes_on(
    address: tuple[str, int],
) -> None:
    get = b"GET /signin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    idle = [socket.create_connection(address) for _ in range(20)]
    time.sleep(0.1)
    assert b" 503 " in say(address, get)
    for connection in idle:  # nobody begins a request: they are closed, and there is room again
        connection.settimeout(5)
        assert connection.recv(1) == b""
        connection.close()
    assert b" 200 " in say(address, get)


def test_a_web_socket_is_answered_as_a_page(address: tuple[str, int]) -> None:
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += b"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
    assert b" 101 " not in say(address, b"GET /signin HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n", seconds=8)
