"""Fifty people label two thousand items at once while the server is killed five times.

Is every acknowledged label there, and how long did each request take? A real server in a process of its own, real
HTTP over loopback, one connection per person. People are signed in beforehand. Each answers an item with one
request per key and pauses in between; `kill -9` ends the server at even distances, and it starts again at once.
Times are measured by the clients; those of requests under way while there was no server are left out, and counted.
"""

import argparse
import http.client
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.labels import Item
from equipoise.annotate.store import people
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.annotate.store.project import create_project
from equipoise.annotate.web import security
from equipoise.records import Prompt

KEYS = ("safe 0", "safe 1", "pick helpfulness 0", "pick harmlessness 0")
ON_SCREEN = re.compile(r'data-item="([0-9a-f]*)"')
STEPS_TAKEN = re.compile(r'name="at" value="(\d+)"')
Fields = dict[str, str | int]
MEDIAN_BAR, LONGEST_BAR = 0.05, 1.0


class Load(NamedTuple):
    """What is asked of the server; `pause` is the mean number of seconds between a person's requests."""

    items: int = 2000
    people: int = 50
    overlap: int = 3
    kills: int = 5
    pause: float = 0.5


class Screen(NamedTuple):
    """What a client sees: the item, empty where there is none, and how many steps were taken on it."""

    item: str
    taken: int


class Request(NamedTuple):
    """One request that was answered, on the clock of `time.monotonic`."""

    start: float
    end: float
    status: int


@dataclass
class Server:
    """`equipoise annotate serve` in a process of its own; `windows` are the times without one."""

    project: Path
    port: int
    windows: list[tuple[float, float]] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = ["-m", "equipoise.cli", "annotate", "serve", str(self.project), "--port", str(self.port)]
        self.process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while True:
            try:
                with closing(self.connection()) as link:
                    ask(link, "GET", "/signin", {})
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, "the server does not start"
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """What a power cut does to the process."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        """Kill it and start it again."""
        began = time.monotonic()
        self.kill()
        self.start()
        self.windows.append((began, time.monotonic()))

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)


@dataclass
class Person:
    """One client; `sent` are the items whose labels the server acknowledged."""

    name: str
    headers: dict[str, str]
    requests: list[Request] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def work(self, server: Server, pause: float, seed: int) -> None:
        """Label until nothing is left; where the server is gone, wait for it and look what is on the screen."""
        dice = random.Random(seed)
        while True:
            link = server.connection()
            try:
                screen = self.ask(link, "GET", "/label")
                while screen.item:
                    time.sleep(dice.expovariate(1 / pause) if pause else 0)
                    screen = self.press(link, screen)
                return
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)
            finally:
                link.close()

    def press(self, link: http.client.HTTPConnection, screen: Screen) -> Screen:
        """Press the next key; after the last one the item is sent."""
        key = KEYS[screen.taken]
        fields = {"item": screen.item, "at": screen.taken, "step": key}
        following = self.ask(
            link, "POST", "/label", fields | ({"send": 1} if key == KEYS[-1] else {}), screen.item
        )
        if self.requests[-1].status != 200:  # it was taken before a kill, but the answer got lost: look again
            return self.ask(link, "GET", "/label")
        if key == KEYS[-1]:
            self.sent.append(screen.item)
        return following

    def ask(
        self,
        link: http.client.HTTPConnection,
        method: str,
        path: str,
        fields: Fields | None = None,
        part: str = "",
    ) -> Screen:
        """One request; returns what is on the screen now."""
        headers = self.headers | ({"X-Part": part} if part else {})
        start = time.monotonic()
        status, text = ask(link, method, path, headers, urlencode(fields or {}))
        self.requests.append(Request(start, time.monotonic(), status))
        assert status in (200, 409), f"{status}: {text[:300]}"
        found, taken = ON_SCREEN.search(text), STEPS_TAKEN.search(text)
        return Screen(found[1] if found else part, int(taken[1]) if taken else 0)


def ask(
    link: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str], body: str = ""
) -> tuple[int, str]:
    if method == "POST":
        headers = headers | {"Content-Type": "application/x-www-form-urlencoded"}
    link.request(method, path, body or None, headers)
    answer = link.getresponse()
    return answer.status, answer.read().decode()


def make_project(path: Path, load: Load) -> list[Person]:
    """A project with its items, and people who are signed in."""
    create_project(path, ProjectConfig(overlap=load.overlap, gold_share=0), time.time())
    found = []
    with Store(path / STORE_FILE) as store, store.transaction():
        store.add_items(
            Item(
                prompt=Prompt.from_text(f"Question {n}: how do I open a jar?"),
                responses=(
                    f"Twist the lid. {n} " * 20,
                    f"Use a **towel** for grip. {n}\n\n- or ask\n- or wait " * 10,
                ),
            )
            for n in range(load.items)
        )
        for n in range(load.people):
            name = f"person {n}"
            people.invite(store, name, "labeller", time.time())
            token = people.start_session(store, name, time.time())
            session = people.session(store, token, time.time())
            assert session is not None
            cookie = f"{security.cookie_name(path)}={token}"
            found.append(Person(name, {"Cookie": cookie, "X-CSRF-Token": session.csrf}))
    return found


def run(path: Path, load: Load) -> dict[str, Any]:
    """Label everything; returns counts and seconds.

    Raises:
        AssertionError: A label was lost, or an item answered too often or twice by one person.
    """
    team = make_project(path, load)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(path, port)
    server.start()
    try:
        seconds = label_all(server, team, load)
    finally:
        server.kill()
    return check_labels(path, load, team) | times(team, server.windows) | {"seconds": seconds}


def label_all(server: Server, team: Sequence[Person], load: Load) -> float:
    """Everybody works until nothing is left, with the kills at even distances; returns seconds."""
    began = time.monotonic()
    wanted = load.items * load.overlap
    with ThreadPoolExecutor(len(team)) as pool:
        work = [pool.submit(person.work, server, load.pause, seed) for seed, person in enumerate(team)]
        for kill in range(load.kills):
            while sum(len(person.sent) for person in team) < wanted * (kill + 1) / (load.kills + 1):
                assert not all(one.done() for one in work), "everybody stopped too early"
                time.sleep(0.02)
            server.restart()
        for one in work:
            one.result()
    return time.monotonic() - began


def check_labels(path: Path, load: Load, team: Sequence[Person]) -> dict[str, Any]:
    """Every acknowledged label is there, each item has `overlap` people's, and nobody's twice."""
    with Store(path / STORE_FILE) as store:
        done = [(label.item, label.labeller) for label in store.rankings() if label.question == "harmlessness"]
        verdicts = Counter((label.item, label.labeller) for label in store.verdicts())
        assert store.rows("PRAGMA integrity_check") == [("ok",)]
    acknowledged = {(item, person.name) for person in team for item in person.sent}
    assert acknowledged <= set(done), f"{len(acknowledged - set(done))} acknowledged labels are lost"
    assert len(done) == len(set(done)) == load.items * load.overlap
    assert set(Counter(item for item, _ in done).values()) == {load.overlap}
    assert verdicts == Counter(dict.fromkeys(done, 2))
    return {"labels": len(done), "acknowledged": len(acknowledged)}


def times(team: Sequence[Person], windows: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Seconds per request, those left out that a restart overlaps."""
    requests = [request for person in team for request in person.requests]
    calm = sorted(
        one.end - one.start
        for one in requests
        if not any(one.start < end and one.end > start for start, end in windows)
    )
    return {
        "requests": len(requests),
        "left_out": len(requests) - len(calm),
        "conflicts": sum(one.status == 409 for one in requests),
        "median": statistics.median(calm),
        "p99": calm[int(0.99 * len(calm))],
        "longest": calm[-1],
        "restarts": [round(end - start, 2) for start, end in windows],
    }


def main(words: Sequence[str] | None = None) -> int:
    """Print what was found; 1 if it took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in Load()._asdict().items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    load = Load(**vars(parser.parse_args(words)))
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder) / "team", load)
    print(json.dumps({"load": load._asdict(), **found}, indent=2))
    return int(found["median"] > MEDIAN_BAR or found["longest"] > LONGEST_BAR)


if __name__ == "__main__":
    sys.exit(main())
