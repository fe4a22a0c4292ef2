"""A study of the methods without RL, small: every stage that they need runs. Numbers are not judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = """
jobs = 1
threads = 1
limit_from = "labels"
variants = [
  { type = "mocan", name = "mocan", beta = 0.5, limit = 2.0 },
  { type = "c_dpo", name = "c-dpo", beta = 0.5, rounds = 2, limit = -9.0, pairs = { labels = "best" } },
  { type = "rejection", name = "rejection", cost_limit = 2.0 },
]
[prepare_settings]
demonstrations = 800
prompts = 60
validation = 16
held_out = { harmful = 28, harmless = 20, look_alike = 20 }
model = { hidden_size = 48, layers = 1, heads = 2, intermediate_size = 96 }
[sft]
epochs = 4
[respond]
limit = 30
samples_per_prompt = 2
[scored_respond]
samples_per_prompt = 4
[simulate]
responses_per_item = 2
[reward]
epochs = 1
[cost]
epochs = 1
[direct]
max_length = 160
[[rounds]]
"""


@pytest.mark.slow
def test_a_study_trains_policies_from_scored_answers(tmp_path: Path) -> None:
    small, out = tmp_path / "small.toml", tmp_path / "run"
    small.write_text(SMALL, encoding="utf-8")
    command = [sys.executable, "-m", "equipoise.cli", "study", "playground", str(small), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert [policy["name"] for policy in summary["policies"]] == ["sft", "mocan", "c-dpo", "rejection"]
    pairs = json.loads((out / "policies/c-dpo-pairs/summary.json").read_text(encoding="utf-8"))
    cost, limit, before = pairs["cost_before"]["value"], pairs["limit"], pairs["lam_before"]
    assert pairs["lam"] > 0
    assert pairs["lam"] == pytest.approx(before + 0.1 * (cost - limit))
