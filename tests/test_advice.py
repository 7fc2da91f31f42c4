"""Weighing steps against seconds: known answers."""

import math
from itertools import pairwise

import numpy as np
import pytest

from rebatch.advice import Advice, Cut, best_cut, interpolated_lr, spaced, weigh
from rebatch.report.advice_table import answer, options_table

SIZES = [2**power for power in range(2, 12)]
CRITICAL, FIXED, EACH = 100.0, 0.02, 0.001


def advise(scatter: float, today: int = 64, retuned: float = 1.0, seed: int = 0) -> Advice:
    """S = 50 (1 + 100/B), a step takes .02 + .001 B s; today's rate takes `retuned` times the best one's steps."""
    rng = np.random.default_rng(seed)
    noise = {size: np.exp(scatter * rng.standard_normal(400)) for size in SIZES}
    steps = {size: 50 * (1 + CRITICAL / size) * noise[size] for size in SIZES}
    seconds = {size: np.full(400, FIXED + EACH * size) for size in SIZES}
    cuts = {size: Cut(size, 1) for size in SIZES}
    return weigh(steps, seconds, cuts, today, retuned * 50 * (1 + CRITICAL / today))


def test_the_best_lies_where_the_two_laws_cross() -> None:
    found = advise(0.0, today=4)
    optimum = math.sqrt(FIXED * CRITICAL / EACH)  # 44.7
    assert found.best.batch_size in (32, 64)
    assert abs(math.log2(found.best.batch_size / optimum)) < 1
    assert found.answer == "move"
    now, best = ((50 * (1 + 100 / size)) * (0.02 + 0.001 * size) for size in (4, found.best.batch_size))
    assert found.speedup.estimate == pytest.approx(now / best)
    assert found.likely == (found.best.batch_size,) * 2
    assert found.best.examples.estimate == pytest.approx(found.best.batch_size * found.best.steps.estimate)


def test_nothing_moves_for_little_and_nobody_pretends_to_know() -> None:
    # 32 and 64 are within 2 % of each other.
    assert advise(0.0, today=64).answer == "stay"
    assert advise(0.0, today=32).answer == "stay"
    doubtful = advise(0.6, today=64)
    assert doubtful.answer == "unknown"
    assert doubtful.likely[0] < doubtful.likely[1]
    assert answer(doubtful).startswith("I don't know whether another batch size or rate is faster")


def test_a_better_rate_at_the_same_batch_size_is_a_gain() -> None:
    found = advise(0.01, today=64, retuned=2.0)
    assert found.answer == "move"
    assert found.best.batch_size in (32, 64)
    assert found.speedup.estimate == pytest.approx(2.0, rel=0.1)
    assert "Use batch size" in answer(found)


def test_the_table_has_a_row_for_each_and_todays() -> None:
    found = advise(0.0, today=4)
    assert options_table(found).row_count == len(SIZES) + 1
    assert f"Use batch size {found.best.batch_size}: " in answer(found)
    assert answer(advise(0.0)).startswith("Keep batch size 64 and its rate: ")


def test_a_step_is_cut_only_where_that_is_quicker_or_must_be() -> None:
    def line(size: int) -> float:
        return 0.1 + 0.01 * size

    assert best_cut(256, 1024, line, unit=1, whole=False) == Cut(256, 1)
    assert best_cut(256, 100, line, unit=1, whole=False) == Cut(64, 4)
    assert best_cut(256, 100, line, unit=1, whole=True) is None
    assert best_cut(96, 64, line, unit=32, whole=False) == Cut(32, 3)
    # Beyond the caches larger pieces may be slower by far.
    assert best_cut(256, 1024, lambda size: 0.01 * size**2, unit=16, whole=False) == Cut(16, 16)


def test_rates_are_read_between_the_sizes_that_were_tuned() -> None:
    rates = {8: 0.1, 32: 0.2, 128: 0.2}
    assert interpolated_lr(rates, 16) == pytest.approx(0.1 * math.sqrt(2))
    assert interpolated_lr(rates, 64) == pytest.approx(0.2)
    assert interpolated_lr(rates, 1000) == pytest.approx(0.2)


@pytest.mark.parametrize(("low", "high", "own"), [(1, 4096, 4), (8, 300, 32), (16, 512, 512), (64, 64, 64), (3, 9, 5)])
def test_batch_sizes_reach_from_end_to_end_with_the_own_among_them(low: int, high: int, own: int) -> None:
    sizes = spaced(low, high, own)
    assert own in sizes
    assert low <= sizes[0] < 2 * low or sizes[0] == own
    assert high / 2 < sizes[-1] <= high or sizes[-1] == own
    assert all(later / earlier <= 4.5 for earlier, later in pairwise(sizes))
