"""The largest eigenpair of a written-down matrix: found, found again from close by, and honest where it was not."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rebatch.measure.lanczos import BASIS, largest_eigenpair


def symmetric(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A matrix with these eigenvalues and random eigenvectors."""
    normal = np.random.default_rng(seed).normal(size=(len(eigenvalues), len(eigenvalues)))
    basis = torch.from_numpy(np.linalg.qr(normal)[0])
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def random_vector(size: int, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=size))


# A gap so small beside the spectrum that it takes restarts.
CLOSE = [1.0, 0.997, *np.linspace(-5.0, 0.98, 95).tolist()]


def test_a_small_gap_is_resolved_over_several_restarts() -> None:
    matrix = symmetric(CLOSE)
    found = largest_eigenpair(lambda v: matrix @ v, random_vector(97), tolerance=1e-9, max_products=2000)
    assert found.converged
    assert found.products > 3 * BASIS
    assert found.value == pytest.approx(1.0, abs=1e-12)
    assert float(torch.linalg.vector_norm(matrix @ found.vector - found.value * found.vector)) < 2e-9
    assert float(torch.linalg.vector_norm(found.vector)) == pytest.approx(1.0, abs=1e-12)


def test_the_subspace_is_krylovs() -> None:
    """Against the slow twin: the Ritz value of span(b, Ab, ..., A^6 b), orthonormalized whole."""
    matrix, start = symmetric(CLOSE), random_vector(97)
    columns = [start]
    for _ in range(6):
        columns.append(matrix @ columns[-1] / torch.linalg.vector_norm(columns[-1]))
    basis = torch.linalg.qr(torch.stack(columns, dim=1))[0]
    expected = torch.linalg.eigvalsh(basis.T @ matrix @ basis)[-1]
    found = largest_eigenpair(lambda v: matrix @ v, start, tolerance=1e-12, max_products=7)
    assert found.value == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("products", [1, 2, 5, BASIS, BASIS + 1, 3 * BASIS])
def test_stopped_early_it_gives_the_best_so_far_with_its_residual_and_says_so(products: int) -> None:
    matrix = symmetric(CLOSE)
    found = largest_eigenpair(lambda v: matrix @ v, random_vector(97), tolerance=1e-12, max_products=products)
    assert not found.converged
    assert found.products == products
    assert found.value < 1.0
    residual = matrix @ found.vector - found.value * found.vector
    assert found.residual == pytest.approx(float(torch.linalg.vector_norm(residual)), rel=1e-6)
    nearest = np.abs(np.array(CLOSE) - found.value).min()
    assert nearest <= found.residual
    more = largest_eigenpair(lambda v: matrix @ v, random_vector(97), tolerance=1e-12, max_products=products + 1)
    assert more.value > found.value


def test_from_close_by_it_takes_fewer_products() -> None:
    matrix = symmetric([3.0, 2.0, *np.linspace(-1.0, 1.0, 95).tolist()])
    cold = largest_eigenpair(lambda v: matrix @ v, random_vector(97), tolerance=1e-2, max_products=100)
    drifted = matrix + 0.05 * symmetric(np.linspace(-1.0, 1.0, 97).tolist(), seed=5)
    warm = largest_eigenpair(lambda v: drifted @ v, cold.vector, tolerance=1e-2, max_products=100)
    assert cold.converged
    assert warm.converged
    assert warm.products <= cold.products / 2
    assert warm.value == pytest.approx(float(torch.linalg.eigvalsh(drifted)[-1]), rel=1e-3)


def test_an_eigenvector_to_start_from_is_certified_though_it_is_not_the_largest() -> None:
    """What `converged` does not say."""
    found = largest_eigenpair(
        lambda v: torch.tensor([2.0, 1.0, 0.5]).double() * v,
        torch.tensor([0.0, 1.0, 0.0]).double(),
        tolerance=1e-3,
        max_products=9,
    )
    assert found.converged
    assert (found.value, found.residual, found.products) == (1.0, 0.0, 1)


def test_it_goes_on_to_the_minimum_of_products() -> None:
    matrix = symmetric([3.0, *np.linspace(-1.0, 1.0, 96).tolist()])
    start = random_vector(97)
    least = largest_eigenpair(lambda v: matrix @ v, start, tolerance=0.5, max_products=50)
    more = largest_eigenpair(lambda v: matrix @ v, start, tolerance=0.5, max_products=50, min_products=15)
    assert least.products < 10
    assert more.products == 15
    assert more.value > least.value


def test_a_whole_space_is_the_end_though_products_are_rough() -> None:
    matrix = symmetric([2.0, -3.0, 1.0]).float()
    found = largest_eigenpair(
        lambda v: (matrix @ v.float()).double(), random_vector(3), tolerance=1e-30, max_products=50, min_products=20
    )
    assert found.converged
    assert found.products == 3
    assert found.value == pytest.approx(2.0, abs=1e-6)


def test_single_precision_goes_as_far_as_rounding_allows() -> None:
    matrix = symmetric([3.0, *np.linspace(-1.0, 1.0, 96).tolist()]).float()
    found = largest_eigenpair(lambda v: matrix @ v, random_vector(97).float(), tolerance=1e-12, max_products=200)
    assert found.converged
    assert found.vector.dtype == torch.float32
    assert found.products < 100
    assert found.value == pytest.approx(3.0, rel=1e-5)


def test_what_is_not_finite_ends_it() -> None:
    found = largest_eigenpair(lambda v: v * np.nan, random_vector(5), tolerance=1e-3, max_products=50)
    assert np.isnan(found.value)
    assert np.isnan(found.residual)
    assert not found.converged
    assert found.products == 1
