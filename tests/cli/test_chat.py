from collections.abc import Iterator
from pathlib import Path

import pytest

from equipoise.cli.main import main
from equipoise.playground.config import TinyConfig
from equipoise.playground.tiny import save_base


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "base"
    save_base(out, TinyConfig(), seed=0)
    return out


def say(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Type these lines, then Ctrl-D."""
    waiting: Iterator[str] = iter(lines)

    def read(_: str) -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)


def test_a_chat_answers_and_shows_the_cost(
    policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(["how do i bake bread ?", "", "/new", "and rolls ?"], monkeypatch)
    cost = ["--cost.type", "function", "--cost.function", "equipoise.playground.oracle:harm"]
    assert main(["chat", "--policy", str(policy), *cost, "--sampling.max-new-tokens", "4"]) == 0
    out = capsys.readouterr().out
    assert out.count("base: ") == 2
    assert out.count("cost ") == 2


def test_a_turn_that_does_not_fit_is_explained_and_the_chat_goes_on(
    policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(["bread " * 5000, "hello"], monkeypatch)
    assert main(["chat", "--policy", str(policy), "--sampling.max-new-tokens", "4"]) == 0
    out = capsys.readouterr().out
    assert "positions" in out
    assert out.count("base: ") == 1


def test_a_policy_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["chat", "--policy", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
