import sys

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from train_models import ppo, read_lines, sft

from equipoise.config import validate
from equipoise.errors import ConfigError
from equipoise.plan.config import Options
from equipoise.plan.plan import make_plan
from equipoise.train import ppo_lag
from equipoise.train.checkpoint import load_checkpoint, save_checkpoint
from equipoise.train.config import OptimizerSettings, SftConfig
from equipoise.train.ppo_lag import train_ppo_lag
from equipoise.train.setup import apply_gradients, make_optimizer
from equipoise.train.sft import train_sft

EIGHT = OptimizerSettings(lr=1e-2, weight_decay=0.1, clip_norm=1e6, bits=8)


@pytest.fixture
def library():
    return pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")


def start(dtype=torch.float32):
    """A matrix with just enough entries for 8 bits, and a vector with too few."""
    torch.manual_seed(0)
    return nn.Linear(64, 64).to(dtype)


def step_on(model, optimizer, steps, settings=EIGHT):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for weight in model.parameters():
            weight.grad = (torch.randn(weight.shape, generator=generator) + 0.5).to(weight.dtype)
        apply_gradients(model, optimizer, settings, lr=settings.lr / (1 + step))


def test_matrices_have_moments_of_8_bits_and_short_vectors_of_32(library):
    model = start()
    optimizer = make_optimizer(model, EIGHT)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    step_on(model, optimizer, range(1))
    for weight, dtype in ((model.weight, torch.uint8), (model.bias, torch.float32)):
        assert {optimizer.state[weight][name].dtype for name in ("state1", "state2")} == {dtype}


def test_steps_are_those_of_adam_with_32_bits_but_for_rounding(library):
    found = []
    for settings in (EIGHT, EIGHT.model_copy(update={"bits": 32})):
        model = start()
        step_on(model, make_optimizer(model, settings), range(20), settings)
        found.append(model)
    rounded, exact = found
    moved = (exact.weight - start().weight).norm()
    assert 0 < (rounded.weight - exact.weight).norm() < 0.05 * moved
    torch.testing.assert_close(rounded.bias, exact.bias, rtol=0, atol=1e-6)  # 32 bits in both


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_goes_on_as_if_it_had_never_stopped(library, tmp_path, dtype):
    model = start(dtype)
    optimizer = make_optimizer(model, EIGHT)
    step_on(model, optimizer, range(3))
    save_checkpoint(tmp_path, {"step": 3}, {"actor": model}, {"actor": optimizer})
    step_on(model, optimizer, range(3, 8))
    again = start(dtype)
    its_optimizer = make_optimizer(again, EIGHT)
    load_checkpoint(tmp_path, {"actor": again}, {"actor": its_optimizer})
    prepared = Accelerator(cpu=True).prepare(its_optimizer)  # gives the state out and takes it in once more
    step_on(again, prepared, range(3, 8))
    for mine, its in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, its)
    whole, resumed = optimizer.state_dict()["state"], its_optimizer.state_dict()["state"]
    for index, entries in whole.items():
        assert entries.keys() == resumed[index].keys()
        assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(resumed[index][n])) for n, x in entries.items())


def test_steps_too_small_for_bfloat16_still_add_up(library):
    model = nn.Linear(64, 64, bias=False).to(torch.bfloat16)
    nn.init.ones_(model.weight)
    settings = OptimizerSettings(lr=1e-4, clip_norm=1e6, bits=8)
    optimizer = make_optimizer(model, settings)
    for _ in range(100):
        model.weight.grad = torch.ones_like(model.weight)
        apply_gradients(model, optimizer, settings, lr=1e-4)
    assert model.weight.float().mean().item() == pytest.approx(1 - 100 * 1e-4, abs=2e-3)


def test_a_stage_trains_with_it(library, world, tmp_path):
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    settings = {"model": world / "policy", "demonstrations": shown, "epochs": 1, "batch_size": 16}
    rounded, exact = (
        train_sft(sft(tmp_path / str(bits), optimizer={"lr": 1e-2, "bits": bits}, **settings)) for bits in (8, 32)
    )
    losses = [[line["loss"] for line in read_lines(out / "metrics.jsonl")] for out in (rounded, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # its weights are small: 32 bits in both
    assert losses[0][-1] < losses[0][0]


def test_without_the_library_it_is_refused_before_anything_loads(world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(ppo_lag, "load_roles", lambda *_: pytest.fail("loaded"))
    config = ppo(tmp_path / "out", world, critic_optimizer={"bits": 8})
    with pytest.raises(ConfigError, match=r"critic_optimizer\.bits = 8(.|\n)*pip install 'equipoise\[quant\]'"):
        train_ppo_lag(config)
    assert not (tmp_path / "out").exists()


def test_parts_of_networks_have_32_bits():
    tree = {"out": "x", "model": "x", "demonstrations": [{"path": "x"}], "optimizer": {"bits": 8}}
    assert validate(SftConfig, tree, where="test").eight_bit() == ["optimizer"]
    with pytest.raises(ConfigError, match=r"set optimizer\.bits = 32"):
        validate(SftConfig, tree | {"hardware": {"shard": True}}, where="test")


def test_plan_does_not_count_what_it_cannot(world, tmp_path):
    shown = [{"path": str(world / "demonstrations.jsonl")}]
    config = sft(tmp_path / "out", model=world / "policy", demonstrations=shown, optimizer={"bits": 8})
    with pytest.raises(ConfigError, match=r"not counted(.|\n)*Plan with bits = 32"):
        make_plan("sft", config, Options())
