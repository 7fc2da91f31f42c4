"""Walkers stay where the exact gradient is zero, with noise leave as an exact chain does; the laws are its limits."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rebatch.escape import BOTTOM, CURVATURE, DEPTH, MIXED, TOP, kramers_exponent, kramers_steps, saddle_slope
from rebatch.measure.escape import DOUBLE_WELL, SADDLE, SURFACES, Surface, escape_steps

Array = NDArray[np.float64]

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "saddle": lambda w: w[0] ** 2 / 2 - w[1] ** 2 / 2 + w[1] ** 4 / 4,
    "sphere": lambda u: -(u**4).sum(),
    "double_well": lambda y: ((y**2 - 1) ** 2 / 4).sum(),
}


def curvatures(name: str, point: Tensor) -> Array:
    """Eigenvalues of the Hessian, rising; on the sphere of the tangent space, with the pull back to the sphere."""
    loss = LOSSES[name]
    hessian = torch.autograd.functional.hessian(loss, point)  # type: ignore[no-untyped-call]
    if SURFACES[name].on_sphere:
        across = torch.eye(len(point), dtype=point.dtype) - torch.outer(point, point)
        along = torch.autograd.functional.jacobian(loss, point) @ point  # type: ignore[no-untyped-call]
        hessian = across @ hessian @ across - along * across
    return np.linalg.eigvalsh(hessian.numpy())


# The surfaces


@pytest.mark.parametrize("name", SURFACES)
def test_gradients_are_those_of_the_losses(name: str) -> None:
    dimensions = len(SURFACES[name].start)
    points = torch.randn(7, dimensions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [torch.func.grad(LOSSES[name])(point) for point in points]
    assert SURFACES[name].gradient(points.numpy()) == pytest.approx(torch.stack(expected).numpy(), rel=1e-10)


@pytest.mark.parametrize("name", CURVATURE)
def test_the_steepest_way_down_from_a_saddle_has_the_curvature_that_the_law_is_given(name: str) -> None:
    found = curvatures(name, torch.tensor(SURFACES[name].start, dtype=torch.float64))
    assert found[0] == pytest.approx(-CURVATURE[name])
    assert found[-1] > 0.5  # a saddle, no maximum
    if name == "sphere":
        assert (found < -0.5).sum() == MIXED - 1


def test_the_well_is_as_deep_and_as_curved_as_the_law_is_given() -> None:
    bottom, top = (torch.tensor([y], dtype=torch.float64) for y in (1.0, 0.0))
    loss = LOSSES["double_well"]
    assert float(loss(top) - loss(bottom)) == DEPTH
    assert curvatures("double_well", bottom)[0] == pytest.approx(BOTTOM)
    assert curvatures("double_well", top)[0] == pytest.approx(-TOP)


def test_a_step_on_the_sphere_goes_along_it_and_splits_an_uneven_mix_by_its_curvature() -> None:
    sphere, lr, tiny = SURFACES["sphere"], 0.02, 1e-5
    start = np.array(sphere.start)
    split, other = np.zeros_like(start), np.zeros_like(start)
    split[:2], other[-1] = (tiny, -tiny), tiny
    points = np.stack([start + split, start + other])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    after = sphere.step(points, sphere.gradient(points), lr)
    assert np.linalg.norm(after, axis=1) == pytest.approx(1.0, rel=1e-12)
    assert (after[0, 0] - after[0, 1]) / (2 * tiny) == pytest.approx(1.0 + lr * CURVATURE["sphere"], rel=1e-6)
    assert after[1, -1] / tiny == pytest.approx(1.0 - lr * 4.0 / MIXED, rel=1e-6)


# The walkers


@pytest.mark.parametrize("name", SURFACES)
def test_the_exact_gradient_never_leaves_by_a_bit(name: str) -> None:
    surface, rng = SURFACES[name], np.random.default_rng(0)
    points = surface.starts(2, 0.0, rng)
    for _ in range(1000):
        points = surface.step(points, surface.gradient(points), 0.02)
    free = points[:, 1:] if name == "saddle" else points  # x of the saddle falls to its bottom
    assert (free == free[:1]).all()
    assert len(np.unique(free[0])) <= 2  # on the sphere: those that are mixed, and zeros
    assert escape_steps(surface, lr=0.02, deviation=0.0, walkers=2, most=500, rng=rng).tolist() == [math.inf] * 2


@pytest.mark.parametrize("name", CURVATURE)
def test_from_a_random_start_the_exact_gradient_leaves(name: str) -> None:
    rng = np.random.default_rng(0)
    steps = escape_steps(SURFACES[name], lr=0.02, deviation=0.0, walkers=50, most=5000, rng=rng, spread=0.01)
    assert np.isfinite(steps).all()
    assert len(set(steps)) > 10


def slow_escape(surface: Surface, lr: float, deviation: float, walkers: int, most: int, seed: int) -> list[float]:
    """One step at a time, a list of those that are inside, the same draws."""
    rng = np.random.default_rng(seed)
    inside = {walker: np.array(surface.start) for walker in range(walkers)}
    found = [math.inf] * walkers
    for step in range(1, most + 1):
        noise = rng.standard_normal((len(inside), len(surface.start)))
        for walker, draw in zip(list(inside), noise, strict=True):
            gradient = surface.gradient(inside[walker][None])[0] + deviation * draw
            inside[walker] = surface.step(inside[walker][None], gradient[None], lr)[0]
            if surface.has_left(inside[walker][None])[0]:
                found[walker] = step
                del inside[walker]
        if not inside:
            break
    return found


@pytest.mark.parametrize(("name", "deviation"), [("saddle", 0.5), ("sphere", 0.1), ("double_well", 3.0)])
def test_many_walkers_at_once_are_each_walker_by_itself(name: str, deviation: float) -> None:
    surface = SURFACES[name]
    fast = escape_steps(surface, lr=0.1, deviation=deviation, walkers=7, most=200, rng=np.random.default_rng(3))
    assert fast.tolist() == slow_escape(surface, 0.1, deviation, 7, 200, seed=3)
    assert np.isfinite(fast).any()
    assert len(set(fast)) > 2


def chain_steps(
    drift: Callable[[Array], Array], deviation: float, low: float, high: float, start: float, points: int = 1000
) -> float:
    """Exact mean steps of y <- drift(y) + deviation xi until it is outside (low, high).

    They solve t(y) = 1 + integral of p(z | y) t(z) over the inside: Gauss-Legendre makes that a linear system.
    """
    nodes, weights = np.polynomial.legendre.leggauss(points)
    inside, weights = 0.5 * (high - low) * nodes + 0.5 * (high + low), 0.5 * (high - low) * weights

    def kernel(y: Array) -> Array:
        z = (inside - drift(y)[:, None]) / deviation
        return np.asarray(np.exp(-0.5 * z * z) / (deviation * math.sqrt(2.0 * math.pi)) * weights)

    times = np.linalg.solve(np.eye(points) - kernel(inside), np.ones(points))
    return 1.0 + float((kernel(np.array([start])) @ times)[0])


def exact_saddle(lr: float, deviation: float) -> float:
    return chain_steps(lambda y: y - lr * (y**3 - y), lr * deviation, -0.5, 0.5, 0.0)


def exact_well(lr: float, deviation: float) -> float:
    # The walker never gets so far to the right: 10 standard deviations.
    high = 1.0 + max(1.0, 10.0 * math.sqrt(lr / 4.0) * deviation)
    return chain_steps(lambda y: y - lr * (y**3 - y), lr * deviation, -0.5, high, 1.0)


@pytest.mark.parametrize(
    ("surface", "exact", "lr", "deviation"),
    [(SADDLE, exact_saddle, 0.05, 0.5), (DOUBLE_WELL, exact_well, 0.1, 1.3), (DOUBLE_WELL, exact_well, 0.2, 1.0)],
)
def test_walkers_leave_when_the_exact_chain_does(
    surface: Surface, exact: Callable[[float, float], float], lr: float, deviation: float
) -> None:
    rng = np.random.default_rng(0)
    steps = escape_steps(surface, lr=lr, deviation=deviation, walkers=600, most=10**6, rng=rng)
    error = steps.std(ddof=1) / math.sqrt(len(steps))
    assert abs(steps.mean() - exact(lr, deviation)) / error < 4
    assert steps.mean() / error > 20


# The laws


@pytest.mark.parametrize("lr", [0.05, 0.1])
def test_the_slope_of_the_saddle_s_law_is_that_of_the_exact_chain_at_large_batches(lr: float) -> None:
    sizes = np.array([32.0, 64.0, 128.0])
    steps = [exact_saddle(lr, 0.5 / math.sqrt(size)) for size in sizes]
    assert np.polyfit(np.log(sizes), steps, 1)[0] == pytest.approx(saddle_slope(lr, 1.0), rel=0.01)


def test_kramers_law_is_the_limit_of_the_exact_chain_and_nearly_reached_where_the_study_is() -> None:
    lr, noise = 0.1, 4.0
    steps = {size: exact_well(lr, noise / math.sqrt(size)) for size in (12, 16, 20, 24, 48, 64)}

    def slope(small: int, large: int) -> float:
        heights = [kramers_exponent(size, lr, noise) for size in (small, large)]
        return math.log(steps[large] / steps[small]) / (heights[1] - heights[0])

    assert [slope(*pair) for pair in ((12, 16), (16, 20), (20, 24))] == pytest.approx([0.98, 0.985, 0.99], abs=0.005)
    assert slope(48, 64) == pytest.approx(1.0, abs=0.003)
    # The rate's own correction of the height is of second order, that of the prefactor is not.
    assert steps[64] == pytest.approx(kramers_steps(64, lr, noise), rel=0.04)


def test_at_one_rate_over_batch_the_exact_chain_takes_the_same_examples() -> None:
    sizes = (2, 16)
    examples = [size * exact_well(0.1 * size / 16, 4.0 / math.sqrt(size)) for size in sizes]
    assert examples[1] / examples[0] == pytest.approx(1.0, abs=0.03)
    at_one_rate = [size * exact_well(0.1, 4.0 / math.sqrt(size)) for size in (12, 16)]
    assert at_one_rate[1] / at_one_rate[0] > 4.0
