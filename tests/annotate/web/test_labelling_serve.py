"""What starting the server takes, and how the first lead gets in."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.store import people, project
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.annotate.web.config import ServeConfig
from equipoise.annotate.web.serve import address_of, first_link, is_loopback, listen, serve
from equipoise.errors import ConfigError, StoreError

NOW = 1_800_000_000.0
HEAVY = {
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "evalica",
    "statsmodels",
    "matplotlib",
    "torch",
    "openai",
    "datasets",
}


def test_a_server_starts_without_statistics_models_or_clients() -> None:
    code = "import json, sys; import equipoise.annotate.web.serve; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(done.stdout))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_a_server_that_answers_takes_less_than_60_megabytes(tmp_path: Path) -> None:
    project.create_project(tmp_path / "project", ProjectConfig(), NOW)
    code = (
        "from pathlib import Path; from equipoise.annotate.web.config import ServeConfig;"
        "from equipoise.annotate.web.serve import serve;"
        f"serve(Path({str(tmp_path / 'project')!r}), ServeConfig(port=0), {NOW})"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" at ")[1].split()[0]
            link = process.stdout.readline().split()[3]
            deadline = time.monotonic() + 30
            while True:
                try:
                    page = urllib.request.urlopen(link).read().decode()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            assert link.startswith(f"{url}/join/") and "Welcome, lead" in page
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            kilobytes = int(status.split("VmRSS:")[1].split()[0])
            assert kilobytes < 60 * 1024
        finally:
            process.terminate()


def test_the_first_lead_gets_a_link_until_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "project"
    project.create_project(path, ProjectConfig(), NOW)
    first = first_link(path, "http://x", NOW)
    again = first_link(path, "http://x", NOW)
    token = again.removeprefix("http://x/join/")
    with Store(path / STORE_FILE) as store:
        assert people.invited(store, first.removeprefix("http://x/join/"), NOW) is None  # the newer one counts
        people.accept_invite(store, token, None, NOW)
    assert first_link(path, "http://x", NOW) == ""


def test_a_server_for_everybody_is_named_after_the_machine_and_known_to_be_reachable() -> None:
    with listen("0.0.0.0", 0) as everybody, listen("127.0.0.1", 0) as this_machine:
        assert address_of(everybody).startswith(f"http://{socket.gethostname()}:")
        assert not is_loopback(everybody) and is_loopback(this_machine)


def test_a_lead_invited_by_hand_keeps_their_link(tmp_path: Path) -> None:
    path = tmp_path / "project"
    project.create_project(path, ProjectConfig(), NOW)
    with Store(path / STORE_FILE) as store:
        token = people.invite(store, "Lena", "lead", NOW)
        assert first_link(path, "http://x", NOW) == ""
        assert people.invited(store, token, NOW) is not None


def test_a_taken_address_and_a_missing_project_are_refused_in_words(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert address_of(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigError, match="Another program") as refusal:
            listen("127.0.0.1", port)
        assert "--port" in refusal.value.fix
    with pytest.raises(ConfigError, match="no address of this machine") as refusal:
        listen("192.0.2.1", 0)  # reserved for documentation
    assert "--host" in refusal.value.fix
    with pytest.raises(StoreError, match="annotate create"):
        serve(tmp_path / "none", ServeConfig(port=0), NOW)
