import math
import signal

import pytest
import torch
from torch import nn

from equipoise.train.config import OptimizerSettings
from equipoise.train.setup import (
    apply_gradients,
    batch_at,
    learning_rate,
    length_sorted_batches,
    make_optimizer,
    stop_on_interrupt,
)


def test_learning_rate_warms_up_and_then_follows_its_schedule():
    # 100 steps, 4 of warm-up: 1/4, 2/4, 3/4, 4/4 of the peak, then 96 steps down
    cosine = OptimizerSettings(lr=1.0, warmup=0.04)
    assert [learning_rate(cosine, step, 100) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(cosine, 52, 100) == pytest.approx(0.5)  # half way: (1 + cos(π/2))/2
    assert learning_rate(cosine, 99, 100) == pytest.approx((1 + math.cos(math.pi * 95 / 96)) / 2)
    linear = OptimizerSettings(lr=1.0, warmup=0.0, schedule="linear")
    assert learning_rate(linear, 25, 100) == 0.75
    assert learning_rate(OptimizerSettings(lr=1.0, warmup=0.0, schedule="constant"), 99, 100) == 1.0


def test_weight_decay_spares_vectors():
    model = nn.Linear(3, 2)
    decaying, spared = make_optimizer(model, OptimizerSettings(weight_decay=0.1)).param_groups
    assert (decaying["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [p.shape for p in decaying["params"]] == [model.weight.shape]
    assert [p.shape for p in spared["params"]] == [model.bias.shape]


def test_frozen_weights_are_not_trained():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, OptimizerSettings())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_gradients_are_clipped_by_their_common_norm():
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])  # norm 5
    seen = []
    optimizer = make_optimizer(model, OptimizerSettings(lr=1.0))
    optimizer.register_step_pre_hook(lambda *_: seen.append(model.weight.grad.clone()))
    norm = apply_gradients(model, optimizer, OptimizerSettings(lr=1.0, clip_norm=1.0), lr=0.1)
    assert norm.item() == 5.0
    assert torch.allclose(seen[0], torch.tensor([[0.6, 0.8]]), atol=1e-5)
    assert model.weight.grad is None


def test_steps_too_small_for_bfloat16_still_add_up():
    # Neighbours of 1.0 in bfloat16 are 2⁻⁸ = 0.0039 below and 2⁻⁷ above; Adam's steps here are about 1e-4.
    model = nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    nn.init.ones_(model.weight)
    settings = OptimizerSettings(lr=1e-4, clip_norm=1e6)
    optimizer = make_optimizer(model, settings)
    for _ in range(100):
        model.weight.grad = torch.ones_like(model.weight)
        apply_gradients(model, optimizer, settings, lr=1e-4)
    assert model.weight.dtype == torch.bfloat16
    assert model.weight.float().mean().item() == pytest.approx(1 - 100 * 1e-4, abs=2e-3)


def test_batches_are_shuffled_passes_laid_end_to_end():
    drawn = [i for step in range(6) for i in batch_at(9, 3, seed=5, step=step)]
    assert sorted(drawn[:9]) == sorted(drawn[9:]) == list(range(9))
    assert drawn[:9] != drawn[9:]
    assert batch_at(9, 3, seed=5, step=4) == drawn[12:15]  # a function of the step alone
    assert len(batch_at(4, 6, seed=0, step=0)) == 6  # a batch may be larger than the data


def test_length_sorted_batches_hold_every_row_once_and_little_padding():
    lengths = tuple((7 * n) % 50 for n in range(103))
    batches = length_sorted_batches(lengths, 8, 0, 0)
    assert sorted(i for batch in batches for i in batch) == list(range(103))
    padding = sum(max(lengths[i] for i in b) * len(b) - sum(lengths[i] for i in b) for b in batches)
    assert padding < 0.15 * sum(lengths)
    assert batches != length_sorted_batches(lengths, 8, 0, 1)


def test_the_first_interrupt_asks_and_the_second_one_stops():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt() as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
