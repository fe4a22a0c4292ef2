import pytest

from equipoise.annotate.agreement import compare_ranks, measure_agreement


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
    assert measure_agreement([*units, (1,), ()]) == measure_agreement(units)


def test_agreement_over_nothing_is_unknown_not_zero():
    for units in ([], [(1,), (-1,)]):
        agreement = measure_agreement(units)
        assert (agreement.raw.value, agreement.raw.n, agreement.alpha) == (None, 0, None)


def test_alpha_is_undefined_where_there_is_only_one_outcome():
    agreement = measure_agreement([(1, 1), (1, 1, 1)])
    assert agreement.raw.model_dump() == {"value": 1.0, "n": 4}
    assert agreement.alpha is None
