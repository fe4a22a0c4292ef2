import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from train_models import asked, conversation, make_policy, make_scorer, prompt, write_lines


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, scorers with and without an adapter on it, one on another base, and data; not to be written to."""
    folder = tmp_path_factory.mktemp("planned-world")
    for name in ("policy", "other"):
        make_policy(folder / name)
    for kind in ("reward", "cost"):
        make_scorer(folder / kind, folder / "policy", kind)
        make_scorer(folder / f"lora-{kind}", folder / "policy", kind, lora=True)
    make_scorer(folder / "published", folder / "other", "reward")
    write_lines(folder / "prompts.jsonl", map(prompt, asked(40)))
    write_lines(folder / "demonstrations.jsonl", (conversation(text, "yes good one") for text in asked(40)))
    write_lines(
        folder / "pairs.jsonl",
        (
            {"prompt": prompt(text), "responses": ["good sweet", "no"], "safer": 1, "is_safe": [False, True]}
            for text in asked(40)
        ),
    )
    return folder
