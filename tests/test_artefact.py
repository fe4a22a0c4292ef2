import shutil
from pathlib import Path
from unittest import mock

import pytest

from equipoise import artefact
from equipoise.config import Config
from equipoise.errors import ArtefactError


class Settings(Config):
    out: Path
    data: Path
    steps: int = 3


def settings(tmp_path: Path, **changes: object) -> Settings:
    data = tmp_path / "data.jsonl"
    if not data.exists():
        data.write_text("{}\n")
    return Settings.model_validate({"out": tmp_path / "run", "data": data, **changes})


def begin(config: Settings, kind: str = "policy") -> artefact.Build:
    return artefact.start(config.out, kind, config, {"data": config.data})


def begin_and_write(config: Settings) -> None:
    begin(config)
    (config.out / "metrics.jsonl").touch()


def test_a_directory_is_complete_only_once_its_manifest_is_there(tmp_path: Path) -> None:
    config = settings(tmp_path)
    build = begin(config)
    (config.out / "weights").write_bytes(b"123")
    with pytest.raises(ArtefactError, match="unfinished"):
        artefact.read_manifest(config.out)
    artefact.finish(build, {"steps": 3})
    manifest = artefact.read_manifest(config.out, ("policy",))
    assert list(manifest.files) == ["weights"]
    assert manifest.facts == {"steps": 3}
    assert begin(config).is_finished


def test_an_unfinished_directory_of_the_same_run_is_reopened(tmp_path: Path) -> None:
    config = settings(tmp_path)
    first = begin(config)
    again = begin(config)
    assert not again.is_finished
    assert again.fingerprint == first.fingerprint


def test_a_run_with_other_settings_is_refused_naming_them(tmp_path: Path) -> None:
    begin_and_write(settings(tmp_path))
    with pytest.raises(ArtefactError, match="settings differ: steps"):
        begin(settings(tmp_path, steps=4))


def test_a_run_that_left_nothing_makes_room_for_one_with_other_settings(tmp_path: Path) -> None:
    first = begin(settings(tmp_path))
    second = begin(settings(tmp_path, steps=4))
    assert first.fingerprint != second.fingerprint == begin(settings(tmp_path, steps=4)).fingerprint
    artefact.finish(second, {})
    with pytest.raises(ArtefactError, match="settings differ: steps"):
        begin(settings(tmp_path))


def test_a_run_on_changed_inputs_is_refused_naming_them(tmp_path: Path) -> None:
    config = settings(tmp_path)
    begin_and_write(config)
    config.data.write_text("other\n")
    with pytest.raises(ArtefactError, match="inputs differ: data"):
        begin(config)


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path)
    begin_and_write(config)
    with pytest.raises(ArtefactError, match="it holds a policy, this is a reward"):
        begin(config, "reward")


def test_a_directory_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config.out.mkdir()
    (config.out / "thesis.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="not empty"):
        begin(config)
    assert [p.name for p in config.out.iterdir()] == ["thesis.txt"]


def test_moving_inputs_and_output_does_not_change_what_a_run_is(tmp_path: Path) -> None:
    here = begin(settings(tmp_path)).fingerprint
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(tmp_path / "data.jsonl", moved / "data.jsonl")
    assert begin(settings(moved)).fingerprint == here


def test_an_unfinished_or_missing_input_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path)
    begin(config)
    for path in (config.out, tmp_path / "nothing"):
        with pytest.raises(ArtefactError):
            artefact.fingerprint_of(path)


def test_a_finished_directory_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path)
    artefact.finish(begin(config), {})
    with pytest.raises(ArtefactError, match="holds a policy, but reward or cost is needed"):
        artefact.read_manifest(config.out, ("reward", "cost"))


def test_checkpoints_are_no_part_of_what_a_directory_holds(tmp_path: Path) -> None:
    config = settings(tmp_path)
    build = begin(config)
    (config.out / artefact.CHECKPOINTS / "step-1").mkdir(parents=True)
    (config.out / artefact.CHECKPOINTS / "step-1" / "state").write_text("x")
    assert artefact.finish(build, {}).files == {}


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    artefact.write_json(path, {"a": 1})
    full = OSError(28, "No space left on device")
    with mock.patch("equipoise.artefact.os.fsync", side_effect=full), pytest.raises(OSError, match="No space"):
        artefact.write_json(path, {"a": 2})
    assert '"a": 1' in path.read_text()
