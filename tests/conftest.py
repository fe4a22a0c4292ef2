"""What tests of several packages need."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data; a test that wants it is skipped where there is none."""
    folder = os.environ.get("EQUIPOISE_REAL_DATA")
    if not folder:
        pytest.skip("EQUIPOISE_REAL_DATA names no folder of real data")
    return Path(folder)
