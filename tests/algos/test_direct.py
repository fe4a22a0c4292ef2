"""The direct losses, against numbers worked by hand: −ln σ(x) = ln(1 + e^−x)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.algos.direct import dpo_loss, modpo_loss, rearranged, safe_dpo_loss

# ln(π_θ/π_ref) of two pairs: h = 2 − (−1) = 3 and h = 0 − 1 = −1.
WINNERS, LOSERS = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 1.0])

ratios = st.lists(st.floats(-20, 20), min_size=6, max_size=6).map(lambda xs: torch.tensor(xs, dtype=torch.float64))


def test_dpo_hand_worked() -> None:
    # β = 0.5: β·h = 1.5 → 0.201413 and −0.5 → 0.974077; mean 0.587745. Σ β·h = 1, one pair is right.
    loss, stats = dpo_loss(WINNERS, LOSERS, 0.5, 2)
    assert loss.item() == pytest.approx(0.587745, abs=1e-6)
    assert [float(value) for value in stats] == [2, 1, 1.0, 2.0, 0.0]


def test_dpo_gradient_hand_worked() -> None:
    # d/dh −ln σ(β·h) = −β·(1 − σ(β·h)): β = 0.5, h = 3 gives −0.5·(1 − 0.817574) = −0.091213.
    winner, loser = torch.tensor([2.0], requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    dpo_loss(winner, loser, 0.5, 1)[0].backward()
    assert winner.grad is not None and loser.grad is not None
    assert winner.grad.item() == pytest.approx(-0.091213, abs=1e-6)
    assert loser.grad.item() == pytest.approx(0.091213, abs=1e-6)


def test_safe_dpo_hand_worked() -> None:
    # β = 0.5, Δ = 2. Pair 1, safe against unsafe: 1.5 − 2 = −0.5 → 0.974077. Pair 2, both safe: −0.5 → 0.974077.
    loss, stats = safe_dpo_loss(WINNERS, LOSERS, torch.tensor([1.0, 0.0]), 0.5, 2.0, 2)
    assert loss.item() == pytest.approx(0.974077, abs=1e-6)
    assert [float(value) for value in stats] == [2, 1, 1.0, 2.0, 0.0]  # accuracy and margin are those of β·h


def test_a_safe_winner_must_lead_by_the_margin_to_reach_ln_two() -> None:
    lead = torch.tensor([4.0])  # β·h = 0.5·4 = 2 = Δ
    loss, _ = safe_dpo_loss(lead, torch.zeros(1), torch.ones(1), 0.5, 2.0, 1)
    assert loss.item() == pytest.approx(math.log(2))


def test_modpo_hand_worked() -> None:
    # β = 0.5, w₀ = 0.8, w₁ = 0.2. Pair 1, Δ_other = −2.5: (1.5 + 0.5)/0.8 = 2.5 → 0.078889.
    # Pair 2, Δ_other = 1.5: (−0.5 − 0.3)/0.8 = −1 → 1.313262. Mean 0.696075.
    loss, _ = modpo_loss(WINNERS, LOSERS, torch.tensor([-2.5, 1.5]), 0.5, 0.8, 2)
    assert loss.item() == pytest.approx(0.696075, abs=1e-6)


@given(ratios, ratios)
def test_without_margin_or_other_objective_all_are_dpo(winners: torch.Tensor, losers: torch.Tensor) -> None:
    gaps = torch.arange(6) % 2 - 0.5
    plain, _ = dpo_loss(winners, losers, 0.3, 6)
    torch.testing.assert_close(safe_dpo_loss(winners, losers, gaps, 0.3, 0.0, 6)[0], plain)
    torch.testing.assert_close(modpo_loss(winners, losers, gaps, 0.3, 1.0, 6)[0], plain)


@given(ratios, ratios, st.integers(1, 5))
def test_two_parts_of_a_batch_add_up(winners: torch.Tensor, losers: torch.Tensor, cut: int) -> None:
    gaps = torch.linspace(-2, 2, 6, dtype=torch.float64)
    for function, weight in ((safe_dpo_loss, 1.5), (modpo_loss, 0.3)):
        whole, stats = function(winners, losers, gaps, 0.1, weight, 6)
        parts = [function(winners[s], losers[s], gaps[s], 0.1, weight, 6) for s in (slice(0, cut), slice(cut, 6))]
        torch.testing.assert_close(parts[0][0] + parts[1][0], whole)
        for one, two, both in zip(parts[0][1], parts[1][1], stats, strict=True):
            torch.testing.assert_close(one + two, both)


def test_a_hopeless_pair_has_a_finite_loss_and_gradient() -> None:
    winner = torch.tensor([-1e4], requires_grad=True)
    loss, _ = dpo_loss(winner, torch.zeros(1), 1.0, 1)
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert winner.grad is not None and winner.grad.item() == pytest.approx(-1.0)


def test_the_optimum_of_modpo_is_that_of_the_weighted_sum() -> None:
    # Two responses, r = (0, 3) by what the pairs say, (2, 0) by the other score, w₀ = 0.4, β = 0.5, π_ref uniform:
    # π* ∝ exp((w₀·r + w₁·r_other)/β), so ln π*(1)/π*(0) = (0.4·3 − 0.6·2)/0.5 = 0. Preferences follow σ(3).
    share = 1 / (1 + math.exp(-3.0))
    h = torch.zeros(1, requires_grad=True)  # of response 1 against response 0
    other = torch.tensor([-2.0])
    one_wins, _ = modpo_loss(h, torch.zeros(1), other, 0.5, 0.4, 1)
    zero_wins, _ = modpo_loss(torch.zeros(1), h, -other, 0.5, 0.4, 1)
    (share * one_wins + (1 - share) * zero_wins).backward()
    assert h.grad is not None and h.grad.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("winner_is_safe", "loser_is_safe", "expected"),
    [(True, True, "keep"), (True, False, "keep"), (False, True, "swap"), (False, False, "drop")],
)
def test_an_unsafe_response_never_wins(winner_is_safe: bool, loser_is_safe: bool, expected: str) -> None:
    assert rearranged(winner_is_safe, loser_is_safe) == expected
