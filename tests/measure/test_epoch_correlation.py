"""Two batches of an epoch have the cross covariance -C/(N - 1), by enumeration and by sampling; else 0."""

import itertools

import numpy as np
import pytest
import torch

from measure.small_problem import EXAMPLES, per_example_gradients, small_gradient
from rebatch.measure.epoch_correlation import (
    batch_correlation,
    cross_covariance_trace,
    exact_cross_trace,
    sample_epochs,
)
from rebatch.measure.increments import Setting, update_moments


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_exact_value_is_that_over_all_permutations(batch_size: int) -> None:
    gradients = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    orders = [list(order) for order in itertools.permutations(range(5))]
    first = torch.stack([gradients[order[:batch_size]].mean(0) for order in orders])
    second = torch.stack([gradients[order[batch_size : 2 * batch_size]].mean(0) for order in orders])
    cross = ((first - first.mean(0)) * (second - second.mean(0))).sum(1).mean()
    assert exact_cross_trace(gradients) == pytest.approx(float(cross), rel=1e-10)


@pytest.mark.parametrize("batch_size", [1, 7, 18])
def test_the_correlation_is_cross_over_own(batch_size: int) -> None:
    gradients = per_example_gradients()
    own = update_moments(gradients, Setting(batch_size, 1.0)).trace
    assert exact_cross_trace(gradients) / own == pytest.approx(batch_correlation(batch_size, EXAMPLES), rel=1e-10)


@pytest.mark.parametrize(("batch_size", "batches"), [(7, 5), (3, 2), (18, 2)])
@pytest.mark.parametrize("replacement", [False, True])
def test_sampled_epochs_have_the_exact_cross_covariance(batch_size: int, batches: int, replacement: bool) -> None:
    gradients = sample_epochs(
        small_gradient(),
        EXAMPLES,
        batch_size,
        batches=batches,
        epochs=400,
        rng=np.random.default_rng(1),
        replacement=replacement,
    )
    found = cross_covariance_trace(gradients)
    expected = exact_cross_trace(per_example_gradients(), replacement=replacement)
    assert abs((found.estimate - expected) / found.standard_error) < 4
    if batch_size == 18:  # the test can see what it claims
        assert abs(found.estimate / found.standard_error) > 4 or replacement


def test_two_batches_give_the_sample_cross_covariance() -> None:
    gradients = torch.randn(11, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    slow = sum(float(torch.cov(gradients[:, :, d].T)[0, 1]) for d in range(3))
    assert cross_covariance_trace(gradients).estimate == pytest.approx(slow, rel=1e-10)


def test_more_batches_give_the_mean_over_pairs() -> None:
    gradients = torch.randn(11, 3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    pairs = [cross_covariance_trace(gradients[:, list(pair)]).estimate for pair in ((0, 1), (0, 2), (1, 2))]
    assert cross_covariance_trace(gradients).estimate == pytest.approx(np.mean(pairs), rel=1e-10)


def test_an_epoch_with_too_few_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="from 2 to 5 of 7 in 37 examples, got 6"):
        sample_epochs(small_gradient(), EXAMPLES, 7, batches=6, epochs=3, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"2 or more batches, D\), got \(3, 1, 5\)"):
        cross_covariance_trace(torch.zeros(3, 1, 5))
