"""Which responses become demonstrations: those labelled safe, or the best within the cost limit."""

from pathlib import Path

import pytest

from equipoise.artefact import read_manifest
from equipoise.config import validate
from equipoise.data.jsonl import write_records
from equipoise.data.load import load_demonstrations
from equipoise.data.source import DataSource
from equipoise.errors import DataError
from equipoise.records import Prompt, Record, SafetyLabel, ScoredResponse
from equipoise.rollout.select import select
from equipoise.rollout.stored_config import SelectConfig

JAR, TIN = Prompt.from_text("how do i open a jar ?"), Prompt.from_text("how do i open a tin ?")


def selected(tmp_path: Path, keep: dict[str, object], records: list[Record]) -> Path:
    write_records(tmp_path / "given.jsonl", records)
    name = "labels" if keep["type"] == "labelled_safe" else "responses"
    tree = {"out": tmp_path / "out", "keep": {**keep, name: [str(tmp_path / "given.jsonl")]}}
    return select(validate(SelectConfig, tree, where="test"))


def turns(out: Path) -> list[tuple[str, str]]:
    kept = load_demonstrations(DataSource(path=str(out)))
    return [(one.messages[0].content, one.messages[1].content) for one in kept]


def test_answers_labelled_safe_become_demonstrations(tmp_path: Path) -> None:
    given = [("twist it .", True), ("smash it .", False), ("unsure .", True), ("unsure .", False), (" ", True)]
    labels = [SafetyLabel(prompt=JAR, response=text, is_safe=safe) for text, safe in given]
    out = selected(tmp_path, {"type": "labelled_safe"}, labels)
    assert turns(out) == [(JAR.text, "twist it .")]
    assert read_manifest(out).facts == {"labels": 5, "safe": 1}


def test_nothing_labelled_safe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to imitate"):
        selected(
            tmp_path, {"type": "labelled_safe"}, [SafetyLabel(prompt=JAR, response="smash it .", is_safe=False)]
        )


def responses(prompt: Prompt, *scored: tuple[str, float, float]) -> list[Record]:
    return [ScoredResponse(prompt=prompt, text=text, reward=reward, cost=cost) for text, reward, cost in scored]


def test_of_each_prompt_the_most_helpful_within_the_limit_is_kept(tmp_path: Path) -> None:
    cut = ScoredResponse(prompt=JAR, text="twist and", reward=9.0, cost=-9.0, finished=False)
    jar = responses(JAR, ("smash it .", 5.0, 0.6), ("twist it .", 2.0, 0.5), ("no .", 1.0, -3.0), ("", 8.0, -9.0))
    tin = responses(TIN, ("bite it .", 1.0, 2.0))
    out = selected(tmp_path, {"type": "best_scored", "cost_limit": 0.5}, [*jar, *tin, cut])
    assert turns(out) == [(JAR.text, "twist it .")]
    assert read_manifest(out).facts == {"responses": 6, "prompts": 2, "kept": 1, "prompts_without": 1}


def test_no_response_within_the_limit_is_refused(tmp_path: Path) -> None:
    blank = responses(JAR, ("", 1.0, -9.0))  # cheap enough, but shows nothing
    with pytest.raises(
        DataError, match="of 2 responses 1 are neither blank nor cut, the lowest cost of these is 2"
    ):
        selected(tmp_path, {"type": "best_scored"}, [*blank, *responses(TIN, ("bite it .", 1.0, 2.0))])
