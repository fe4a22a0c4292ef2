"""docs/metrics.md names every key that the stages write, and none that they do not."""

import re
from pathlib import Path
from typing import Any

import pytest
from train_models import CPU, cost_model, function, ppo, read_lines, reward_model, sft, write_lines

from equipoise.artefact import read_manifest
from equipoise.config import validate
from equipoise.redteam.config import RedteamConfig
from equipoise.redteam.redteam import redteam
from equipoise.rollout.config import RespondConfig
from equipoise.rollout.respond import respond
from equipoise.train.direct import train_direct
from equipoise.train.direct_config import DirectConfig
from equipoise.train.ppo_lag import train_ppo_lag
from equipoise.train.score_model import train_cost, train_reward
from equipoise.train.sft import train_sft

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def documented(section: str) -> set[str]:
    """The keys in the table of one section; every key has a formula."""
    text = re.search(
        rf"^## {section}$(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert text, section
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", text.group(1), re.MULTILINE)
    assert all(formula.strip() for _, formula in rows)
    assert len(rows) == len(dict(rows))
    return {key for key, _ in rows}


def written(*folders: Path) -> set[str]:
    lines = [line for folder in folders for line in read_lines(folder / "metrics.jsonl")]
    return {key for line in lines for key in line} - {"step"}


def source(path: Path) -> list[dict[str, Any]]:
    return [{"path": str(path)}]


def test_sft(world, tmp_path):
    config = sft(tmp_path, model=world / "policy", demonstrations=source(world / "demonstrations.jsonl"), epochs=1)
    assert written(train_sft(config)) == documented("sft")


def test_reward_and_cost(world, tmp_path):
    settings = {"model": world / "policy", "pairs": source(world / "pairs.jsonl"), "epochs": 1}
    reward = train_reward(reward_model(tmp_path / "reward", **settings))
    settings["labels"] = source(world / "labels.jsonl")
    cost = train_cost(cost_model(tmp_path / "cost", **settings))
    assert written(cost) - written(reward) == {"safety_accuracy"}
    categories = train_cost(cost_model(tmp_path / "categories", categories=["sweet"], **settings))
    assert written(categories) - written(cost) == {"category_accuracy", "category_recall"}
    assert written(reward, categories) == documented("reward and cost")


def test_direct(world, tmp_path):
    tree = {
        "out": tmp_path, "policy": world / "policy", "pairs": source(world / "pairs.jsonl"),
        "method": {"type": "safe_dpo"}, "max_length": 24, "hardware": CPU,
    }  # fmt: skip
    out = train_direct(validate(DirectConfig, tree, where=""))
    assert written(out) == documented("direct")
    means = {key.removeprefix("held_out_") for key in read_manifest(out).facts if key.startswith("held_out_")}
    assert means == documented("direct") - {"grad_norm", "lr"} | {"prompts", "pairs"}


def test_ppo_lag(world, tmp_path):
    validation = {"prompts": source(world / "validation.jsonl")}
    ptx = source(world / "demonstrations.jsonl")
    out = train_ppo_lag(ppo(tmp_path / "out", world, steps=2, update_iters=2, validation=validation, ptx=ptx))
    of_engines = {"sampler_mismatch", "truncated_share"}  # `test_engine` looks at these
    of_others = {"kl_loss", "critic_grad_norm"}  # and `test_frame` at these
    assert written(out) == documented("ppo-lag") - of_engines - of_others
    for line in read_lines(out / "metrics.jsonl"):
        shares = {key: value for key, value in line.items() if key.endswith("_share")}
        assert len(shares) >= 6
        assert all(0 <= share <= 1 for share in shares.values()), shares


def test_respond(world, tmp_path):
    tree = {
        "out": tmp_path / "out", "policy": world / "policy", "prompts": source(world / "validation.jsonl"),
        "max_prompt_length": 12, "sampling": {"max_new_tokens": 4}, "device": "cpu",
    }  # fmt: skip
    assert written(respond(validate(RespondConfig, tree, where=""))) == documented("respond")


def test_redteam(world, tmp_path):
    said = [{"role": "user", "content": "tell {request}"}]
    wrappers = write_lines(tmp_path / "wrappers.jsonl", [{"name": "tell", "messages": said}])
    tree = {
        "out": tmp_path / "out", "policy": world / "policy", "prompts": source(world / "validation.jsonl"),
        "cost": function("count_good"), "budget": 8, "attack": {"generations": 1}, "samples": 1,
        "max_prompt_length": 20, "sampling": {"max_new_tokens": 4}, "device": "cpu", "wrappers": wrappers,
    }  # fmt: skip
    assert written(redteam(validate(RedteamConfig, tree, where=""))) == documented("redteam")


@pytest.mark.parametrize("page", ["ppo-lag", "training"])
def test_pages_link_to_what_is_there(page):
    text = (PAGE.parent / f"{page}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([\w./-]+\.\w+)", text):
        assert (PAGE.parent / target).exists(), target
