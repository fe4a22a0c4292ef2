import itertools
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom, multinomial, ttest_1samp
from statsmodels.stats.proportion import confint_proportions_2indep

from equipoise.errors import EvaluationError
from equipoise.stats import (
    _log_capital,
    fit_logistic,
    holm,
    lower_bound,
    mcnemar,
    mean,
    mean_excess_p,
    mean_t_bound,
    mean_upper_bound,
    paired_difference,
    ppi_mean,
    upper_bound,
    wilson,
)


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


def test_upper_bound_leaves_exactly_the_error_below_the_hits():
    # P(X ≤ 2 | n = 50, p) = .05 at the bound; with no hits (1 − p)^n = .05, so p = 1 − .05^(1/59) ≈ .0495
    assert binom.cdf(2, 50, upper_bound(2, 50)) == pytest.approx(0.05)
    assert upper_bound(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_bound(7, 7) == 1.0
    with pytest.raises(EvaluationError, match="zero items"):
        upper_bound(0, 0)


def test_lower_bound_leaves_exactly_the_error_above_the_hits():
    assert binom.sf(1, 50, lower_bound(2, 50)) == pytest.approx(0.05)
    assert lower_bound(0, 7) == 0.0
    assert lower_bound(7, 7) == pytest.approx(0.05 ** (1 / 7))


def samples_of_three(n: int, shares: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
    """How often each of three values can stand in n draws, and how probably it does."""
    counts = [c for c in itertools.product(range(n + 1), repeat=3) if sum(c) == n]
    return [(c, float(multinomial.pmf(c, n, shares))) for c in counts]


def test_bets_against_the_mean_neither_win_nor_lose_and_against_less_they_lose():
    # exact: every sample of n draws from three values, weighed by its probability
    rng = np.random.default_rng(0)
    for _ in range(60):
        room, shares = rng.random(3) * rng.choice([0.01, 0.3, 1], size=3), rng.dirichlet([0.5, 0.5, 0.5])
        mean = float(room @ shares)
        samples = samples_of_three(int(rng.integers(1, 7)), shares)

        def expected(mean_room: float, room=room, samples=samples) -> float:
            return sum(p * math.exp(_log_capital(np.repeat(room, c), mean_room, 1.0)) for c, p in samples)

        assert expected(mean) == pytest.approx(1, rel=1e-9)
        assert expected(1.2 * mean) < 1 < expected(mean / 1.2)


def test_the_p_of_a_mean_errs_no_more_often_than_it_says():
    # exact as above; the values lie anywhere below the end of the range, 1
    rng = np.random.default_rng(1)
    largest = 0.0
    for _ in range(60):
        n = int(rng.integers(1, 6))
        values = np.append(rng.random(2) * rng.choice([0.01, 0.3, 1]), rng.choice([0.9, 1.0]))
        shares = rng.dirichlet([0.5, 0.5, 0.5])
        samples = samples_of_three(n, shares)
        ps = np.array([mean_excess_p(np.repeat(values, c), float(values @ shares), 1.0) for c, _ in samples])
        weights = np.array([weight for _, weight in samples])
        for alpha in (0.001, 0.01, 0.05, 0.3):
            error = float(weights[ps <= alpha].sum())
            assert error <= alpha
            largest = max(largest, error / alpha)
    assert largest > 0.2  # and it does reject


def test_the_p_of_a_mean_is_the_sum_of_products_in_sixty_digits():
    def exact(values: list[float], limit: float, high: float) -> Decimal:
        stakes = [Decimal(2) ** (Decimal(-j) / 2) for j in range(25)]
        room = [(Decimal(high) - Decimal(x)) / (Decimal(high) - Decimal(limit)) for x in values]
        products = [math.prod((1 - c + c * u for u in room), start=Decimal(1)) for c in stakes]
        capital = sum(c * product for c, product in zip(stakes, products, strict=True)) / sum(stakes)
        return min(Decimal(1), 1 / capital)

    rng = np.random.default_rng(2)
    with localcontext(prec=60):
        for n, limit in ((1, 1.0), (40, 0.1), (40, 0.9), (2000, 0.05), (2000, -0.5)):
            values = rng.normal(0, 1, size=n).clip(-4, 4)
            wanted = exact(values.tolist(), limit, 4.0)
            assert mean_excess_p(values, limit, 4.0) == pytest.approx(float(wanted), rel=1e-9)
        ends = [4.0, -4.0, 1.0]  # at the end of the range the whole stake is lost
        assert mean_excess_p(np.array(ends), 3.5, 4.0) == pytest.approx(float(exact(ends, 3.5, 4.0)), rel=1e-12)
    assert mean_excess_p(np.full(10**5, -4.0), 3.0, 4.0) == 0.0  # 8^(10⁵): no overflow


def test_the_bound_of_equal_values_lies_between_those_of_the_largest_stake_alone():
    # all of the prior on c = 1 would give ((high − x)/(high − m))^n = 1/α; it has the share w_0 = .2929, and the
    # other stakes win less
    for n in (1, 5, 50, 1000):
        bound = mean_upper_bound(np.full(n, -3.0), 10.0)
        assert 10 - 13 * 0.05 ** (1 / n) < bound < 10 - 13 * (0.2929 * 0.05) ** (1 / n)
    assert mean_upper_bound(np.full(2, 7.0), 7.0) == 7.0


def test_the_bound_of_zeros_and_ones_is_above_the_exact_one_but_near_it():
    for hits, n in ((0, 1), (0, 300), (3, 200), (40, 50), (5, 5000), (50, 50)):
        bound = mean_upper_bound(np.r_[np.ones(hits), np.zeros(n - hits)], 1.0)
        exact = upper_bound(hits, n)
        assert exact <= bound <= min(1, exact + 0.9 * (exact - hits / n))


def test_the_bound_of_a_mean_is_where_its_p_is_the_error():
    values = np.random.default_rng(3).beta(0.5, 3, size=80)
    for confidence in (0.9, 0.95, 0.9999):
        bound = mean_upper_bound(values, 1.0, confidence=confidence)
        assert mean_excess_p(values, bound, 1.0) == pytest.approx(1 - confidence, rel=1e-6)
    # the p falls as the limit rises, so what is not rejected is an interval
    ps = [mean_excess_p(values, limit, 1.0) for limit in np.linspace(-1, 0.99, 200)]
    assert ps == sorted(ps, reverse=True) and ps[0] == 1.0 and ps[-1] < 1e-9


def test_a_higher_value_or_a_higher_confidence_raises_the_bound_of_a_mean():
    values = np.linspace(-2, 3, 40)
    bound = mean_upper_bound(values, 5.0)
    assert mean_upper_bound(values + np.eye(40)[0], 5.0) > bound
    assert mean_upper_bound(values, 5.0, confidence=0.99) > bound
    assert mean_upper_bound(3 * values - 1, 14.0) == pytest.approx(3 * bound - 1)
    assert mean_upper_bound(values[::-1], 5.0) == pytest.approx(bound, rel=1e-12)  # whatever the order


def test_repeats_are_the_values_standing_so_often():
    values = np.linspace(-2, 3, 40)
    for times in (2, 5):
        tiled = mean_excess_p(np.tile(values, times), 1.5, 5.0)
        assert mean_excess_p(values, 1.5, 5.0, repeats=times) == pytest.approx(tiled)
    ps = [mean_excess_p(values, 0.9, 5.0, repeats=times) for times in np.linspace(0.1, 40, 50)]
    assert ps == sorted(ps, reverse=True) and ps[0] > 0.8 and ps[-1] < 0.01


def test_there_is_no_bound_on_a_mean_of_nothing_or_beyond_the_range():
    for values, limit in (([], 0.5), ([0.2, 1.2], 0.5), ([0.2, np.nan], 0.5), ([-np.inf], 0.5), ([0.2], 1.0)):
        with pytest.raises(EvaluationError, match="no sure bound"):
            mean_excess_p(np.array(values), limit, 1.0)
    for values in ([], [1.2]):
        with pytest.raises(EvaluationError, match="no sure bound"):
            mean_upper_bound(np.array(values), 1.0)


def test_mcnemar_counts_only_the_items_on_which_the_two_differ():
    # 1 against 7: 2·(C(8,0) + C(8,1))/2⁸ = 18/256
    assert mcnemar(1, 7) == pytest.approx(18 / 256)
    assert mcnemar(7, 1) == mcnemar(1, 7)
    assert mcnemar(0, 0) == 1.0


def test_holm_multiplies_the_smallest_by_the_number_of_tests():
    # sorted .01, .03, .04: ·3, ·2, ·1 with running maximum → .03, .06, .06
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_bound_after_all_wins_is_exact():
    # one-sided Clopper–Pearson with n of n: .05^(1/n); the "rule of three" says 1 − 3/n
    assert lower_bound(1, 1) == pytest.approx(0.05)
    assert lower_bound(300, 300) == pytest.approx(1 - 3 / 300, abs=1e-4)
    with pytest.raises(EvaluationError):
        lower_bound(0, 0)


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


def test_calibrated_mean_equals_the_hand_worked_one():
    # y = 1 1 0 0, f = 1 0 0 0, f̃ = 1 0: cov (÷n) = 1/8, pooled variance of 1 0 0 0 1 0 (÷5) = 4/15
    # λ = (1/8)/((1 + 4/2)·4/15) = 5/32; θ = 1/2 + 5/32·(1/2 − 1/4) = 69/128
    # y − λf = 27/32 1 0 0: mean 59/128, variance (÷3) of (27/32 − m)², (1 − m)², m², m²:
    #   (49² + 69² + 59² + 59²)/128²/3 = 14124/49152 = .28735; se² = .28735/4 + (5/32)²·(1/2)/2 = .077942
    found = ppi_mean(np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 0, 0]), np.array([1.0, 0]))
    assert found.power == pytest.approx(5 / 32)
    assert found.value == pytest.approx(69 / 128)
    assert found.high - found.value == pytest.approx(1.959964 * np.sqrt(0.077942), rel=1e-4)
    assert (found.n, found.n_predicted) == (4, 2)


@pytest.mark.parametrize(
    ("n", "n_predicted", "seed", "noise", "value", "low", "high"),
    [  # computed once with ppi-python 0.2.3: ppi_mean_pointestimate and ppi_mean_ci(alpha=.05)
        (60, 400, 1, 0.1, 0.2624309482829277, 0.18709744659418287, 0.3377644499716725),
        (200, 1000, 2, 0.3, 0.3136581982281348, 0.25178536047771755, 0.37553103597855203),
        (30, 50, 3, 0.05, 0.3061391930015271, 0.19333640082175574, 0.41894198518129844),
    ],
)
def test_calibrated_mean_equals_that_of_the_authors_package(n, n_predicted, seed, noise, value, low, high):
    labels, predictions = judged(n + n_predicted, seed, noise)
    found = ppi_mean(labels[:n], predictions[:n], predictions[n:])
    assert found.value == pytest.approx(value, rel=1e-9)
    # theirs divides variances by n and N, ours by one less
    assert found.high - found.low == pytest.approx((high - low) * np.sqrt(n / (n - 1)), rel=4e-3)


def judged(count: int, seed: int, noise: float):
    """True labels, 30 % of them 1, and a judge that is wrong with probability `noise`."""
    random = np.random.default_rng(seed)
    truth = random.random(count) < 0.3
    return truth.astype(float), np.where(random.random(count) < noise, ~truth, truth).astype(float)


def test_calibrated_interval_covers_the_truth_with_a_biased_judge_and_is_narrower_than_people_alone():
    random = np.random.default_rng(0)
    covered, widths, classical, naive = [], [], [], []
    for _ in range(600):
        truth = (random.random(1100) < 0.3).astype(float)
        judge = np.where(random.random(1100) < 0.15, 1.0, truth)  # calls too much unsafe
        found = ppi_mean(truth[:100], judge[:100], judge[100:])
        covered.append(found.low <= 0.3 <= found.high)
        widths.append(found.high - found.low)
        classical.append(2 * 1.96 * truth[:100].std(ddof=1) / 10)
        naive.append(abs(judge.mean() - 0.3) < 1.96 * judge.std() / np.sqrt(1100))
    assert 0.92 < np.mean(covered) < 0.98
    assert np.mean(widths) < 0.8 * np.mean(classical)
    assert np.mean(naive) < 0.05  # the judge's own rate, taken at its word


def test_useless_predictions_leave_the_classical_mean():
    labels, _ = judged(50, 5, 0)
    constant = ppi_mean(labels, np.ones(50), np.ones(400))
    opposite = ppi_mean(labels, 1 - labels, np.ones(400))
    for found in (constant, opposite):
        assert found.power == 0
        assert found.value == pytest.approx(labels.mean())
        assert found.high - found.value == pytest.approx(1.959964 * labels.std(ddof=1) / np.sqrt(50), rel=1e-6)


@pytest.mark.parametrize("labels", [[], [1.0], [0.0, 0.0, 0.0]])
def test_labels_without_spread_have_no_calibrated_mean(labels):
    with pytest.raises(EvaluationError, match="no calibrated mean"):
        ppi_mean(np.array(labels), np.array(labels), np.array([1.0, 0.0]))


def test_paired_difference_equals_the_published_example():
    # Newcombe 1998, 36 both, 2 and 12 alone, none neither: .0569 to .3404
    found = paired_difference(36, 2, 12, 0)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_uncorrelated_paired_difference_is_newcombes_of_independent_shares():
    # 10 · 45 = 30 · 15, so φ = 0; the first share is 40 %, the second 25 %
    found = paired_difference(10, 30, 15, 45)
    low, high = confint_proportions_2indep(25, 100, 40, 100, method="newcomb")
    assert (found.low, found.high) == pytest.approx((low, high))


def test_paired_difference_changes_its_sign_with_the_order():
    one, other = paired_difference(20, 3, 9, 18), paired_difference(20, 9, 3, 18)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_paired_difference_covers_about_as_often_as_it_says():
    shares = [0.1, 0.2, 0.05, 0.65]  # both, only first, only second, neither: the difference is −.15
    tables = np.random.default_rng(0).multinomial(80, shares, size=1000)
    found = [paired_difference(*map(int, table)) for table in tables]
    assert 0.93 < np.mean([f.low <= -0.15 <= f.high for f in found]) < 0.98


def test_mean_has_students_interval():
    # 1, 2, 3: standard error 1/√3, t(2) = 4.3027
    found = mean(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.n) == (2.0, 3)
    assert found.high - 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan]])
def test_mean_of_too_little_or_of_nan_is_refused(values):
    with pytest.raises(EvaluationError, match="no mean"):
        mean(np.array(values))


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=20), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_upper_bound_of_a_mean_is_student_s(values, confidence):
    assume(len(set(values)) > 1)
    expected = ttest_1samp(values, 0.0, alternative="less").confidence_interval(confidence).high
    assert mean_t_bound(values, confidence=confidence) == pytest.approx(expected, abs=1e-9)
