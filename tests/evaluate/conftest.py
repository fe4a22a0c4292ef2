import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "annotate"))
sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from scripted_judge import ScriptedJudge, scripted_judge


@pytest.fixture(scope="session")
def running() -> Iterator[ScriptedJudge]:
    with scripted_judge() as server:
        yield server


@pytest.fixture
def server(running: ScriptedJudge) -> ScriptedJudge:
    """A model behind an endpoint on loopback, as new for each test."""
    running.forget()
    return running
