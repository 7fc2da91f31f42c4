"""The error of a batch's gradient is that of the closed form, by enumeration and by sampling; cosines are cosines."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from measure.small_problem import EXAMPLES, per_example_gradients, small_gradient
from rebatch.measure.gradient_error import (
    Population,
    cosines,
    error_exponent,
    expected_agreement,
    expected_cosine,
    expected_square_error,
    population,
    sample_cosines,
    sample_square_errors,
    square_errors,
)


def some_gradients(examples: int = 5, dimensions: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.5 + torch.randn(examples, dimensions, generator=generator, dtype=torch.float64)


# The closed form


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_the_mean_square_error_is_that_over_all_possible_batches(batch_size: int) -> None:
    gradients = some_gradients()
    batches = itertools.combinations(range(5), batch_size)
    away = [gradients[list(batch)].mean(0) - gradients.mean(0) for batch in batches]
    slow = sum(float(each @ each) for each in away) / len(away)
    assert expected_square_error(population([gradients]), batch_size) == pytest.approx(slow, rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("chunk", [1, 2, 7, 11])
def test_the_population_is_that_of_torch_cov_whatever_the_chunks(chunk: int) -> None:
    gradients = some_gradients(11, 5)
    found = population(torch.split(gradients, chunk))
    assert found.examples == 11
    assert found.trace == pytest.approx(float(torch.cov(gradients.T).trace()), rel=1e-10)  # over N - 1
    torch.testing.assert_close(found.full, gradients.mean(0), rtol=1e-10, atol=0.0)
    assert found.noise_scale == pytest.approx(found.trace / float(gradients.mean(0).square().sum()), rel=1e-10)


def test_a_single_example_has_no_variance() -> None:
    with pytest.raises(ValueError, match="2 examples or more, got 1"):
        population([torch.ones(1, 3)])


def test_errors_and_cosines_are_those_of_a_loop() -> None:
    first, second = some_gradients(7, 5), some_gradients(7, 5).flip(0)
    full = first.mean(0)
    errors = [sum((a - b) ** 2 for a, b in zip(row.tolist(), full.tolist(), strict=True)) for row in first]
    assert square_errors(first, full) == pytest.approx(errors, rel=1e-10)

    def slow(a: Tensor, b: Tensor) -> float:
        dot = float(sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)))
        return dot / math.hypot(*a.tolist()) / math.hypot(*b.tolist())

    assert cosines(first, second) == pytest.approx([slow(a, b) for a, b in zip(first, second, strict=True)], rel=1e-10)
    assert cosines(first, full) == pytest.approx([slow(row, full) for row in first], rel=1e-10)


def test_the_exponent_of_the_closed_form_is_a_half_once_the_factor_is_taken_out_and_more_before() -> None:
    sizes, found = (2, 7, 13, 31), population([some_gradients(37)])
    squares = [expected_square_error(found, size) for size in sizes]
    assert error_exponent(sizes, squares, 37) == pytest.approx(-0.5, abs=1e-12)
    assert error_exponent(sizes, squares, None) < -0.7
    assert math.isnan(error_exponent((2, 4), (1.0, 0.0), None))
    assert math.isnan(error_exponent((2,), (1.0,), None))


@pytest.mark.parametrize("batch_size", [5, 20, 80])
def test_cosines_of_many_alike_examples_follow_the_formulas(batch_size: int) -> None:
    generator, examples, dimensions = torch.Generator().manual_seed(1), 2000, 500
    gradients = torch.randn(examples, dimensions, generator=generator, dtype=torch.float64)
    gradients[:, 0] += 2.0  # |G|^2 = 4, tr S = 500: a noise scale of 125
    found = population([gradients])
    seen = sample_cosines(
        lambda chosen, _: gradients[chosen].mean(0), found, batch_size, draws=100, rng=np.random.default_rng(0)
    )
    assert seen.to_full.mean() == pytest.approx(expected_cosine(found.noise_scale, batch_size), abs=0.02)
    # Disjoint batches of a finite set are drawn against each other.
    finite = batch_size / examples
    agreement = expected_agreement(found.noise_scale, batch_size)
    assert agreement - finite - 0.02 < seen.between.mean() < agreement + 0.01
    assert agreement == pytest.approx(expected_cosine(found.noise_scale, batch_size) ** 2)


# Sampling


def whole() -> Population:
    return population([per_example_gradients()])


@pytest.mark.parametrize("batch_size", [2, 7, 18])
def test_sampled_errors_have_the_mean_of_the_closed_form(batch_size: int) -> None:
    per_epoch = EXAMPLES // batch_size
    epochs = 300 if batch_size > 2 else 60
    rng = np.random.default_rng(0)
    found = sample_square_errors(small_gradient(), whole(), batch_size, draws=epochs * per_epoch, rng=rng)
    by_epoch = found.reshape(epochs, per_epoch).mean(1)  # errors within an epoch are not independent
    error = by_epoch.std(ddof=1) / math.sqrt(epochs)
    assert abs(by_epoch.mean() - expected_square_error(whole(), batch_size)) / error < 4
    assert by_epoch.mean() / error > 8  # the test can see a wrong factor


def test_batches_of_an_epoch_are_disjoint_and_epochs_are_shuffled_anew() -> None:
    seen: list[list[int]] = []

    def gradient(indices: Tensor, weights: Tensor) -> Tensor:
        assert weights.tolist() == [1.0] * len(indices)
        seen.append(indices.tolist())
        return torch.zeros(3)

    sample_square_errors(gradient, Population(torch.ones(3), 1.0, 11), 3, draws=7, rng=np.random.default_rng(0))
    assert [len(batch) for batch in seen] == [3] * 7  # 11 examples: three full batches, then a new epoch
    for epoch in (seen[:3], seen[3:6]):
        assert len({index for batch in epoch for index in batch}) == 9
    assert seen[:3] != seen[3:6]


def test_the_full_batch_has_no_error_and_points_the_same_way() -> None:
    found = sample_square_errors(small_gradient(), whole(), EXAMPLES, draws=1, rng=np.random.default_rng(0))
    assert found == pytest.approx([0.0], abs=1e-20)


def test_a_pair_is_disjoint_and_has_the_cosines_of_its_gradients() -> None:
    gradient, pairs = small_gradient(), []

    def watched(indices: Tensor, weights: Tensor) -> Tensor:
        pairs.append(indices.tolist())
        return gradient(indices, weights)

    found = sample_cosines(watched, whole(), 7, draws=3, rng=np.random.default_rng(0))
    per_example, full = per_example_gradients(), per_example_gradients().mean(0)
    assert found.to_full.shape == (3, 2)
    for draw in range(3):
        first, second = pairs[2 * draw : 2 * draw + 2]
        assert len({*first, *second}) == 14
        a, b = per_example[first].mean(0), per_example[second].mean(0)
        expected = [float(torch.cosine_similarity(x, y, dim=0)) for x, y in ((a, full), (b, full), (a, b))]
        assert [*found.to_full[draw], found.between[draw]] == pytest.approx(expected, rel=1e-10)


def test_more_examples_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="the 37 examples can be drawn without replacement, got 38"):
        sample_square_errors(small_gradient(), whole(), 38, draws=1, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="the 37 examples can be drawn without replacement, got 38"):
        sample_cosines(small_gradient(), whole(), 19, draws=1, rng=np.random.default_rng(0))
