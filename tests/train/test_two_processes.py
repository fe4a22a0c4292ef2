"""Several processes, with whole networks or parts of them: two do what one does, and neither waits forever."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from safetensors import safe_open
from safetensors.torch import load_file
from train_models import Trouble, read_lines

from equipoise.artefact import read_manifest
from equipoise.train.ppo_lag import train_ppo_lag

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The directories that one process and two processes have written."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patches:
        two_processes.alone(world, one, patches.setattr)
    said, ended = launch(2, HERE / "two_processes.py", world, two, one)
    # The second was killed. Having said so, the first may be aborted by torch while the interpreter shuts down.
    assert ended[0] in (0, -6), "\n".join(said)
    assert ended[1] == -9, "\n".join(said)
    assert (two / "last-words").exists(), "\n".join(said)
    assert "step 1/" in said[0]
    assert "step 1/" not in said[1]  # the main process speaks for both
    return one, two


def launch(count: int, *command: str | Path) -> tuple[list[str], list[int]]:
    """What each of several processes said and how it ended, told what torchrun and accelerate launch tell them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | told | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return said, [process.returncode for process in started]


def close(one: list[dict[str, float]], two: list[dict[str, float]], rel: float = 1e-4) -> None:
    assert len(one) == len(two)
    for mine, theirs in zip(one, two, strict=True):
        assert mine == pytest.approx(theirs, rel=rel, abs=1e-5)


def without_counts(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run of RL; the share of the commonest text is counted within each process."""
    counted = ("repeated_share", "same_start_share")
    return [{k: v for k, v in line.items() if k not in counted} for line in read_lines(folder / "metrics.jsonl")]


def gradients(folder: Path, name: str, rank: int, network: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}-gradients-{rank}-{network}.safetensors")


@pytest.mark.parametrize(
    ("reference", "name", "networks"),
    [
        ("whole/sft", "whole/sft", 1),
        ("whole/cost", "whole/cost", 1),
        ("whole/direct", "whole/direct", 1),
        ("ppo", "ppo", 3),
        ("long", "long-whole", 3),
        ("whole/sft", "parts/sft", 1),
        ("whole/cost", "parts/cost", 1),
        ("whole/direct", "parts/direct", 1),
        ("long", "long-parts", 3),
    ],
)
def test_gradients_are_those_of_one_process_on_both(runs, reference, name, networks):
    one, two = runs
    for network in range(networks):
        known = gradients(one, reference, 0, network)
        for rank in (0, 1):
            found = gradients(two, name, rank, network)
            assert found.keys() == known.keys()
            for key, gradient in known.items():
                assert torch.allclose(found[key], gradient, atol=1e-5), key
        assert max(gradient.abs().max() for gradient in known.values()) > 1e-3


@pytest.mark.parametrize(
    ("name", "networks"), [("parts/sft", 1), ("parts/cost", 1), ("parts/lora", 1), ("long-parts", 3)]
)
def test_in_parts_each_process_holds_its_share_of_the_weights_alone(runs, name, networks):
    _, two = runs
    for network in range(networks):
        files = [two / f"{name}-gradients-{rank}-{network}.safetensors" for rank in (0, 1)]
        held = [float(safe_open(file, "pt").metadata()["held"]) for file in files]
        assert sum(held) == pytest.approx(1)
        assert max(held) < 0.6


@pytest.mark.parametrize("shape", ["whole", "parts"])
@pytest.mark.parametrize("loop", ["sft", "cost", "direct"])
def test_losses_accuracies_and_results_are_those_of_one_process(runs, loop, shape):
    one, two = runs
    folders = (one / "whole" / loop, two / shape / loop)
    close(*(read_lines(folder / "metrics.jsonl") for folder in folders))
    facts = [read_manifest(folder).facts for folder in folders]
    assert facts[0].keys() == facts[1].keys()
    assert facts[0]["steps"] == facts[1]["steps"]
    for file in ("model.safetensors", *(["score_head.safetensors"] if loop == "cost" else [])):
        weights = [load_file(folder / file) for folder in folders]
        assert weights[0].keys() == weights[1].keys()
        for name, weight in weights[0].items():
            assert torch.allclose(weights[1][name], weight, atol=1e-4), name
    assert facts[0].get("categories") == facts[1].get("categories")


def test_settings_of_sharding_change_nothing_in_one_process(runs):
    one, _ = runs
    for loop in ("sft", "cost", "lora"):
        files = [load_file(one / shape / loop / "model.safetensors") for shape in ("whole", "parts")]
        for name, weight in files[0].items():
            assert torch.equal(files[1][name], weight), name


def test_adapters_in_bfloat16_learn_the_same_in_parts(runs):
    """Two processes add up bfloat16 gradients in another order, so only so much is the same."""
    one, two = runs
    losses = [
        [line["loss"] for line in read_lines(f / "lora" / "metrics.jsonl")] for f in (one / "whole", two / "parts")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    found = [
        load_file(f / "lora" / "adapter" / "adapter_model.safetensors") for f in (one / "whole", two / "parts")
    ]
    assert found[0].keys() == found[1].keys()
    assert (two / "parts" / "lora" / "model.safetensors").exists()


@pytest.mark.parametrize("shape", ["whole", "parts"])
def test_twenty_steps_on_the_same_rollouts_follow_those_of_one_process(runs, shape):
    one, two = runs
    known, found = without_counts(one / "long"), without_counts(two / f"long-{shape}")
    assert len(known) == 20
    close(known, found, rel=1e-3)
    losses = [line["actor_loss"] for line in known]
    assert max(losses) - min(losses) > 1e-3  # what is followed moves
    moved = [len({line[key] for line in known}) for key in ("lambda", "reward_critic_loss", "ptx_loss")]
    assert moved == [20, 20, 20]


@pytest.mark.parametrize("shape", ["whole", "parts"])
def test_lambda_is_the_same_number_in_all_processes(runs, shape):
    one, two = runs
    files = [one / "long-lambda-0.json", *(two / f"long-{shape}-lambda-{rank}.json" for rank in (0, 1))]
    lams = [json.loads(file.read_text()) for file in files]
    assert lams[1] == lams[2]
    assert lams[0] == pytest.approx(lams[1], rel=1e-4)
    assert len(set(lams[0])) == 20


def test_lambda_and_metrics_are_those_of_one_process_on_both(runs):
    one, two = runs
    files = (one / "ppo-lambda-0.json", two / "ppo-lambda-0.json", two / "ppo-lambda-1.json")
    lams = [json.loads(file.read_text()) for file in files]
    assert lams[1] == lams[2]
    assert lams[0] == pytest.approx(lams[1])
    assert len(set(lams[0])) == 4
    shared = [without_counts(folder / "ppo") for folder in runs]
    close(*shared)
    assert "validation_mean_reward" in shared[1][-1]


def test_each_group_has_one_lambda_in_all_processes_though_one_saw_none_of_it(runs):
    one, two = runs
    files = (one / "groups-lambda-0.json", two / "groups-lambda-0.json", two / "groups-lambda-1.json")
    lams = [json.loads(file.read_text()) for file in files]
    assert lams[1] == lams[2]
    assert lams[0] == pytest.approx(lams[1])
    assert len(set(lams[0][::2])) == len(set(lams[0][1::2])) == 4  # both groups, at each of four steps


def test_roles_on_one_base_learn_the_same_in_two_processes(runs):
    close(*(without_counts(folder / "adapters") for folder in runs))
    one, two = (load_file(folder / "adapters" / "adapter" / "adapter_model.safetensors") for folder in runs)
    for name, weight in one.items():
        assert torch.allclose(two[name], weight, atol=1e-5), name


def test_ctrl_c_in_one_process_stops_both_after_the_same_step_and_both_go_on(runs):
    _, two = runs
    assert (two / "stopped-0").exists()
    assert (two / "stopped-1").exists()
    assert read_manifest(two / "stopped").files == read_manifest(two / "ppo").files


def test_a_checkpoint_of_one_process_goes_on_in_two(runs):
    one, _ = runs
    close(without_counts(one / "uninterrupted"), without_counts(one / "one-then-two"))
    assert read_manifest(one / "one-then-two").facts["steps"] == 4


def test_a_dead_process_ends_the_run_in_words_and_its_checkpoint_goes_on_in_one(runs, world, monkeypatch):
    one, two = runs
    words = (two / "last-words").read_text()
    assert words.startswith("Another process of this run has ended, or has not answered in time.")
    assert "goes on from its last checkpoint" in words
    [saved] = (two / "killed" / "checkpoints").glob("step-*")
    assert saved.name == "step-000003"
    two_processes.watch(two, monkeypatch.setattr)
    Trouble.calls, Trouble.at = 0, None
    train_ppo_lag(
        two_processes.rl(two / "killed", world, "troubled", hardware=two_processes.PARTS, checkpoint_every=1)
    )
    close(without_counts(one / "uninterrupted"), without_counts(two / "killed"))
    assert Trouble.calls == 2  # the step that was left, and the validation behind it
