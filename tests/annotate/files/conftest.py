import json
from pathlib import Path

import pytest

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.store.project import create_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    create_project(tmp_path / "project", ProjectConfig(), 1.0)
    return tmp_path / "project"


@pytest.fixture
def write(tmp_path: Path):
    """Writes a text, JSON, or with .jsonl one object per line."""

    def write_file(name: str, content) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            text = content
        elif name.endswith(".jsonl"):
            text = "".join(json.dumps(row) + "\n" for row in content)
        else:
            text = json.dumps(content, indent=1)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file
