import subprocess
import sys

import pytest

from equipoise.cli.doctor import KNOWN_BAD, doctor, find_problems


def test_the_doctor_names_versions_devices_and_disk(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor() == 0
    text = capsys.readouterr().out
    for word in ("python", "torch", "device cpu", "memory", "disk", "No known-bad versions."):
        assert word in text


def test_an_old_transformers_is_known_bad() -> None:
    (problem,) = find_problems({"transformers": "5.16.0", "torch": "2.13.0"})
    assert "transformers 5.16.0" in problem
    assert "pip install 'transformers>=5.17'" in problem


def test_a_pair_is_bad_only_together() -> None:
    assert find_problems({"transformers": "5.23.0", "peft": "0.17.0"})
    assert not find_problems({"transformers": "5.23.0", "peft": "0.19.0"})
    assert not find_problems({"transformers": "5.23.0", "peft": None})


def test_a_local_build_of_a_good_version_is_good() -> None:
    assert not find_problems({"torch": "2.13.0+cpu"})


def test_missing_packages_are_no_problem() -> None:
    assert not find_problems({name: None for row in KNOWN_BAD for name in row.versions})


def test_the_doctor_works_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom equipoise.cli.doctor import doctor\nsys.exit(doctor())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'equipoise[train]'" in done.stdout
