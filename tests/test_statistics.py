"""Intervals cover what they say, tests and intervals agree, and SciPy's own tests are the slow twins."""

import math
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from rebatch.interval import Interval
from rebatch.statistics import (
    Contrast,
    crossed_contrast,
    fieller,
    holm_levels,
    mean_interval,
    paired_contrast,
    smallest_detectable,
)

Array = NDArray[np.float64]


def z_of_share(hits: float, n: int, expected: float) -> float:
    """How many standard deviations a simulated share lies above what it should be."""
    return (hits / n - expected) / math.sqrt(expected * (1 - expected) / n)


def covers(interval: Interval | None, truth: float) -> bool:
    return interval is not None and interval.low <= truth <= interval.high


# Known answers and slow twins


def test_mean_interval_gives_the_textbook_answer() -> None:
    # Mean 5, s = 2, n = 16: 5 +- 2.131 * 2/4 (Student's table, 15 degrees of freedom).
    values = np.array([-1.0, 1.0] * 8)
    values = 5.0 + 2.0 * values / values.std(ddof=1)
    interval = mean_interval(values.tolist())
    assert interval.estimate == pytest.approx(5.0, rel=1e-10)
    assert interval.high - 5.0 == pytest.approx(2.131 * 0.5, abs=1e-3)


@pytest.mark.parametrize("n", [2, 3, 5, 11])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.9875])
def test_mean_interval_equals_scipys(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(97.0, 1.0, n)
    slow = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    fast = mean_interval(values.tolist(), level)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), rel=1e-9)


@pytest.mark.parametrize("margin", [-2.0, 0.0, 0.3, 5.0])
def test_paired_p_values_equal_scipys(margin: float) -> None:
    first, second = np.random.default_rng(7).normal([[98.0], [97.5]], 1.0, (2, 5))
    contrast = paired_contrast(first - second)
    for p, side in ((contrast.p_above(margin), "greater"), (contrast.p_below(margin), "less")):
        assert p == pytest.approx(stats.ttest_rel(first, second + margin, alternative=side).pvalue, rel=1e-9)


def test_smallest_detectable_is_seen_with_its_power() -> None:
    for seeds, alpha, power in ((3, 0.05, 0.8), (5, 0.0125, 0.9)):
        effect = smallest_detectable(0.4, seeds - 1, alpha, power=power) / 0.4
        threshold = stats.t.isf(alpha / 2, seeds - 1)
        assert stats.nct.sf(threshold, seeds - 1, effect) == pytest.approx(power, abs=1e-5)


def test_smallest_detectable_with_examples_is_seen_with_about_its_power() -> None:
    rng, n = np.random.default_rng(3), 20_000
    effect = smallest_detectable(1.0, 4, 0.05, example_error=1.0)
    seed_error = np.sqrt(rng.chisquare(4, n) / 4)
    half_width = np.hypot(stats.t.isf(0.025, 4) * seed_error, stats.norm.isf(0.025))
    seen = np.mean(effect + rng.normal(0, math.sqrt(2), n) > half_width)
    assert 0.8 < seen < 0.9  # in quadrature: a little more than promised


# Contrasts


def contrasts() -> list[Contrast]:
    return [
        Contrast(1.0, 0.3, 4.0),
        Contrast(-2.0, 1.0, 1.0),
        Contrast(1.0, 0.3, 2.0, 0.4),
        Contrast(0.5, 0.01, 9.0, 0.4),
        Contrast(1.0, 0.0, 6.0),
        Contrast(1.0, 0.0, 6.0, 0.2),
        Contrast(1.0, 0.0, 2.0),
        Contrast(1.0, math.inf, 1.0),
    ]


@pytest.mark.parametrize("contrast", contrasts())
def test_interval_excludes_a_margin_exactly_where_the_p_value_is_under_half_alpha(contrast: Contrast) -> None:
    for alpha in (0.3, 0.05, 0.01, 0.0125):
        interval = contrast.interval(1 - alpha)
        for margin in np.linspace(-6, 6, 97):
            assert (contrast.p_above(margin) < alpha / 2) == (interval.low > margin)
            assert (contrast.p_below(margin) < alpha / 2) == (interval.high < margin)


@pytest.mark.parametrize("contrast", contrasts())
def test_no_effect_lies_beyond_infinity(contrast: Contrast) -> None:
    assert contrast.p_above(math.inf) > 0.5
    assert contrast.p_below(-math.inf) > 0.5


def test_seed_and_example_errors_widen_the_interval_in_quadrature() -> None:
    half_width = math.sqrt((2.776 * 0.3) ** 2 + (1.960 * 0.4) ** 2)  # Student's table, 4 degrees of freedom
    assert Contrast(1.0, 0.3, 4.0, 0.4).interval(0.95).high == pytest.approx(1.0 + half_width, abs=1e-3)


def test_an_example_error_of_zero_leaves_the_t_interval_and_a_small_seed_error_the_normal_one() -> None:
    assert Contrast(1.0, 0.3, 4.0, 1e-12).p_above(0.2) == pytest.approx(Contrast(1.0, 0.3, 4.0).p_above(0.2), rel=1e-9)
    assert Contrast(1.0, 1e-12, 4.0, 0.3).p_above(0.2) == pytest.approx(stats.norm.sf(0.8 / 0.3), rel=1e-9)


def test_equal_seeds_decide_only_where_the_sign_test_does() -> None:
    five, six = paired_contrast([0.1] * 5), paired_contrast([0.1 + 0.2, 0.3] * 3)
    assert (five.standard_error, six.standard_error) == (0.0, 0.0)
    assert five.interval(0.95) == Interval(five.estimate, -math.inf, math.inf)
    assert six.interval(0.95) == Interval(six.estimate, six.estimate, six.estimate)
    assert (six.p_above(0.0), six.p_above(1.0)) == (2**-6, 1 - 2**-6)


def test_ties_of_a_small_test_set_do_not_raise_the_error() -> None:
    # 360 test images: accuracies on a grid of 0.28 points. Two equal seeds are common, and say nothing.
    rng, n = np.random.default_rng(11), 4000
    grid, false = 100 / 360, 0
    for _ in range(n):
        interval = paired_contrast(np.round(rng.normal(0, 0.5, 2) / grid) * grid).interval()
        false += not covers(interval, 0.0)
    assert z_of_share(false, n, 0.05) < 4


def test_one_seed_has_an_infinite_interval() -> None:
    assert mean_interval([97.0]) == Interval(97.0, -math.inf, math.inf)
    assert paired_contrast([0.5]).p_above(0.0) == 1.0


# The two-way table


def crossed_table(rng: np.random.Generator, seeds: int, examples: int, shares: Sequence[float]) -> Array:
    """Differences with mean 0; `shares` are what seeds, examples and their interaction add to the mean's variance."""
    of_seed, of_example, of_both = (math.sqrt(share) for share in shares)
    return (
        of_seed * math.sqrt(seeds) * rng.normal(size=(seeds, 1))
        + of_example * math.sqrt(examples) * rng.normal(size=(1, examples))
        + of_both * math.sqrt(seeds * examples) * rng.normal(size=(seeds, examples))
    )


def hit_differences(rng: np.random.Generator, seeds: int, examples: int) -> Array:
    """Hits of two equally good arms: examples differ in how hard they are and for whom, seeds in how well they went."""
    hard = rng.normal(2.0, 1.5, examples)
    skill = 0.1 * rng.normal(size=(2, seeds, 1)) + 0.5 * rng.normal(size=(2, 1, examples))
    hits = rng.random((2, seeds, examples)) < 1 / (1 + np.exp(-hard - skill))
    difference: Array = 100.0 * (hits[0].astype(float) - hits[1])
    return difference


def test_crossed_contrast_is_the_pigeonhole_bootstrap_with_the_interaction_counted_once() -> None:
    rng, seeds, examples, n = np.random.default_rng(5), 5, 7, 200_000
    table = crossed_table(rng, seeds, examples, (1.0, 1.0, 0.2))
    rows = rng.multinomial(seeds, [1 / seeds] * seeds, n) / seeds
    columns = rng.multinomial(examples, [1 / examples] * examples, n) / examples
    bootstrap = np.var(np.einsum("bs,se,be->b", rows, table, columns))
    contrast = crossed_contrast(table)
    residuals = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    interaction = np.sum(residuals**2) / ((seeds - 1) * (examples - 1)) / (seeds * examples)
    less = (1 - 1 / seeds, 1 - 1 / examples)  # a bootstrap divides by n where the closed form divides by n - 1
    closed = less[0] * contrast.standard_error**2 + less[1] * (contrast.example_error**2 + interaction)
    assert contrast.example_error > 0
    assert closed + less[0] * less[1] * interaction == pytest.approx(bootstrap, rel=4 * math.sqrt(3 / n))


@pytest.mark.parametrize("shares", [(1.0, 0.5, 0.25), (0.0, 1.0, 1.0), (0.3, 2.0, 0.0)])
def test_crossed_variance_is_unbiased(shares: tuple[float, float, float]) -> None:
    rng, n = np.random.default_rng(6), 3000
    found = [crossed_contrast(crossed_table(rng, 3, 50, shares)) for _ in range(n)]
    variances = np.array([c.standard_error**2 + c.example_error**2 for c in found])
    assert abs(variances.mean() - sum(shares)) < 4 * variances.std() / math.sqrt(n)


def test_crossed_interval_is_never_narrower_than_the_paired_one() -> None:
    rng = np.random.default_rng(8)
    for _ in range(50):
        table = hit_differences(rng, 3, 100)
        crossed, paired = crossed_contrast(table).interval(), paired_contrast(table.mean(axis=1)).interval()
        assert crossed.estimate == pytest.approx(paired.estimate, abs=1e-10)
        assert crossed.high >= paired.high - 1e-10


def test_crossed_contrast_of_arms_that_never_differ_is_a_tie() -> None:
    contrast = crossed_contrast(np.zeros((3, 7)))
    assert (contrast.standard_error, contrast.example_error) == (0.0, 0.0)


# Coverage: the closed form, Satterthwaite's degrees of freedom on v_S/S + v_E/E, and the percentile bootstrap over
# seeds and examples. `python tests/test_statistics.py` prints the table of docs/verdicts.md (8 minutes).

SEEDS, MIXED, BOTH = (1.0, 0.0, 0.05), (1.0, 0.25, 0.25), (0.0, 0.3, 0.7)


def closed_interval(table: Array, _: np.random.Generator) -> Interval:
    return crossed_contrast(table).interval()


def satterthwaite_interval(table: Array, _: np.random.Generator) -> Interval:
    parts = [table.mean(axis=1 - axis).var(ddof=1) / n for axis, n in enumerate(table.shape)]
    freedom = sum(parts) ** 2 / sum(v**2 / (n - 1) for v, n in zip(parts, table.shape, strict=True))
    return Contrast(float(table.mean()), math.sqrt(sum(parts)), freedom).interval()


def percentile_interval(table: Array, rng: np.random.Generator) -> Interval:
    weights = [rng.multinomial(n, [1 / n] * n, 400) / n for n in table.shape]
    low, high = np.quantile(np.einsum("be,be->b", weights[0] @ table, weights[1]), [0.025, 0.975])
    return Interval(float(table.mean()), float(low), float(high))


Method = Callable[[Array, np.random.Generator], Interval]


def coverage(method: Method, seeds: int, shares: Sequence[float], n: int) -> float:
    rng = np.random.default_rng(seeds)
    return float(np.mean([covers(method(crossed_table(rng, seeds, 200, shares), rng), 0.0) for _ in range(n)]))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("shares", [SEEDS, MIXED, BOTH])
def test_crossed_interval_covers_at_least_its_level(seeds: int, shares: tuple[float, float, float]) -> None:
    n = 1500
    assert z_of_share(n * coverage(closed_interval, seeds, shares, n), n, 0.95) > -4


def test_crossed_interval_of_hits_covers_at_least_its_level() -> None:
    rng, n = np.random.default_rng(9), 2000
    hits = sum(covers(crossed_contrast(hit_differences(rng, 3, 400)).interval(), 0.0) for _ in range(n))
    assert z_of_share(hits, n, 0.95) > -4


def test_the_alternatives_cover_less_where_seeds_rule() -> None:
    n = 300
    assert z_of_share(n * coverage(percentile_interval, 3, SEEDS, n), n, 0.95) < -4
    assert z_of_share(n * coverage(satterthwaite_interval, 2, SEEDS, n), n, 0.95) < -4


@pytest.mark.parametrize("n_seeds", [2, 3, 10])
def test_mean_interval_covers_its_level(n_seeds: int) -> None:
    rng, n = np.random.default_rng(1), 4000
    hits = sum(covers(mean_interval(values), 0.0) for values in rng.normal(size=(n, n_seeds)).tolist())
    assert abs(z_of_share(hits, n, 0.95)) < 4


# Ratios


def pairs(rng: np.random.Generator, n: int, share: float, gap: float) -> tuple[list[float], list[float]]:
    """Numerators and denominators per seed that share the noise of the arm they both subtract."""
    arm, small, large = rng.normal([[share * gap], [gap], [0.0]], 1.0, (3, n))
    return (arm - large).tolist(), (small - large).tolist()


def test_fieller_equals_its_definition_by_tests() -> None:
    closed, gap = pairs(np.random.default_rng(2), 5, 0.5, 6.0)
    interval = fieller(closed, gap)
    assert interval is not None
    for ratio in (interval.low, interval.high):
        residual = np.array(closed) - ratio * np.array(gap)
        assert stats.ttest_1samp(residual, 0.0).pvalue == pytest.approx(0.05, rel=1e-8)
    assert interval.low < interval.estimate < interval.high


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_fieller_covers_its_level_where_the_gap_is_strong(n_seeds: int) -> None:
    rng, n = np.random.default_rng(n_seeds), 3000
    hits = sum(covers(fieller(*pairs(rng, n_seeds, 0.6, 60.0)), 0.6) for _ in range(n))
    assert abs(z_of_share(hits, n, 0.95)) < 4


@pytest.mark.parametrize("gap", [0.0, 0.7, 1.5, 3.0])
def test_fieller_is_wrong_in_at_most_one_call_of_twenty_where_the_gap_is_weak(gap: float) -> None:
    rng, n = np.random.default_rng(4), 3000
    intervals = [fieller(*pairs(rng, 5, 0.6, gap)) for _ in range(n)]
    wrong = sum(interval is not None and not covers(interval, 0.6) for interval in intervals)
    assert z_of_share(wrong, n, 0.05) < 4
    assert gap > 2 or sum(interval is None for interval in intervals) > n / 2


def test_fieller_gives_no_ratio_where_the_denominator_is_not_resolved() -> None:
    assert fieller([1.0, 2.0, 3.0], [1.0, -1.0, 0.5]) is None
    assert fieller([1.0], [1.0]) is None
    assert fieller([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) is None  # three equal seeds: see the sign test
    assert covers(fieller([-1.0, -1.1, -0.9], [-2.0, -2.1, -2.05]), 0.5)


# Holm


def holm_rejects(p_values: Sequence[float], alpha: float) -> list[bool]:
    """The textbook's words: go up the p-values, stop at the first that is not small enough."""
    rejected = [False] * len(p_values)
    for left, index in zip(range(len(p_values), 0, -1), np.argsort(p_values), strict=True):
        if not p_values[index] < alpha / left:
            break
        rejected[index] = True
    return rejected


def test_holm_levels_decide_as_the_textbook_procedure() -> None:
    rng = np.random.default_rng(12)
    for k in (1, 2, 3, 5, 7):
        for _ in range(300):
            p_values = np.round(rng.random(k) ** 4 / 5, 3).tolist()  # rounded: ties are common
            levels = holm_levels(p_values)
            assert [p < level for p, level in zip(p_values, levels, strict=True)] == holm_rejects(p_values, 0.05)
            assert all(0.05 / k <= level <= 0.05 for level in levels)


def test_holm_levels_of_known_cases() -> None:
    assert holm_levels([]) == []
    assert holm_levels([0.9]) == [0.05]
    assert holm_levels([0.2, 0.001, 0.3], alpha=0.06) == pytest.approx([0.03, 0.02, 0.03])
    assert holm_levels([0.01, 0.01, 0.03], alpha=0.06) == pytest.approx([0.02, 0.02, 0.06])
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm_levels([0.5, math.nan])


def test_holm_holds_the_family_wise_error() -> None:
    rng, n = np.random.default_rng(13), 4000
    false = 0
    for _ in range(n):
        p_values = [*rng.random(3).tolist(), 1e-9, 1e-6]  # three true hypotheses, two false ones
        levels = holm_levels(p_values)
        false += any(p < level for p, level in zip(p_values[:3], levels[:3], strict=True))
    assert abs(z_of_share(false, n, 1 - (1 - 0.05 / 3) ** 3)) < 4  # independent: just under 5 %


# Requests


def test_bad_values_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="chance level"):
        mean_interval([1.0, math.nan])
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        mean_interval([])
    with pytest.raises(ValueError, match=r"got 95"):
        mean_interval([1.0, 2.0], level=95)
    with pytest.raises(ValueError, match=r"at least 2 seeds and 2 examples, got \(1, 3\)"):
        crossed_contrast([[1.0, 0.0, 1.0]])
    with pytest.raises(ValueError, match="2 numerators and 3 denominators"):
        fieller([1.0, 2.0], [1.0, 2.0, 3.0])


def test_importing_does_not_load_scipy_or_torch() -> None:
    code = "import sys, rebatch.study.claims; sys.exit(bool({'scipy', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


if __name__ == "__main__":
    for name, shares in (("seeds", SEEDS), ("mixed", MIXED), ("both", BOTH)):
        for n_seeds in (2, 3, 5, 10):
            methods = (closed_interval, satterthwaite_interval, percentile_interval)
            print(name, n_seeds, *(f"{coverage(method, n_seeds, shares, 10_000):.3f}" for method in methods))
