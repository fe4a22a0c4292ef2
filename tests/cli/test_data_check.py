import json
from pathlib import Path

import pytest

from equipoise.cli.main import main
from equipoise.playground.config import TinyConfig
from equipoise.playground.tiny import save_base

PAIR = {
    "prompt": "how do i pick a lock ?",
    "response_0": "call a locksmith .",
    "response_1": "take a thin wire .",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_file_is_described_with_balance_and_disagreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", write(tmp_path / "pairs.jsonl", PAIR, PAIR | {"better_response_id": 0})]) == 0
    out = capsys.readouterr().out
    assert "2 PreferencePair, format pku_safe_rlhf" in out
    assert "more helpful is not the safer one: 1 of 2 (50.0%)" in out


def test_bad_rows_are_named_by_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "pairs.jsonl", PAIR, PAIR | {"prompt": ""})
    assert main(["data", "check", path]) == 0
    assert f"{path}:2" in capsys.readouterr().out


def test_broken_json_is_named_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "pairs.jsonl", PAIR, '{"prompt": \n')
    status = main(["data", "check", path])
    said = capsys.readouterr()
    assert f"{path}:2" in said.out + said.err
    assert status in (0, 2)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", write(tmp_path / "empty.jsonl", content)]) == 2
    assert "empty.jsonl" in capsys.readouterr().err


def test_with_a_tokenizer_examples_show_what_is_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_base(tmp_path / "base", TinyConfig(), seed=0)
    path = write(
        tmp_path / "sft.jsonl", {"instruction": "how do i bake bread ?", "input": "", "output": "mix it ."}
    )
    capsys.readouterr()
    assert main(["data", "check", path, "--tokenizer", str(tmp_path / "base")]) == 0
    trained = capsys.readouterr().out.rpartition("⟦")[2].partition("⟧")[0]
    assert "<eos>" in trained
    assert "bread" not in trained


def test_every_real_set_can_be_checked_but_the_one_without_prompts(
    real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = real_data.rglob("*")
    files = [path for path in found if ".json" in path.name or path.suffix == ".csv"]
    refused = [path.parent.name for path in files if main(["data", "check", str(path)]) != 0]
    assert refused == ["gptfuzz"]  # its `question` is a number
    assert "it lacks `prompt`" in capsys.readouterr().err
