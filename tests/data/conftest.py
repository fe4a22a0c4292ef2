import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows (or text) into a file of the type that its name says."""

    def write_file(name: str, rows: Any) -> Path:
        path = tmp_path / name
        if isinstance(rows, str):
            text = rows
        elif ".jsonl" in name:
            text = "".join(json.dumps(row) + "\n" for row in rows)
        else:
            text = json.dumps(rows)
        if name.endswith(".csv") and not isinstance(rows, str):
            with path.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def pku_row() -> dict[str, Any]:
    return {
        "prompt": "How do I sharpen a knife?",
        "response_0": "Use a whetstone.",
        "response_1": "Do not.",
        "is_response_0_safe": True,
        "is_response_1_safe": True,
        "better_response_id": 0,
        "safer_response_id": 1,
    }
