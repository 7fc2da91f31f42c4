"""Sampled updates have the moments of the closed form; the estimators are unbiased and their intervals cover."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from measure.small_problem import EXAMPLES, per_example_gradients, small_gradient
from rebatch.interval import Interval
from rebatch.measure.increments import (
    Setting,
    covariance_trace,
    mean_step_ratio,
    mean_step_square,
    sample_moments,
    sample_updates,
    trace_ratio,
    update_moments,
)

SETTINGS = [
    Setting(7, 0.3),
    Setting(7, 0.3, replacement=True),
    Setting(7, 0.3, noise=1.7),
    Setting(7, 0.3, noise=1.7, replacement=True),
    Setting(EXAMPLES, 0.3),
    Setting(1, 0.3, noise=0.5),
]


def z(estimate: float, expected: float, standard_error: float) -> float:
    return (estimate - expected) / standard_error


# The closed form


@pytest.mark.parametrize("replacement", [False, True])
def test_moments_without_noise_are_those_over_all_possible_batches(replacement: bool) -> None:
    gradients, lr = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.3
    batches = itertools.product(range(5), repeat=2) if replacement else itertools.permutations(range(5), 2)
    updates = torch.stack([-lr * gradients[list(batch)].mean(0) for batch in batches])
    found = update_moments(gradients, Setting(2, lr, replacement=replacement))
    mean = updates.mean(0)
    assert found.mean_square == pytest.approx(float(mean @ mean), rel=1e-10)
    assert found.trace == pytest.approx(float((updates - mean).square().sum(1).mean()), rel=1e-10)


@pytest.mark.parametrize("replacement", [False, True])
def test_moments_with_noise_are_those_over_all_batches_and_two_valued_weights(replacement: bool) -> None:
    # Mean and covariance know only two moments of the weights: 1 +- sigma has those of N(1, sigma^2).
    gradients, lr, sigma = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 0.3, 1.7
    batches = itertools.product(range(5), repeat=2) if replacement else itertools.permutations(range(5), 2)
    signs = [torch.tensor(s, dtype=torch.float64) for s in itertools.product((-1.0, 1.0), repeat=2)]
    updates = torch.stack(
        [-lr * ((1 + sigma * s)[:, None] * gradients[list(batch)]).mean(0) for batch in batches for s in signs]
    )
    found = update_moments(gradients, Setting(2, lr, sigma, replacement))
    mean = updates.mean(0)
    assert found.mean_square == pytest.approx(float(mean @ mean), rel=1e-10)
    assert found.trace == pytest.approx(float((updates - mean).square().sum(1).mean()), rel=1e-10)


def test_the_papers_three_rules_in_the_closed_form() -> None:
    gradients, small, kappa = per_example_gradients(), Setting(2, 0.1, replacement=True), 8
    before = update_moments(gradients, small)
    linear = update_moments(gradients, replace(small, batch_size=16, lr=0.8))
    root = update_moments(gradients, replace(small, batch_size=16, lr=0.1 * math.sqrt(kappa)))
    noise = update_moments(gradients, replace(small, batch_size=16, noise=math.sqrt(kappa - 1)))
    assert linear.trace / before.trace == pytest.approx(kappa, rel=1e-10)
    assert root.trace / before.trace == pytest.approx(1.0, rel=1e-10)
    assert root.mean_square / before.mean_square == pytest.approx(kappa, rel=1e-10)
    assert noise.mean_square == pytest.approx(before.mean_square, rel=1e-10)
    # What the paper leaves out: (kappa - 1)/M |lr gbar|^2.
    assert noise.trace - before.trace == pytest.approx(7 / 16 * before.mean_square, rel=1e-10)


def test_exact_square_root_of_a_finite_set_keeps_the_trace() -> None:
    gradients, kappa = per_example_gradients(), 8
    before = update_moments(gradients, Setting(2, 0.1))
    lr = 0.1 * math.sqrt(kappa * (EXAMPLES - 2) / (EXAMPLES - 16))
    assert update_moments(gradients, Setting(16, lr)).trace == pytest.approx(before.trace, rel=1e-10)


# Sampling


@pytest.mark.parametrize("setting", SETTINGS)
def test_sampled_updates_have_the_moments_of_the_closed_form(setting: Setting) -> None:
    expected = update_moments(per_example_gradients(), setting)
    updates = sample_updates(small_gradient(), EXAMPLES, setting, draws=600, rng=np.random.default_rng(0))
    trace, square = covariance_trace(updates), mean_step_square(updates)
    if expected.trace == 0.0:  # the full batch
        assert trace.estimate == pytest.approx(0.0, abs=1e-20)
        assert square.estimate == pytest.approx(expected.mean_square, rel=1e-10)
        return
    assert abs(z(trace.estimate, expected.trace, trace.standard_error)) < 4
    assert abs(z(square.estimate, expected.mean_square, square.standard_error)) < 4


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 37 examples, got 38"):
        sample_updates(small_gradient(), EXAMPLES, Setting(38, 0.1), draws=3, rng=np.random.default_rng(0))


# The estimators


def gaussian_updates(draws: int, seed: int, mean: float = 0.2) -> Tensor:
    """5 dimensions with variances 1 to 5: the trace is 15, the squared mean 5 mean^2."""
    numbers = torch.Generator().manual_seed(seed)
    deviations = torch.arange(1.0, 6.0, dtype=torch.float64).sqrt()
    return mean + deviations * torch.randn(draws, 5, generator=numbers, dtype=torch.float64)


def test_estimates_are_the_sums_over_pairs_and_their_errors_the_jackknifes() -> None:
    updates = gaussian_updates(7, 0)

    def slow_trace(x: Tensor) -> float:
        return float(torch.cov(x.T).trace())

    def slow_square(x: Tensor) -> float:
        return float(np.mean([float(a @ b) for a, b in itertools.permutations(x, 2)]))

    for fast, slow in ((covariance_trace(updates), slow_trace), (mean_step_square(updates), slow_square)):
        assert fast.estimate == pytest.approx(slow(updates), rel=1e-10)
        without = [slow(torch.cat([updates[:r], updates[r + 1 :]])) for r in range(7)]
        assert fast.standard_error == pytest.approx(math.sqrt(6 * np.var(without)), rel=1e-10)


def test_estimates_are_unbiased_and_their_intervals_cover() -> None:
    n, draws = 2000, 20
    for estimator, truth in ((covariance_trace, 15.0), (mean_step_square, 5 * 1.5**2)):
        found = [estimator(gaussian_updates(draws, seed, 1.5)) for seed in range(n)]
        estimates = np.array([contrast.estimate for contrast in found])
        assert abs(z(estimates.mean(), truth, estimates.std(ddof=1) / math.sqrt(n))) < 4
        covered = np.mean([c.interval().low <= truth <= c.interval().high for c in found])
        # Student's t on skewed pseudo-values of 20 draws falls a little short of 95 %.
        assert 0.90 < covered < 0.97


def test_half_precision_updates_are_added_up_in_float64() -> None:
    updates = gaussian_updates(11, 3)
    assert covariance_trace(updates.bfloat16()).estimate == pytest.approx(covariance_trace(updates).estimate, rel=0.02)


def test_too_few_updates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 or more updates of shape \(draws, D\), got \(2, 5\)"):
        covariance_trace(gaussian_updates(2, 0))


def test_ratios_find_the_square_root_rule() -> None:
    gradient, rng, kappa = small_gradient(), np.random.default_rng(4), 16
    one, many = Setting(1, 0.1, replacement=True), Setting(16, 0.1 * math.sqrt(kappa), replacement=True)
    small, large = (sample_updates(gradient, EXAMPLES, s, draws=1500, rng=rng) for s in (one, many))
    trace, step = trace_ratio(large, small, 0.9999), mean_step_ratio(large, small, 0.9999)
    assert isinstance(trace, Interval)
    assert isinstance(step, Interval)
    assert trace.low < 1.0 < trace.high < trace.low + 0.5
    assert step.low < 4.0 < step.high < step.low + 2.0


def test_a_mean_step_that_is_not_resolved_has_no_ratio() -> None:
    assert mean_step_ratio(gaussian_updates(11, 0), gaussian_updates(11, 1, mean=0.0)) is None


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("draws", [3, 11])
def test_moments_of_updates_that_are_let_go_are_those_of_updates_that_are_kept(setting: Setting, draws: int) -> None:
    gradient = small_gradient()
    kept = sample_updates(gradient, EXAMPLES, setting, draws=draws, rng=np.random.default_rng(5))
    found = sample_moments(gradient, EXAMPLES, setting, draws=draws, rng=np.random.default_rng(5))
    scale = float(kept.square().sum(1).mean())  # a batch of all examples has no covariance but rounding's
    assert found.trace == pytest.approx(covariance_trace(kept).estimate, rel=1e-10, abs=1e-15 * scale)
    assert found.mean_square == pytest.approx(mean_step_square(kept).estimate, rel=1e-10, abs=1e-15 * scale)


def test_moments_need_three_draws_and_batches_that_the_data_fill() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="draws must be at least 3, got 2"):
        sample_moments(small_gradient(), EXAMPLES, Setting(2, 0.1), draws=2, rng=rng)
    with pytest.raises(ValueError, match=f"is at most {EXAMPLES} examples, got {EXAMPLES + 1}"):
        sample_moments(small_gradient(), EXAMPLES, Setting(EXAMPLES + 1, 0.1), draws=3, rng=rng)
