import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from rollout_models import make_policy


@pytest.fixture(scope="session")
def target_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random policy, made once; not to be written to."""
    return make_policy(tmp_path_factory.mktemp("redteam") / "policy")
