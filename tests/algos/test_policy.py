import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equipoise.algos.policy import actor_loss, kl_loss, sampler_weights, sft_loss, value_loss

LENGTHS = (4, 2, 3, 1)


def draw(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three (4, 4) tensors and the mask of responses of 4, 2, 3 and 1 tokens; padding is noise."""
    x, y, z = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind()
    return x, y, z, torch.arange(4) < torch.tensor(LENGTHS).unsqueeze(1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        # ε = 0.2, one token. dL/d ln ρ = −A·ρ on the free branch, 0 on the flat one.
        (1.5, 2.0, -2.4, 0.0, 1),  # A > 0, ρ > 1 + ε: min(3.0, 2·1.2 = 2.4): flat, no reward for going further
        (0.5, 2.0, -1.0, -1.0, 0),  # A > 0, ρ < 1 − ε: min(1.0, 2·0.8 = 1.6): free, a wrong move is corrected
        (1.5, -2.0, 3.0, 3.0, 0),  # A < 0, ρ > 1 + ε: min(−3.0, −2·1.2 = −2.4): free, a wrong move is corrected
        (0.5, -2.0, 1.6, 0.0, 1),  # A < 0, ρ < 1 − ε: min(−1.0, −2·0.8 = −1.6): flat
    ],
)
def test_actor_loss_in_each_of_its_four_regimes(
    ratio: float, advantage: float, loss: float, slope: float, clipped: int
) -> None:
    log_probs = torch.tensor([[math.log(ratio) - 1.0]], dtype=torch.float64, requires_grad=True)
    old_log_probs = torch.tensor([[-1.0]], dtype=torch.float64)
    mask = torch.ones(1, 1, dtype=torch.bool)
    actual, stats = actor_loss(log_probs, old_log_probs, torch.tensor([[advantage]]), mask, 0.2, 1)
    actual.backward()
    assert log_probs.grad is not None
    assert actual.item() == pytest.approx(loss)
    assert log_probs.grad.item() == pytest.approx(slope)
    assert (stats.tokens.item(), stats.clipped.item()) == (1, clipped)
    assert stats.ratio.item() == pytest.approx(ratio)
    assert stats.approx_kl.item() == pytest.approx(ratio - 1 - math.log(ratio))


def test_actor_loss_inside_the_clip_range_hand_worked() -> None:
    # ρ = 1: rows average (1 + 3)/2 = 2 and −5, padding ignored; −(2 − 5)/2 = 1.5.
    log_probs = torch.full((2, 2), -0.7)
    advantages = torch.tensor([[1.0, 3.0], [-5.0, 1e9]])
    mask = torch.tensor([[True, True], [True, False]])
    loss, stats = actor_loss(log_probs, log_probs, advantages, mask, 0.2, 2)
    assert loss.item() == 1.5
    assert (stats.tokens.item(), stats.clipped.item(), stats.approx_kl.item()) == (3, 0, 0.0)


def test_first_update_of_the_actor_follows_the_policy_gradient() -> None:
    # With π_θ = π_old, dL/d ln π(a_t) = −A_t / (tokens of the sequence · sequences).
    log_probs, _, advantages, mask = draw(0)
    leaf = log_probs.clone().requires_grad_()
    actor_loss(leaf, log_probs, advantages, mask, 0.2, 4)[0].backward()
    expected = -advantages / torch.tensor(LENGTHS).unsqueeze(1) / 4 * mask
    torch.testing.assert_close(leaf.grad, expected)


def test_weights_of_a_sampler_hand_worked() -> None:
    # π_old/π_sampler = 0.2/0.4, 0.4/0.1 and 0.3/0.3: ½, 4 and 1; C = 3 cuts the second. |ln| sums to ln 2 + ln 4.
    old, drawn = torch.tensor([[0.2, 0.4], [0.3, 9.0]]).log(), torch.tensor([[0.4, 0.1], [0.3, 1.0]]).log()
    mask = torch.tensor([[True, True], [True, False]])
    weights, stats = sampler_weights(old, drawn, mask, 3.0)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 3.0], [1.0, 1.0]]))
    assert (stats.tokens.item(), stats.truncated.item()) == (3, 1)
    assert stats.distance.item() == pytest.approx(math.log(8))


def test_weights_scale_the_surrogate_on_both_of_its_branches() -> None:
    # ε = 0.2, A = 2, w = ½: at ρ = 1.5 it is ½·min(3.0, 2.4) = 1.2 and flat; at ρ = 0.5 ½·1.0, and so its slope.
    for ratio, loss, slope in ((1.5, -1.2, 0.0), (0.5, -0.5, -0.5)):
        log_probs = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
        old, mask = torch.tensor([[-1.0]]), torch.ones(1, 1, dtype=torch.bool)
        weights, _ = sampler_weights(old, old + math.log(2), mask, 2.0)
        actual, _ = actor_loss(log_probs, old, 2.0 * weights, mask, 0.2, 1)
        actual.backward()
        assert log_probs.grad is not None
        assert (actual.item(), log_probs.grad.item()) == (pytest.approx(loss), pytest.approx(slope))


def test_a_sampler_that_is_the_old_policy_changes_no_bit_of_the_loss() -> None:
    log_probs, old, advantages, mask = (t.float() if t.is_floating_point() else t for t in draw(5))
    weights, stats = sampler_weights(old, old.clone(), mask, 1.0)
    found = []
    for mixed in (advantages, advantages * weights):
        leaf = log_probs.clone().requires_grad_()
        loss, _ = actor_loss(leaf, old, mixed, mask, 0.2, 4)
        loss.backward()
        found.append((loss, leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert (stats.distance.item(), stats.truncated.item()) == (0.0, 0)


@given(seed=st.integers(0, 2**31))
def test_weighted_means_under_the_sampler_are_means_under_the_old_policy(seed: int) -> None:
    # Every token of a vocabulary of 6 once: Σ_a π_sampler(a)·w(a)·f(a) = Σ_a π_old(a)·f(a) if nothing is cut.
    logits = torch.randn(3, 1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    old, drawn, f = logits[0].log_softmax(-1), logits[1].log_softmax(-1), logits[2]
    everywhere = torch.ones(1, 6, dtype=torch.bool)
    weights, _ = sampler_weights(old, drawn, everywhere, 1e9)
    torch.testing.assert_close((drawn.exp() * weights * f).sum(), (old.exp() * f).sum())
    bounded, _ = sampler_weights(old, drawn, everywhere, 1.5)
    assert bounded.max() <= 1.5


@pytest.mark.parametrize("filler", [0.0, 700.0, math.nan])
def test_padding_has_weight_one_and_does_not_count(filler: float) -> None:
    old, drawn, _, mask = draw(6)
    tight, stats = sampler_weights(old, drawn, mask, 2.0)
    weights, same = sampler_weights(old.masked_fill(~mask, filler), drawn, mask, 2.0)
    assert torch.equal(weights, tight)
    assert (weights[~mask] == 1).all()
    torch.testing.assert_close(same, stats)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "slope", "clipped"),
    [
        # Range 5, one token, L = ½·max((V − ret)², (clip(V) − ret)²).
        (3.0, 0.0, 10.0, 24.5, -7.0, 0),  # inside: clip(V) = V; ½·49, slope V − ret
        (8.0, 0.0, 10.0, 12.5, 0.0, 1),  # towards the target beyond the range: clip(V) = 5, ½·25 > ½·4: flat
        (-8.0, 0.0, 10.0, 162.0, -18.0, 0),  # away from the target: clip(V) = −5, ½·324 > ½·225: free
        (-8.0, 0.0, -10.0, 12.5, 0.0, 1),  # the same below: clip(V) = −5, ½·25 > ½·4: flat
        (8.0, 0.0, -10.0, 162.0, 18.0, 0),
    ],
)
def test_value_loss_in_each_regime(
    value: float, old: float, target: float, loss: float, slope: float, clipped: int
) -> None:
    values = torch.tensor([[value]], requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    actual, stats = value_loss(values, torch.tensor([[old]]), torch.tensor([[target]]), mask, denominator=1)
    actual.backward()
    assert values.grad is not None
    assert actual.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(slope)
    assert (stats.tokens.item(), stats.clipped.item(), stats.squared_error.item()) == (
        1,
        clipped,
        (value - target) ** 2,
    )


def test_value_loss_averages_tokens_then_sequences() -> None:
    # Squared errors (1, 9) and (4): means 5 and 4, half of their mean is ½·4.5 = 2.25.
    values = torch.tensor([[1.0, 3.0], [2.0, 1e9]])
    zero, mask = torch.zeros(2, 2), torch.tensor([[True, True], [True, False]])
    loss, stats = value_loss(values, values, zero, mask, denominator=2)
    assert loss.item() == 2.25
    assert stats.squared_error.item() == 14.0


def test_value_clip_range_is_a_parameter() -> None:
    # V = 3 moved 3 from V_old = 0; with range 1 it counts as 1: ½·(1 − 10)² = 40.5.
    one = torch.ones(1, 1)
    loss, _ = value_loss(3 * one, 0 * one, 10 * one, one.bool(), denominator=1, clip_range=1.0)
    assert loss.item() == 40.5


def test_sft_loss_hand_worked() -> None:
    # Targets with log-probs −1, −2 and −3: every token weighs the same, 6/3 = 2, whatever its sequence.
    log_probs = torch.tensor([[-9.0, -1.0, -2.0], [-9.0, -3.0, -math.inf]])
    mask = torch.tensor([[False, True, True], [False, True, False]])
    loss, stats = sft_loss(log_probs, mask, 3)
    assert loss.item() == 2.0
    assert (stats.tokens.item(), stats.nll.item()) == (3, 6.0)


def test_the_end_token_counts_where_the_mask_counts_it() -> None:
    # Where pad == eos, [5, eos, eos] with mask 110 trains on one EOS; a mask guessed from ids would train on none.
    log_probs = torch.tensor([[-1.0, -4.0, -7.0]], requires_grad=True)
    sft_loss(log_probs, torch.tensor([[True, True, False]]), 2)[0].backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [[-0.5, -0.5, 0.0]]


Loss = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, tuple[Tensor, ...]]]
LOSSES: dict[str, Loss] = {
    "actor": lambda x, y, z, mask, d: actor_loss(x, y, z, mask, 0.2, d),
    "value": lambda x, y, z, mask, d: value_loss(x, y, z, mask, denominator=d, clip_range=0.5),
    "sft": lambda x, y, z, mask, d: sft_loss(x, mask, d),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@given(seed=st.integers(0, 2**31), cut=st.integers(1, 3))
def test_splitting_a_batch_adds_up_to_the_same_gradient(loss: Loss, seed: int, cut: int) -> None:
    x, y, z, mask = draw(seed)
    whole, split = x.clone().requires_grad_(), x.clone().requires_grad_()
    whole_loss, whole_stats = loss(whole, y, z, mask, 4)
    whole_loss.backward()
    parts = []
    for part in (slice(0, cut), slice(cut, 4)):
        part_loss, stats = loss(split[part], y[part], z[part], mask[part], 4)
        part_loss.backward()
        parts.append(stats)
    torch.testing.assert_close(split.grad, whole.grad)
    for first, second, total in zip(*parts, whole_stats, strict=True):
        torch.testing.assert_close(first + second, total)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("filler", [0.0, 700.0, math.nan])
def test_padding_changes_nothing(loss: Loss, filler: float) -> None:
    x, y, z, mask = draw(1)
    tight = x.clone().requires_grad_()
    tight_loss, tight_stats = loss(tight, y, z, mask, 4)
    tight_loss.backward()
    padding = torch.full((4, 3), filler, dtype=torch.float64)
    wide = torch.cat([x.masked_fill(~mask, filler), padding], dim=1).requires_grad_()
    others = [torch.cat([t, -padding], dim=1) for t in (y, z)]
    wide_loss, wide_stats = loss(wide, *others, torch.cat([mask, padding.bool() & False], dim=1), 4)
    wide_loss.backward()
    assert tight.grad is not None and wide.grad is not None
    torch.testing.assert_close(wide_loss, tight_loss)
    torch.testing.assert_close(wide.grad[:, :4], tight.grad)
    assert not wide.grad[:, 4:].any()
    torch.testing.assert_close(wide_stats, tight_stats)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_stats_are_detached_scalars(loss: Loss) -> None:
    x, y, z, mask = draw(2)
    _, stats = loss(x.requires_grad_(), y, z, mask, 4)
    assert all(value.ndim == 0 and not value.requires_grad for value in stats)


def test_kl_in_the_loss_by_hand_and_its_gradient() -> None:
    # ρ = π_ref/π: ln 2 apart, ρ − 1 − ln ρ = 2 − 1 − ln 2 and ½ − 1 + ln 2; d/d ln π = 1 − ρ
    log_probs = torch.tensor([[-1.0, -1.0, 9.0]], requires_grad=True)
    ref = torch.tensor([[-1.0 + math.log(2), -1.0 - math.log(2), -9.0]])
    loss = kl_loss(log_probs, ref, torch.tensor([[True, True, False]]), 1.0)
    assert loss.item() == pytest.approx((1 - math.log(2) - 0.5 + math.log(2)) / 2)
    loss.backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([[-0.5, 0.25, 0.0]]))
