"""The two laws: exact curves, SciPy's least squares as the slow twin, and the right winner over noisy curves."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from rebatch.fits import (
    akaike_difference,
    compare,
    left_out_ratio,
    log_curve,
    log_law,
    power_curve,
    power_law,
    power_law_on_distance,
)

TIMES = np.geomspace(2.0, 3000.0, 23)


def noisy(curve: np.ndarray, seed: int, noise: float = 0.05) -> np.ndarray:
    return curve + np.random.default_rng(seed).normal(0.0, noise, curve.shape)


def test_each_law_finds_the_coefficients_of_its_own_curve() -> None:
    log, a_s = log_law(TIMES, log_curve((0.7, 1.3), TIMES)), (0.7, 1.3)
    assert log.coefficients == pytest.approx(a_s, rel=1e-10)
    curve = power_curve((0.7, 0.31), TIMES)
    assert power_law(TIMES, curve).coefficients == pytest.approx((0.7, 0.31), rel=1e-10)
    assert power_law_on_distance(TIMES, curve).coefficients == pytest.approx((0.7, 0.31), rel=1e-6)
    assert log.r2 == pytest.approx(1.0, abs=1e-12)
    assert log.n == 23


def test_log_law_and_power_law_equal_scipys_regressions() -> None:
    d = noisy(log_curve((0.7, 1.3), TIMES), 0)
    slow = stats.linregress(np.log(TIMES), d)
    fast = log_law(TIMES, d)
    assert (*fast.coefficients, fast.r2) == pytest.approx((slow.intercept, slow.slope, slow.rvalue**2), rel=1e-10)
    slow = stats.linregress(np.log(TIMES), np.log(d))
    fast = power_law(TIMES, d)
    assert fast.coefficients == pytest.approx((math.exp(slow.intercept), slow.slope), rel=1e-10)
    # R2 is of d, not of ln d.
    rss = np.sum((d - fast.coefficients[0] * TIMES ** fast.coefficients[1]) ** 2)
    assert (fast.rss, fast.r2) == pytest.approx((rss, 1 - rss / np.sum((d - d.mean()) ** 2)), rel=1e-10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_power_law_on_distance_equals_scipys_curve_fit(seed: int) -> None:
    d = noisy(log_curve((0.7, 1.3), TIMES), seed)
    slow, _ = optimize.curve_fit(lambda t, c, p: c * t**p, TIMES, d, p0=(1.0, 0.3), xtol=1e-14, ftol=1e-14)
    fast = power_law_on_distance(TIMES, d)
    assert fast.coefficients == pytest.approx(tuple(slow), rel=1e-5)
    assert fast.rss <= power_law(TIMES, d).rss


def test_fits_do_not_depend_on_the_unit_of_time_but_in_the_prefactor() -> None:
    d = noisy(power_curve((0.7, 0.31), TIMES), 3)
    for law in (power_law, power_law_on_distance):
        here, there = law(TIMES, d), law(1000.0 * TIMES, d)
        assert there.coefficients[1] == pytest.approx(here.coefficients[1], rel=1e-6)
    assert log_law(1000.0 * TIMES, d).coefficients[1] == pytest.approx(log_law(TIMES, d).coefficients[1], rel=1e-10)


@pytest.mark.parametrize(
    ("truth", "sign"), [(log_curve((0.7, 1.3), TIMES), 1.0), (power_curve((0.7, 0.31), TIMES), -1.0)]
)
def test_compare_finds_the_law_that_made_the_curves(truth: np.ndarray, sign: float) -> None:
    found = compare(TIMES, [noisy(truth, seed) for seed in range(5)])
    assert found.curves == 5
    assert min(sign * found.akaike.low, sign * found.akaike.high) > 0.0
    assert min(sign * found.left_out.low, sign * found.left_out.high) > 0.0


def test_compare_is_the_t_interval_over_curves() -> None:
    curves = [noisy(log_curve((0.7, 1.3), TIMES), seed, 0.5) for seed in range(5)]
    found = compare(TIMES, curves, level=0.9)
    values = [23 * math.log(power_law_on_distance(TIMES, curve).rss / log_law(TIMES, curve).rss) for curve in curves]
    slow = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (found.akaike.low, found.akaike.high) == pytest.approx((slow.low, slow.high), rel=1e-9)
    assert found.left_out.estimate == pytest.approx(np.mean([left_out_ratio(TIMES, curve) for curve in curves]))


def test_left_out_points_are_the_last_in_time_whatever_the_order_given() -> None:
    d = noisy(log_curve((0.7, 1.3), TIMES), 4)
    shuffled = np.random.default_rng(0).permutation(len(TIMES))
    assert left_out_ratio(TIMES[shuffled], d[shuffled]) == pytest.approx(left_out_ratio(TIMES, d), rel=1e-6)
    known = 23 - 6
    log, power = log_law(TIMES[:known], d[:known]), power_law_on_distance(TIMES[:known], d[:known])
    above = np.sum((power_curve(power.coefficients, TIMES[known:]) - d[known:]) ** 2)
    below = np.sum((log_curve(log.coefficients, TIMES[known:]) - d[known:]) ** 2)
    assert left_out_ratio(TIMES, d) == pytest.approx(math.log(above / below), rel=1e-9)


def test_a_perfect_curve_gives_a_finite_difference() -> None:
    assert 0.0 < akaike_difference([1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 3.0, 4.0]) < math.inf


@pytest.mark.parametrize(
    ("t", "d", "message"),
    [
        ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], "times must be positive and finite, got 0.0; leave out t = 0"),
        ([1.0, 2.0], [1.0, 2.0], "at least 3 different times, got 2"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "two equally long lists"),
        ([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], "positive for a power law, got 0.0"),
    ],
)
def test_a_curve_that_cannot_be_fitted_is_refused(t: list[float], d: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        power_law(t, d)


def test_leaving_out_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 of 5 points to fit on"):
        left_out_ratio([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], share=0.6)
