"""The way from install to exported data in docs/annotation.md, typed as it stands; two people label in between."""

import json
import re
import shlex
from pathlib import Path

import pytest

from equipoise.annotate.labels import Draft
from equipoise.annotate.store.project import open_project
from equipoise.annotate.store.queue import submit, take_item
from equipoise.cli.main import main
from equipoise.records import Verdict

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "annotation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
NOT_OURS = ("pip ", "python3 -m venv", ". .venv/")
DRY = ("equipoise annotate serve", "equipoise cost", "equipoise reward")
"""Commands that go on for ever, or need torch and a model."""


def run(command: str) -> None:
    program, *words = shlex.split(command, comments=True)
    assert program == "equipoise"
    assert main([*words, *(["--dry-run"] if command.startswith(DRY) else [])]) == 0


def label_everything(project: Path, name: str) -> None:
    """What the page tells ann and ben to do; ben disagrees about the helpfulness of the first item he gets."""
    with open_project(project) as store:
        is_first = name == "ben"
        while work := take_item(store, name, 1.0):
            draft = Draft(
                verdicts={0: Verdict(is_safe=True), 1: Verdict(is_safe=False, categories=("privacy_violation",))},
                rankings={"helpfulness": (1, 0) if is_first else (0, 1), "harmlessness": (0, 1)},
            )
            submit(store, name, work.item.id, draft.labels(work.item.id, name), 2.0)
            is_first = False


def test_the_walk_works_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = list[str]()
    for block in BLOCKS:
        for name, body in re.findall(r"cat > (\S+) <<'END'\n(.*?)END\n", block, re.DOTALL):
            Path(name).write_text(body, encoding="utf-8")
            break
        else:
            for command in block.splitlines():
                if not command.startswith(NOT_OURS):
                    run(command)
                    printed.append(capsys.readouterr().out)
                    if command.startswith("equipoise annotate serve"):
                        label_everything(tmp_path / "my-project", "ann")
                        label_everything(tmp_path / "my-project", "ben")
    said = "".join(printed)
    assert "4 items added" in said and said.count("/join/") == 2 and "complete 4 (100%)" in said
    facts = json.loads(Path("preferences/manifest.json").read_text(encoding="utf-8"))["facts"]
    # 2 people, 4 items, 2 verdicts and 2 rankings each; one vote of two differs
    assert (facts["pairs"], facts["labels"], facts["unresolved"]) == (4, 32, {"helpfulness": 1})
    assert facts["pku_rows"] == 3


def test_every_other_command_on_the_page_has_settings_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    others = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ").splitlines()
    assert len(others) > 5
    for command in others:
        program, group, name, *words = shlex.split(command, comments=True)
        assert (program, group) == ("equipoise", "annotate")
        if name == "serve":
            assert main([group, name, *words, "--dry-run"]) == 0
        else:
            assert main([group, name, "--help"]) == 0
            known = capsys.readouterr().out
            assert all(word in known for word in words if word.startswith("--"))


@pytest.mark.parametrize("page", ["annotation.md", "labelling-reference.md", "judge.md"])
def test_links_lead_to_pages_and_headings_that_exist(page: str) -> None:
    links = re.findall(r"\]\(([a-z-]*\.md)?(?:#([a-z0-9-]+))?\)", (DOCS / page).read_text(encoding="utf-8"))
    for target, heading in links:
        text = (DOCS / (target or page)).read_text(encoding="utf-8")
        titles = (re.sub(r"[^a-z0-9 -]", "", one.lower()) for one in re.findall(r"(?m)^#+ (.*)$", text))
        assert not heading or heading in [title.replace(" ", "-") for title in titles]
