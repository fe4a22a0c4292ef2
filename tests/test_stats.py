import numpy as np
import pytest

from equipoise.errors import EvaluationError
from equipoise.stats import all_wins_bound, fit_logistic, wilson


def test_wilson_interval_equals_the_hand_worked_one():
    # p̂ = .2, n = 10, z = 1.96: centre (.2 + 3.8416/20)/1.38416 = .39208/1.38416 = .28326,
    # half width 1.96·√(.016 + 3.8416/400)/1.38416 = 1.96·.160012/1.38416 = .22658
    rate = wilson(2, 10)
    assert rate.value == pytest.approx(0.2)
    assert rate.low == pytest.approx(0.0567, abs=1e-4)
    assert rate.high == pytest.approx(0.5098, abs=1e-4)
    assert rate.n == 10


def test_wilson_interval_of_no_hits_still_has_width():
    # high = z²/(n + z²) = 3.8416/103.8416
    rate = wilson(0, 100)
    assert (rate.value, rate.low) == (0.0, 0.0)
    assert rate.high == pytest.approx(0.03699, abs=1e-4)


def test_wilson_interval_covers_about_as_often_as_it_says():
    hits = np.random.default_rng(0).binomial(200, 0.05, size=2000)
    intervals = {k: wilson(int(k), 200) for k in np.unique(hits)}
    covered = np.mean([intervals[k].low <= 0.05 <= intervals[k].high for k in hits])
    assert 0.93 < covered < 0.98


def test_rate_over_zero_items_is_an_error_that_says_of_what():
    with pytest.raises(EvaluationError, match="zero harmful requests"):
        wilson(0, 0, of="harmful requests")


def test_bound_after_all_wins_is_exact():
    # one-sided Clopper–Pearson with n of n: .05^(1/n); the "rule of three" says 1 − 3/n
    assert all_wins_bound(1) == pytest.approx(0.05)
    assert all_wins_bound(300) == pytest.approx(1 - 3 / 300, abs=1e-4)
    with pytest.raises(EvaluationError):
        all_wins_bound(0)


def test_logistic_fit_of_one_share_is_its_log_odds_with_robust_error():
    # 80 of 100: ln 4; every row its own cluster: var = Σ(y−p)²/(Σp(1−p))² · n/(n−1) = 16/16² · 100/99 (clusters)
    outcomes = np.array([1.0] * 80 + [0.0] * 20)
    fit = fit_logistic(np.ones((100, 1)), outcomes, range(100))
    assert fit.coefficients[0] == pytest.approx(np.log(4), rel=1e-6)
    assert fit.covariance[0, 0] == pytest.approx(100 / 99 / 16, rel=1e-2)


def test_repeating_every_row_within_its_cluster_adds_no_certainty():
    outcomes = np.array([1.0] * 30 + [0.0] * 20)
    once = fit_logistic(np.ones((50, 1)), outcomes, range(50))
    thrice = fit_logistic(np.ones((150, 1)), np.tile(outcomes, 3), [*range(50)] * 3)
    assert thrice.covariance[0, 0] == pytest.approx(once.covariance[0, 0], rel=0.03)


def test_one_cluster_has_no_covariance():
    with pytest.raises(EvaluationError, match="two prompts"):
        fit_logistic(np.ones((3, 1)), np.array([1.0, 0.0, 1.0]), ["p", "p", "p"])
