"""The line through step times, the interval of a median, and the search for the largest size."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import linprog

from rebatch.step_time import (
    Line,
    doublings,
    fit_step_time,
    full_speed,
    largest_that_fits,
    median_interval,
)

SIZES = (1, 2, 5, 11, 23, 47, 101)
TRUE = Line(2e-3, 3e-4)


def noisy(rng: random.Random, rounds: int, noise: float = 0.02) -> dict[int, list[float]]:
    """Times around `TRUE`; in every third round something else takes half of the machine."""
    slow = [2.0 if number % 3 == 2 else 1.0 for number in range(rounds)]
    return {m: [factor * TRUE.seconds(m) * math.exp(rng.gauss(0.0, noise)) for factor in slow] for m in SIZES}


def test_the_fit_finds_the_line_though_a_third_of_the_rounds_is_slow() -> None:
    fit = fit_step_time(noisy(random.Random(0), 15))
    assert fit.fixed.estimate == pytest.approx(TRUE.fixed, rel=0.05)
    assert fit.per_example.estimate == pytest.approx(TRUE.per_example, rel=0.05)
    assert fit.misfit < 0.05


def test_one_size_that_is_off_does_not_bend_the_line_and_is_told_as_misfit() -> None:
    times = {m: [TRUE.seconds(m)] * 6 for m in SIZES}
    times[23] = [3.0 * time for time in times[23]]
    fit = fit_step_time(times)
    assert fit.lines[0].fixed == pytest.approx(TRUE.fixed, rel=1e-10)
    assert fit.lines[0].per_example == pytest.approx(TRUE.per_example, rel=1e-10)
    assert fit.misfit == pytest.approx(2 / 3)
    between = fit.seconds(31)
    assert between.estimate == pytest.approx(TRUE.seconds(31), rel=1e-10)
    assert between.low < TRUE.seconds(31) < between.high


def test_the_interval_between_sizes_covers_the_truth() -> None:
    rng, covered, trials = random.Random(1), 0, 300
    for _ in range(trials):
        times = {m: [TRUE.seconds(m) * math.exp(rng.gauss(0.0, 0.05)) for _ in range(9)] for m in SIZES}
        interval = fit_step_time(times).seconds(31)
        covered += interval.low <= TRUE.seconds(31) <= interval.high
    assert covered / trials > 0.95


def slow_twin(sizes: tuple[int, ...], times: list[float]) -> float:
    """The least sum of |1 - (a + c m)/t| with a, c >= 0, as a linear program in a, c and one residual a point."""
    n = len(sizes)
    rows = np.array([[1 / t, m / t] for m, t in zip(sizes, times, strict=True)])
    above, below = np.hstack([rows, -np.eye(n)]), np.hstack([-rows, -np.eye(n)])
    cost, bounds = np.r_[0.0, 0.0, np.ones(n)], [(0, None)] * (n + 2)
    found = linprog(cost, A_ub=np.vstack([above, below]), b_ub=np.r_[np.ones(n), -np.ones(n)], bounds=bounds)
    return float(found.fun)


@pytest.mark.parametrize("seed", range(20))
def test_a_line_has_the_least_absolute_relative_deviations_of_all_non_negative_ones(seed: int) -> None:
    rng = random.Random(seed)
    times = [rng.lognormvariate(0.0, 2.0) for _ in SIZES]  # no line at all, so bounds are met too
    line = fit_step_time({m: [t] * 6 for m, t in zip(SIZES, times, strict=True)}).lines[0]
    assert line.fixed >= 0.0
    assert line.per_example >= 0.0
    off = sum(abs(line.seconds(m) / t - 1.0) for m, t in zip(SIZES, times, strict=True))
    assert off == pytest.approx(slow_twin(SIZES, times), rel=1e-5)  # another algorithm


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        ({8: [1.0] * 6}, r"at least 2 different micro-batch sizes from 1 up, got \[8\]"),
        ({0: [1.0] * 6, 8: [1.0] * 6}, "from 1 up"),
        ({1: [1.0] * 5, 2: [1.0] * 5}, r"same 6 rounds at least, got \[5\]"),
        ({1: [1.0] * 6, 2: [1.0] * 7}, r"same 6 rounds at least, got \[6, 7\]"),
        ({1: [1.0] * 6, 2: [0.0] * 6}, "positive and finite"),
    ],
)
def test_times_that_make_no_line_are_refused(seconds: dict[int, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_step_time(seconds)


@pytest.mark.parametrize("rounds", [6, 9, 15])
def test_the_interval_of_a_median_covers_it_at_its_level(rounds: int) -> None:
    rng, covered, trials = random.Random(rounds), 0, 2000
    for _ in range(trials):
        interval = median_interval([rng.lognormvariate(0.0, 1.0) for _ in range(rounds)])
        covered += interval.low <= 1.0 <= interval.high
    assert covered / trials > 0.95 - 4.0 * math.sqrt(0.95 * 0.05 / trials)


def test_five_values_have_no_interval_at_95_percent() -> None:
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]).low == -math.inf
    with pytest.raises(ValueError, match="finite values"):
        median_interval([])


def recorded(limit: int, asked: list[int]) -> Callable[[int], bool]:
    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    return fits


@pytest.mark.parametrize(("unit", "most"), [(1, 1), (1, 7), (3, 7), (1, 100), (16, 48), (16, 100), (3, 1024)])
def test_the_search_finds_every_limit(unit: int, most: int) -> None:
    for limit in range(most + 5):
        asked: list[int] = []
        found = largest_that_fits(recorded(limit, asked), least=unit, most=most, unit=unit)
        assert found == max((size for size in range(unit, most + 1, unit) if size <= limit), default=None)
        assert found is None or found in asked
        assert len(asked) == len(set(asked)) <= 2 * math.log2(most / unit) + 3
        assert all(size % unit == 0 and size <= most for size in asked)


def test_a_coarse_search_ends_within_its_precision() -> None:
    for limit in range(1, 2000, 7):
        found = largest_that_fits(recorded(limit, []), least=1, most=4096, precision=1 / 16)
        assert found is not None
        assert found <= limit <= found * (1 + 1 / 16)


def test_sizes_that_cut_ghosts_are_no_place_to_start() -> None:
    with pytest.raises(ValueError, match="multiples of 16 from 1 up, got 24 to 100"):
        largest_that_fits(lambda _: True, least=24, most=100, unit=16)


def test_full_speed_is_judged_round_by_round() -> None:
    # In most rounds 8 has 0.88 of 64's rate; their medians, 72 and 80, would say 0.9.
    rates = {1: [9.0] * 5, 8: [88.0, 53.0, 75.0, 72.0, 70.0], 64: [100.0, 60.0, 100.0, 60.0, 80.0]}
    assert full_speed(rates) == 64
    assert full_speed(rates, within=0.15) == 8


@pytest.mark.parametrize(
    ("least", "most", "expected"), [(1, 1, [1]), (2, 9, [2, 4, 8]), (16, 15, []), (3, 12, [3, 6, 12])]
)
def test_doublings_end_at_most(least: int, most: int, expected: list[int]) -> None:
    assert doublings(least, most) == expected
