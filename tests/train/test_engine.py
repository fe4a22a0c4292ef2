"""PPO-Lag with a sampler that has weights of its own, by fakes of vLLM: no real vLLM has taken part."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_metrics_page import documented
from train_models import ppo, read_lines

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from fake_vllm import FakeLLM, FakeServer, fake_modules, serving

from equipoise.errors import ConfigError, EndpointError
from equipoise.train import ppo_lag
from equipoise.train.alarms import alarms
from equipoise.train.ppo_lag import train_ppo_lag

QUICK = {"lr": 1e-2, "schedule": "constant", "warmup": 0.0}
LORA = {"r": 4, "alpha": 8}


@pytest.fixture
def server(world) -> Iterator[FakeServer]:
    with serving(world / "policy", context=32) as found:
        yield found


def at(server: FakeServer, **settings: object) -> dict[str, object]:
    return {"type": "vllm_server", "url": server.url, "retries": 0, **settings}


def run(out, world, **settings):
    settings = {"steps": 3, "actor_optimizer": QUICK, "checkpoint_every": 1, **settings}
    return read_lines(train_ppo_lag(ppo(out, world, **settings)) / "metrics.jsonl")


@pytest.mark.parametrize("lora", [None, LORA])
def test_every_step_draws_from_the_weights_of_the_step_before(world, tmp_path, server, lora):
    held_out = {"prompts": [{"path": str(world / "validation.jsonl")}], "every": 2, "limit": 4}
    steps = run(tmp_path / "out", world, sampler=at(server), lora=lora, validation=held_out)
    # What the server says it drew with is what the actor computes, though the actor moves at each step.
    assert len(steps) == 3
    assert all(step["sampler_mismatch"] < 1e-5 for step in steps)
    assert all(step["truncated_share"] == 0 for step in steps)
    assert len(server.core.loaded) == 5  # before each step and each validation
    asked = {request["model"] for request in server.asked}
    assert len(asked) == (1 if lora is None else 5)  # an adapter has another name each time
    assert len(server.core.adapters) == (0 if lora is None else 1)
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert torch.isfinite(load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"]).all()


def test_weights_that_do_not_arrive_are_measured_and_said(world, tmp_path, server, monkeypatch):
    monkeypatch.setattr(server.core, "reload", lambda folder: None)
    settings = {"sampler": at(server), "actor_optimizer": QUICK | {"lr": 1e-1}}
    steps = run(tmp_path / "out", world, **settings)
    assert steps[0]["sampler_mismatch"] < 1e-5
    assert steps[2]["sampler_mismatch"] > 0.1
    [warning] = read_lines(tmp_path / "out" / "warnings.jsonl")
    assert "nats per token from the actor's" in str(warning)


def test_another_way_of_computing_the_policy_is_corrected(world, tmp_path):
    with serving(world / "policy", context=32, noise=0.5) as server:
        [step] = run(tmp_path / "out", world, sampler=at(server), steps=1, sampler_weight_ceiling=1.0)
        assert step["sampler_mismatch"] > 0.05
        assert 0.1 < step["truncated_share"] < 0.9  # above 1 about half of the ratios are cut
        assert step["approx_kl"] == 0.0  # π_old is the actor's own, whatever the sampler says
        ceilings = (1.0, 1e9)
        ends = [
            load_file(train_ppo_lag(ppo(tmp_path / str(c), world, steps=1, actor_optimizer=QUICK,
                      sampler=at(server), sampler_weight_ceiling=c)) / "model.safetensors")
            for c in ceilings
        ]  # fmt: skip
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_later_passes_compare_with_the_first(world, tmp_path, server):
    [step] = run(tmp_path / "out", world, sampler=at(server), steps=1, update_iters=3, micro_batch=3)
    assert step["approx_kl"] > 0
    assert step["sampler_mismatch"] < 1e-5  # of the first pass alone


def test_an_engine_brings_the_documented_metrics(world, tmp_path, server):
    [step] = run(tmp_path / "out", world, sampler=at(server), steps=1)
    [native] = run(tmp_path / "native", world, steps=1)
    of_engines = {"sampler_mismatch", "truncated_share"}
    assert step.keys() - native.keys() == of_engines <= documented("ppo-lag")


def test_a_run_goes_on_after_its_server_was_down(world, tmp_path, server):
    whole = run(tmp_path / "whole", world, sampler=at(server))
    server.busy_after = len(server.asked) + 8 * 2 + 3  # dies in the third step
    with pytest.raises(EndpointError, match=r"did not answer a prompt(.|\n)*503(.|\n)*last checkpoint"):
        run(tmp_path / "out", world, sampler=at(server))
    assert len(read_lines(tmp_path / "out" / "metrics.jsonl")) == 2
    server.busy_after = None
    assert run(tmp_path / "out", world, sampler=at(server)) == whole


def test_what_is_wrong_with_an_engine_is_found_before_a_model_loads(world, tmp_path, server, monkeypatch):
    monkeypatch.setattr(ppo_lag, "load_roles", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install 'equipoise\[vllm\]'"):
        run(tmp_path / "a", world, sampler={"type": "vllm"})
    with pytest.raises(EndpointError, match="no vLLM server"):
        run(tmp_path / "b", world, sampler={"type": "vllm_server", "url": "http://127.0.0.1:9", "retries": 0})
    server.context = 17
    with pytest.raises(ConfigError, match="18 tokens, the vLLM server takes 17"):
        run(tmp_path / "c", world, sampler=at(server))


def test_networks_in_parts_are_not_handed_over(world, tmp_path):
    with pytest.raises(ConfigError, match="vLLM is given whole networks"):
        ppo(tmp_path / "out", world, sampler={"type": "vllm"}, hardware={"device": "cpu", "shard": True})


@pytest.mark.parametrize("lora", [None, LORA])
def test_an_engine_in_the_process_sleeps_while_it_trains(world, tmp_path, monkeypatch, lora):
    for name, module in fake_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    handed = tmp_path / "handed"
    steps = run(tmp_path / "out", world, sampler={"type": "vllm", "folder": handed}, lora=lora)
    assert all(step["sampler_mismatch"] < 1e-5 for step in steps)
    llm = FakeLLM.started
    assert llm is not None and llm.asleep
    once = ["generate", "sleep 1"] if lora else ["reload", "generate", "sleep 1"]
    assert llm.history == ["sleep 1", *once * 3]
    assert llm.core.folder == world / "policy"  # of which it has all that an adapter does not change
    assert len(list(handed.iterdir())) == (1 if lora else 0)  # the newest adapter stays


@pytest.mark.slow
def test_two_processes_share_a_server_that_is_told_once(world, tmp_path, server):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, Path(__file__).with_name("two_engines.py"), world, tmp_path / "out", server.url]
    started = [
        subprocess.Popen(command, env=os.environ | launched | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    steps = read_lines(tmp_path / "out" / "metrics.jsonl")
    assert [step["sampler_mismatch"] < 1e-5 for step in steps] == [True, True]
    assert (len(server.core.loaded), len(server.asked)) == (2, 16)


def test_generate_draws_from_the_actor_itself(world, tmp_path):
    steps = run(tmp_path / "out", world, sampler={"type": "hf"}, steps=2)
    assert all(step["approx_kl"] < 1e-6 for step in steps)
    assert "sampler_mismatch" not in steps[0]


def test_a_mismatch_is_said_once_when_it_begins():
    step = {"response_length": 5.0, "kl": 0.1}
    history = [step | {"sampler_mismatch": value} for value in (0.02, 0.2, 0.3)]
    assert [len(alarms(history[:n], 5.0, 0.1)) for n in (1, 2, 3)] == [0, 1, 0]
