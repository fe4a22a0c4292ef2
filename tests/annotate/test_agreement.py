import krippendorff
import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from equipoise.annotate.agreement import measure_agreement
from equipoise.annotate.labels import compare_ranks


def test_ranks_compare_by_order_and_ties_are_ties():
    assert [compare_ranks((0, 2, 2), *pair) for pair in [(0, 1), (1, 0), (1, 2)]] == [-1, 1, 0]


def test_raw_agreement_and_alpha_equal_the_hand_worked_ones():
    # Three labellers on four pairs of responses: -1 first better, 1 second better, 0 tie.
    # Agreeing pairs of labellers: unit 1 3/3, unit 2 1/3, unit 3 0/3 (a tie is its own outcome), unit 4 1/1.
    # raw = (3 + 1 + 0 + 1) / 10 = 0.5.
    # Values: -1 appears 3+2+1 = 6 times, 1 appears 1+1+2 = 4 times, 0 once: n = 11.
    # D_o: unit 2 has 4 ordered unequal pairs over (3-1), unit 3 has 6 over 2: (2 + 3) / 11.
    # D_e = (11² - 36 - 16 - 1) / (11 · 10) = 68 / 110.    alpha = 1 - (5/11) / (68/110) = 1 - 50/68.
    agreement = measure_agreement([(-1, -1, -1), (-1, -1, 1), (-1, 1, 0), (1, 1)])
    assert agreement.raw.model_dump() == {"value": 0.5, "n": 10}
    assert agreement.alpha == pytest.approx(1 - 50 / 68)


def test_alpha_equals_krippendorffs_published_example():
    # Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units,
    # missing values, nominal alpha 0.743. One column per unit.
    units = [
        *[(1, 1, 1), (2, 2, 3, 2), (3, 3, 3, 3), (3, 3, 3, 3), (2, 2, 2, 2), (1, 2, 3, 4), (4, 4, 4, 4)],
        *[(1, 1, 2, 1), (2, 2, 2, 2), (5, 5, 5), (1, 1), (3,)],
    ]
    assert measure_agreement(units).alpha == pytest.approx(0.743, abs=5e-4)


def test_units_of_one_labeller_say_nothing():
    units = [(-1, 1, 1), (0, 0)]
    with_more = measure_agreement([*units, (1,), ()])
    ac1 = {"ac1", "ac1_interval"}  # Gwet counts them for what is agreed by chance
    assert with_more.model_dump(exclude=ac1) == measure_agreement(units).model_dump(exclude=ac1)


def test_agreement_over_nothing_is_unknown_not_zero():
    for units in ([], [(1,), (-1,)]):
        agreement = measure_agreement(units)
        assert (agreement.raw.value, agreement.raw.n, agreement.alpha) == (None, 0, None)


def test_alpha_is_undefined_where_there_is_only_one_outcome():
    agreement = measure_agreement([(1, 1), (1, 1, 1)])
    assert agreement.raw.model_dump() == {"value": 1.0, "n": 4}
    assert agreement.alpha is None


def irrcac(units, categories):
    irr = pytest.importorskip("irrCAC.raw", reason="irrCAC is not installed: see `setup` in the Makefile")
    width = max(map(len, units))
    table = pd.DataFrame([[*unit, *[np.nan] * (width - len(unit))] for unit in units])
    return irr.CAC(table, categories=list(categories), digits=9).gwet()["est"]


def random_units(seed, outcomes, skew=0.5):
    """Units of one to four labellers who mostly give one outcome."""
    generator = np.random.default_rng(seed)
    weights = np.array([skew, *[(1 - skew) / (len(outcomes) - 1)] * (len(outcomes) - 1)])
    return [tuple(map(int, generator.choice(outcomes, generator.integers(1, 5), p=weights))) for _ in range(60)]


@pytest.mark.parametrize("outcomes", [(0, 1), (-1, 0, 1)])
@pytest.mark.parametrize("skew", [0.4, 0.7, 0.98])
def test_ac1_and_its_interval_equal_irrcac(outcomes, skew):
    for seed in range(5):
        units = random_units(seed, outcomes, skew)
        found, expected = measure_agreement(units, outcomes), irrcac(units, outcomes)
        assert found.ac1 == pytest.approx(expected["coefficient_value"], abs=1e-8)
        interval = (found.ac1_interval.low, found.ac1_interval.high)
        assert interval == pytest.approx(expected["confidence_interval"], abs=1e-8)


def test_ac1_equals_the_hand_worked_one():
    # Two labellers, two outcomes, four responses: agree on three of them, p_a = 3/4.
    # π of 1: (1 + 1 + 1 + 1/2) / 4 = 7/8; p_e = (7/8·1/8 + 1/8·7/8) / 1 = 14/64.
    # AC1 = (48/64 - 14/64) / (50/64) = 34/50.
    assert measure_agreement([(1, 1), (1, 1), (1, 1), (1, 0)], (0, 1)).ac1 == pytest.approx(34 / 50)


def test_ac1_counts_the_answers_that_nobody_gave():
    # All agree on the one answer of two that was given: AC1 is 1 where α has no value.
    agreement = measure_agreement([(1, 1), (1, 1, 1)], (0, 1))
    assert (agreement.alpha, agreement.ac1) == (None, 1.0)


@pytest.mark.parametrize("skew", [0.4, 0.9])
def test_alpha_equals_the_krippendorff_package(skew):
    for seed in range(5):
        units = random_units(seed, (-1, 0, 1), skew)
        table = np.full((4, len(units)), np.nan)
        for column, unit in enumerate(units):
            table[: len(unit), column] = unit
        expected = krippendorff.alpha(table, level_of_measurement="nominal")
        assert measure_agreement(units).alpha == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_alpha_is_the_bootstrap_over_units():
    units = [unit for unit in random_units(3, (0, 1), 0.7) if len(unit) > 1]
    table = np.full((4, len(units)), np.nan)
    for column, unit in enumerate(units):
        table[: len(unit), column] = unit

    def alpha(columns):
        return krippendorff.alpha(table[:, columns], level_of_measurement="nominal")

    expected = bootstrap(
        (np.arange(len(units)),), alpha, vectorized=False, method="percentile", n_resamples=2000, rng=1
    ).confidence_interval
    interval = measure_agreement(units).alpha_interval
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert interval.low < measure_agreement(units).alpha < interval.high


def test_one_unit_has_no_interval():
    agreement = measure_agreement([(0, 1, 1)], (0, 1))
    assert (agreement.units, agreement.alpha_interval, agreement.ac1_interval) == (1, None, None)
