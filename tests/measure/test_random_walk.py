"""The potential has its variogram, the exact mean is that of the walk, and Sinai's walk has Kesten's constant."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from rebatch.measure.random_walk import (
    exponent,
    flat_potential,
    fractional_potential,
    hop_probabilities,
    log_time_exponent,
    mean_square_distance,
    walk,
)

Array = NDArray[np.floating]


def z_of_mean(values: Array, expected: float) -> float:
    return float((values.mean() - expected) / (values.std(ddof=1) / math.sqrt(len(values))))


def transition_matrix(potential: Array) -> Array:
    """The twin: one potential's P, entry by entry."""
    sites = len(potential)
    p = np.zeros((sites, sites))
    for x in range(sites):
        for y in (x - 1, x + 1):
            if 0 <= y < sites:
                p[x, y] = 0.5 * min(1.0, math.exp(potential[x] - potential[y]))
        p[x, x] = 1.0 - p[x].sum()
    return p


# The potential


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.5, 1.9])
def test_increments_of_the_potential_have_variance_distance_to_the_alpha(alpha: float) -> None:
    potential = fractional_potential(alpha, 1025, 400, np.random.default_rng(0), scale=1.7)
    for x, y in ((0, 1), (3, 10), (100, 900), (0, 1024)):
        assert abs(z_of_mean((potential[:, x] - potential[:, y]) ** 2, 1.7**2 * (y - x) ** alpha)) < 4


def test_the_potential_is_drawn_with_exactly_the_covariance_of_a_fractional_path() -> None:
    alpha, sites = 1.3, 13

    class UnitVectors:
        """Draws e_0, e_1, ... in turn, so that the rows are the columns of the map from white noise to potential."""

        def __init__(self) -> None:
            self.next = 0

        def standard_normal(self, n: int) -> Array:
            self.next += 1
            return np.asarray(np.eye(n)[self.next - 1])

    columns = fractional_potential(alpha, sites, 2 * (sites - 1), UnitVectors())  # type: ignore[arg-type]
    x = np.arange(sites) - sites // 2
    power = np.abs(x) ** alpha
    expected = 0.5 * (power[:, None] + power[None, :] - np.abs(x[:, None] - x[None, :]) ** alpha)
    np.testing.assert_allclose(columns.T @ columns, expected, atol=1e-10)


def test_alpha_two_is_a_slope_and_refused() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 2, got 2\.0; at 2 the potential is a slope without barriers"):
        fractional_potential(2.0, 11, 1, np.random.default_rng(0))
    near = fractional_potential(1.9999, 101, 50, np.random.default_rng(0))
    steps = np.diff(near, axis=1)
    assert np.mean(steps[:, 0] * steps[:, -1]) / np.mean(steps**2) > 0.99


def test_sites_without_a_middle_are_refused() -> None:
    with pytest.raises(ValueError, match="odd number from 3, got 10"):
        flat_potential(10, 1)


# The walk


def test_hops_are_the_twins_and_in_detailed_balance() -> None:
    potential = fractional_potential(1.0, 11, 3, np.random.default_rng(1), scale=2.0)
    left, right = hop_probabilities(potential)
    for row in range(3):
        p = transition_matrix(potential[row])
        np.testing.assert_allclose(right[row, :-1], np.diag(p, 1), rtol=1e-12)
        np.testing.assert_allclose(left[row, 1:], np.diag(p, -1), rtol=1e-12)
        flow = np.exp(-potential[row])[:, None] * p
        np.testing.assert_allclose(flow, flow.T, rtol=1e-12)


def test_walkers_move_as_powers_of_the_transition_matrix() -> None:
    potential = fractional_potential(1.0, 23, 1, np.random.default_rng(2))
    record, walkers = [0, 2, 7, 40], 20_000
    found = walk(np.repeat(potential, walkers, axis=0), 40, np.random.default_rng(3), record)
    p, x = transition_matrix(potential[0]), np.arange(23) - 11
    assert (found[:, 0] == 0).all()
    for column, steps in enumerate(record[1:], start=1):
        probabilities = np.linalg.matrix_power(p, steps)[11]
        assert abs(z_of_mean(found[:, column] ** 2.0, float(probabilities @ x**2))) < 4
        assert abs(z_of_mean(found[:, column] * 1.0, float(probabilities @ x))) < 4


def test_record_outside_the_walk_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and steps=5, got 1 to 6"):
        walk(flat_potential(11, 1), 5, np.random.default_rng(0), [1, 6])


# The exact mean


def test_mean_square_distance_is_the_dense_resolvent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebatch.measure.random_walk.EDGE_PROBABILITY", 1.0)
    potential, times = fractional_potential(1.3, 11, 5, np.random.default_rng(4), scale=1.5), [0.1, 3.0, 1e3]
    found = mean_square_distance(potential, times)
    x = np.arange(11) - 5
    for row in range(5):
        for column, t in enumerate(times):
            q = transition_matrix(potential[row]) - np.eye(11)
            slow = np.linalg.solve(np.eye(11) - t * q, x**2)[5]
            assert found[row, column] == pytest.approx(slow, rel=1e-10)


def test_mean_square_distance_is_that_of_a_walk_stopped_after_a_geometric_number_of_steps() -> None:
    potential, t = fractional_potential(1.0, 201, 1, np.random.default_rng(5)), 30.0
    rng = np.random.default_rng(6)
    stops = rng.geometric(1.0 / (1.0 + t), 4000) - 1  # from 0, with mean t
    record = np.unique(stops)
    found = walk(np.repeat(potential, 4000, axis=0), int(stops.max()), rng, record)
    square = found[np.arange(4000), np.searchsorted(record, stops)] ** 2.0
    assert abs(z_of_mean(square, float(mean_square_distance(potential, [t])[0, 0]))) < 4


def test_barriers_of_any_height_keep_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    # One barrier: the walker is over it after a time of rate 0.5 exp(-B), then rests in the deep site behind it.
    monkeypatch.setattr("rebatch.measure.random_walk.EDGE_PROBABILITY", 1.0)
    barrier = 400.0
    potential = np.array([[1e4, 1e4, 0.0, barrier, -1e3]])
    t = math.exp(barrier)
    rate = 0.5 * 0.5 / (0.5 + 0.5)  # on top (after exp(-B)): forward or back, each 1/2
    expected = 4.0 * rate / (1.0 + rate)
    assert mean_square_distance(potential, [t])[0, 0] == pytest.approx(expected, rel=1e-12)


def test_without_barriers_the_square_distance_is_the_time() -> None:
    times = np.geomspace(1.0, 1e4, 5)
    np.testing.assert_allclose(mean_square_distance(flat_potential(4001, 1), times)[0], times, rtol=1e-6)
    record = np.array([10, 100, 1000])
    found = walk(flat_potential(401, 2000), 1000, np.random.default_rng(7), record)
    interval = exponent(record, found.astype(np.float64) ** 2, 0.9999)
    assert interval.low < 0.5 < interval.high < interval.low + 0.05


def test_too_few_sites_are_refused() -> None:
    with pytest.raises(ValueError, match=r"walkers are near the edge with probability .*; take more sites than 101"):
        mean_square_distance(flat_potential(101, 1), [10.0, 1e4])


# The law


def test_sinais_walk_has_kestens_constant() -> None:
    # Kesten (1986): x / log(t)^2 has the density 2/pi sum_k (-1)^k / (2k+1) exp(-(2k+1)^2 pi^2 |x| / 8): E x^2 = 61/45.
    k = np.arange(50)
    constant = np.sum(8 / np.pi * (-1.0) ** k / (2 * k + 1) / ((2 * k + 1) ** 2 * np.pi**2 / 8) ** 3)
    assert constant == pytest.approx(61 / 45, rel=1e-10)
    potential = fractional_potential(1.0, 30_001, 150, np.random.default_rng(8), scale=4.0)
    square = mean_square_distance(potential, [math.exp(200.0)])[:, 0]
    assert abs(z_of_mean(square / (200.0 / 4.0) ** 4, 61 / 45)) < 4


@pytest.mark.parametrize(("alpha", "scale", "sites"), [(1.0, 4.0, 30_001), (1.5, 8.0, 10_001)])
def test_distance_grows_as_log_time_to_the_two_over_alpha(alpha: float, scale: float, sites: int) -> None:
    times = np.exp(np.geomspace(50.0, 200.0, 5) * (1.0 if alpha == 1.0 else 2.0))
    potential = fractional_potential(alpha, sites, 150, np.random.default_rng(9), scale=scale)
    interval = log_time_exponent(times, mean_square_distance(potential, times), 0.9999)
    assert interval.low < 2.0 / alpha < interval.high < interval.low + 0.8


def test_the_interval_of_an_exponent_covers_what_it_says() -> None:
    # d^2 = w x^(2 p), with w one exponential number per walker and a little noise per point.
    rng, x, hits = np.random.default_rng(10), np.array([1.0, 3.0, 10.0]), 0
    for _ in range(1000):
        noise = rng.exponential(size=(40, 1)) * rng.lognormal(0.0, 0.5, (40, 3))
        interval = exponent(x, x**1.4 * noise)
        hits += interval.low < 0.7 < interval.high
    assert abs(stats.binomtest(hits, 1000, 0.95).statistic - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000)


def test_an_exponent_of_one_walker_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 or more walkers.*got \(1, 3\)"):
        exponent([1.0, 2.0, 3.0], np.ones((1, 3)))
