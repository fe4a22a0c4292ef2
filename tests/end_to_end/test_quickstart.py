"""Every command in the quickstart is one that exists, with settings that exist."""

import re
import shlex
from pathlib import Path

import pytest

from equipoise.cli.main import main

TEXT = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
STAGES = [c for c in COMMANDS if not c.startswith(("pip ", "equipoise doctor", "equipoise data "))]


@pytest.mark.parametrize("command", STAGES)
def test_the_settings_of_every_command_resolve(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, body in re.findall(r"```toml\n# (\S+\.toml)\n(.*?)```", TEXT, re.DOTALL):
        Path(name).write_text(body)
    program, *words = shlex.split(command)
    assert program == "equipoise"
    assert main([*words, *([] if "--dry-run" in words else ["--dry-run"])]) == 0
    assert "# equipoise" in capsys.readouterr().out
