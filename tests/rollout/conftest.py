from pathlib import Path

import pytest
from rollout_models import MODELS, make_policy
from transformers import PreTrainedModel


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return MODELS[request.param]()


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny policy, made once; not to be written to."""
    return make_policy(tmp_path_factory.mktemp("work") / "tiny-policy")
