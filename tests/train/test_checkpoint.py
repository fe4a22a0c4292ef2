import errno

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from train_models import make_policy

from equipoise.errors import ArtefactError
from equipoise.models.backbone import load_causal_lm
from equipoise.train import checkpoint
from equipoise.train.checkpoint import load_checkpoint, save_checkpoint
from equipoise.train.config import OptimizerSettings
from equipoise.train.setup import apply_gradients, make_optimizer

SETTINGS = OptimizerSettings(lr=0.1)


def trained(steps: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).to(dtype)
    optimizer = make_optimizer(model, SETTINGS)
    step_on(model, optimizer, steps)
    return model, optimizer


def step_on(model: nn.Module, optimizer: torch.optim.AdamW, steps: int) -> None:
    for _ in range(steps):
        (model(torch.ones(4, 3, dtype=model.weight.dtype)) - 7).float().square().mean().backward()
        apply_gradients(model, optimizer, SETTINGS, lr=0.1)


def names(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_goes_on_as_if_it_had_never_stopped(tmp_path, dtype):
    model, optimizer = trained(3, dtype)
    save_checkpoint(tmp_path, {"step": 3, "lam": 0.1 + 0.2}, {"actor": model}, {"actor": optimizer})
    step_on(model, optimizer, 4)
    again, its_optimizer = trained(0, dtype)
    assert load_checkpoint(tmp_path, {"actor": again}, {"actor": its_optimizer}) == {"step": 3, "lam": 0.1 + 0.2}
    step_on(again, its_optimizer, 4)
    for mine, its in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_there_is_nothing_to_load_before_the_first_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path, {}, {}) is None


def test_old_checkpoints_go_and_the_newest_counts(tmp_path):
    model, optimizer = trained(1)
    for step in (5, 50, 500):
        save_checkpoint(tmp_path, {"step": step}, {"actor": model}, {"actor": optimizer}, kept=2)
    assert names(tmp_path) == ["step-000050", "step-000500"]
    assert load_checkpoint(tmp_path, {"actor": model}, {"actor": optimizer}) == {"step": 500}


@pytest.mark.parametrize(
    "full", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left on device")]
)
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, full):
    model, optimizer = trained(2)
    save_checkpoint(tmp_path, {"step": 2}, {"actor": model}, {"actor": optimizer})
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step_on(model, optimizer, 1)

    def refuse(*_: object) -> None:
        raise full

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(ArtefactError, match=r"older ones are untouched(.|\n)*No space left(.|\n)*same command"):
        save_checkpoint(tmp_path, {"step": 3}, {"actor": model}, {"actor": optimizer})
    assert names(tmp_path) == ["step-000002"]
    assert load_checkpoint(tmp_path, {"actor": model}, {"actor": optimizer}) == {"step": 2}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in kept.items())


def test_a_half_written_checkpoint_is_none(tmp_path):
    model, optimizer = trained(1)
    save_checkpoint(tmp_path, {"step": 1}, {"actor": model}, {"actor": optimizer})
    (tmp_path / "checkpoints" / ".writing").mkdir()  # what a kill leaves behind
    assert load_checkpoint(tmp_path, {"actor": model}, {"actor": optimizer}) == {"step": 1}
    save_checkpoint(tmp_path, {"step": 2}, {"actor": model}, {"actor": optimizer})
    assert names(tmp_path) == ["step-000002"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    model, optimizer = trained(1)
    folder = save_checkpoint(tmp_path, {"step": 1}, {"actor": model}, {"actor": optimizer})
    (folder / "actor.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ArtefactError, match=r"cannot be read(.|\n)*step-000001(.|\n)*Remove that folder"):
        load_checkpoint(tmp_path, {"actor": model}, {"actor": optimizer})


def test_tied_weights_are_kept_once_and_stay_tied(tmp_path):
    policy = load_causal_lm(make_policy(tmp_path / "policy", "gpt2"))
    optimizer = make_optimizer(policy, SETTINGS)
    folder = save_checkpoint(tmp_path, {"step": 1}, {"actor": policy}, {"actor": optimizer})
    assert (folder / "actor.safetensors").stat().st_size < 4 * sum(p.numel() for p in policy.parameters()) + 4096
    with torch.no_grad():
        policy.transformer.wte.weight.zero_()
    load_checkpoint(tmp_path, {"actor": policy}, {"actor": optimizer})
    assert policy.lm_head.weight is policy.transformer.wte.weight
    assert policy.lm_head.weight.abs().sum() > 0
