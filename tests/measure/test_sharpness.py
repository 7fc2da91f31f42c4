"""Sharpness against quadratics: corners counted, spheres solved; what rescaling may change; and the model stays."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch import RequestError
from rebatch.errors import RunError
from rebatch.measure import Sharpness, adaptive_sharpness, keskar_sharpness
from rebatch.measure.weight_space import ModelLoss
from toy import assert_same_state, state_of, toy_model, toy_splits

DATA = toy_splits().train


def loss_of(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(DATA.inputs), DATA.targets)


MEASURES: tuple[Callable[[nn.Module, ModelLoss], Sharpness], ...] = (
    keskar_sharpness,
    partial(keskar_sharpness, dimension=5),
    partial(adaptive_sharpness, rho=0.1),
)


class Quadratic(nn.Module):
    """0.3 + g'd + d'Ad/2 at x + d, in two parameters."""

    def __init__(self, point: Tensor, slope: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(point[:2].clone()), nn.Parameter(point[2:].clone())
        self.center, self.slope, self.matrix = point.clone(), slope, matrix

    def forward(self) -> Tensor:
        moved = torch.cat([self.first, self.second]) - self.center
        return 0.3 + self.slope @ moved + 0.5 * moved @ self.matrix @ moved


def quadratic(size: int = 7, *, slope: float = 0.0, coupling: float = 0.3, seed: int = 0) -> Quadratic:
    """Convex, with a slope at x of about that size, and eigenvectors that lie about along the axes."""
    rng = np.random.default_rng(seed)
    factor = torch.from_numpy(np.diag(rng.uniform(1.0, 3.0, size)) + coupling * rng.normal(size=(size, size)) / size)
    point, gradient = (torch.from_numpy(rng.normal(size=size)) for _ in range(2))
    return Quadratic(point, slope * gradient, factor @ factor.T)


def highest_corner(model: Quadratic, widths: Tensor, directions: Tensor | None = None) -> float:
    """The twin: a convex function is highest at a corner of a box, and there are few enough to count."""
    directions = torch.eye(len(widths)).double() if directions is None else directions
    losses = []
    for signs in itertools.product((-1.0, 1.0), repeat=len(widths)):
        moved = directions @ (widths * torch.tensor(signs).double())
        losses.append(float(0.3 + model.slope @ moved + 0.5 * moved @ model.matrix @ moved))
    return max(losses)


@pytest.mark.parametrize("slope", [0.0, 1e-2, 1.0])
@pytest.mark.parametrize("epsilon", [1e-3, 5e-4, 0.2])
def test_the_box_is_each_weights_own_and_its_highest_corner_is_found(slope: float, epsilon: float) -> None:
    model = quadratic(slope=slope)
    found = keskar_sharpness(model, lambda model: model(), epsilon=epsilon, iterations=30)
    expected = highest_corner(model, epsilon * (model.center.abs() + 1.0))
    assert found.base == pytest.approx(0.3, abs=1e-15)
    # Where curvature decides, not the slope, there are several corners that no ascent leaves, nearly as high.
    assert found.rise == pytest.approx(expected - 0.3, rel=1e-9 if slope > epsilon else 0.05)
    assert found.percent == pytest.approx(100.0 * (found.highest - 0.3) / 1.3, rel=1e-9)


def test_at_a_minimum_whose_axes_are_the_eigenvectors_it_is_exact() -> None:
    """No slope at x, so the ascent must start beside it."""
    model = quadratic(coupling=0.0)
    found = keskar_sharpness(model, lambda model: model())
    widths = 1e-3 * (model.center.abs() + 1.0)
    assert found.rise == pytest.approx(float(0.5 * (widths.square() * model.matrix.diag()).sum()), rel=1e-9)


def test_in_a_random_subspace_the_box_is_that_of_the_pseudo_inverse() -> None:
    model = quadratic(11, slope=1.0)
    found = keskar_sharpness(model, lambda model: model(), dimension=3, iterations=30, seed=5)
    directions = torch.randn(11, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    widths = 1e-3 * ((torch.linalg.pinv(directions) @ model.center).abs() + 1.0)
    assert found.rise == pytest.approx(highest_corner(model, widths, directions) - 0.3, rel=1e-9)
    other = keskar_sharpness(model, lambda model: model(), dimension=3, iterations=30, seed=6)
    assert other.rise != found.rise


def test_few_iterations_find_most_of_it_and_cost_little() -> None:
    model = toy_model().eval()
    short, long = (keskar_sharpness(model, loss_of, iterations=count) for count in (10, 100))
    assert short.iterations == 10
    assert 0.9 * long.rise < short.rise <= long.rise
    assert 12 <= short.evaluations < 20
    assert f"{short.evaluations} gradients" in str(short)


def test_every_evaluation_is_counted() -> None:
    model, calls = toy_model().eval(), 0

    def loss(model: nn.Module) -> Tensor:
        nonlocal calls
        calls += 1
        return loss_of(model)

    for measure in MEASURES:
        calls = 0
        assert measure(model, loss).evaluations == calls


@pytest.mark.parametrize("slope", [0.0, 0.1, 3.0])
def test_the_ball_is_measured_in_each_weights_length_and_its_highest_point_is_found(slope: float) -> None:
    """The twin solves the sphere: T(g + A T u) = mu u with mu above the top eigenvalue of TAT (Moré and Sorensen)."""
    model, rho = quadratic(slope=slope, coupling=2.0), 0.3
    lengths = model.center.abs()
    values, vectors = torch.linalg.eigh(lengths[:, None] * model.matrix * lengths)
    along = vectors.T @ (lengths * model.slope)
    if slope == 0.0:
        expected = 0.5 * float(values[-1]) * rho**2
    else:
        low, high = float(values[-1]), float(values[-1]) + 10.0 * slope / rho * float(lengths.max())
        for _ in range(200):
            middle = (low + high) / 2.0
            longer = float(torch.linalg.vector_norm(along / (middle - values))) > rho
            low, high = (middle, high) if longer else (low, middle)
        place = along / (high - values)
        expected = float(along @ place + 0.5 * values @ place.square())
    found = adaptive_sharpness(model, lambda model: model(), rho=rho, iterations=200)
    assert found.rise == pytest.approx(expected, rel=1e-6)
    assert found.rise <= expected * (1.0 + 1e-12)
    assert adaptive_sharpness(model, lambda model: model(), rho=rho).rise > 0.95 * expected


def test_a_highest_point_inside_of_the_ball_is_closed_in_on() -> None:
    model = quadratic(slope=0.1)
    model.matrix = -model.matrix
    expected = -0.5 * float(model.slope @ torch.linalg.solve(model.matrix, model.slope))
    found = adaptive_sharpness(model, lambda model: model(), rho=1.0, iterations=100)
    assert found.rise == pytest.approx(expected, rel=1e-3)
    assert found.rise <= expected * (1.0 + 1e-12)


def test_weights_that_are_zero_stay_zero_in_the_ball() -> None:
    model = quadratic()
    with torch.no_grad():
        model.first.zero_()
    model.center[:2] = 0.0
    model.matrix = torch.diag(torch.tensor([100.0, 100.0, 1.0, 1.0, 1.0, 1.0, 1.0]).double())
    found = adaptive_sharpness(model, lambda model: model(), rho=0.1, iterations=100)
    assert found.rise == pytest.approx(0.005 * float(model.center.square().max()), rel=1e-6)


def rescaled(model: nn.Sequential, factor: float) -> nn.Sequential:
    """The same function: what goes into the ReLU times `factor`, what comes out divided."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_({"0.weight": factor, "0.bias": factor, "3.weight": 1.0 / factor}.get(name, 1.0))
    return model


def test_rescaling_changes_keskars_and_not_the_adaptive_one() -> None:
    model, other = toy_model(norm=False), rescaled(toy_model(norm=False), 10.0)
    torch.testing.assert_close(model(DATA.inputs), other(DATA.inputs), rtol=1e-12, atol=1e-12)
    found, changed = (keskar_sharpness(each, loss_of).percent for each in (model, other))
    assert changed > 1.5 * found
    found, same = (adaptive_sharpness(each, loss_of, rho=0.5).rise for each in (model, other))
    assert found > 0.01
    assert same == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was_bit_for_bit(training: bool) -> None:
    model = toy_model(dropout=0.3).train(training)
    model[0].bias.requires_grad_(False)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    gradients = [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()]
    before, modes, generator = state_of(model), [each.training for each in model.modules()], torch.get_rng_state()

    def loss(model: nn.Module) -> Tensor:
        model[1].train()  # type: ignore[index]
        return loss_of(model)

    for measure in MEASURES:
        first, again = measure(model, loss), measure(model, loss)
        assert first == again  # dropout draws the same
        assert first.rise > 0.0
        assert_same_state(state_of(model), before)
        assert [each.training for each in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), generator)
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            assert (weight.grad is None) == (gradient is None)
            assert gradient is None or torch.equal(weight.grad, gradient)  # type: ignore[arg-type]


def test_dropout_draws_the_same_at_each_evaluation() -> None:
    """Else the highest of many draws would be found, however small the region."""
    model = toy_model(dropout=0.5).train()
    assert keskar_sharpness(model, loss_of, epsilon=1e-9).percent < 1e-6
    assert adaptive_sharpness(model, loss_of, rho=1e-9).percent < 1e-6


def test_single_precision_finds_the_same() -> None:
    double, single = toy_model().eval(), toy_model().eval().float()

    def loss(model: nn.Module) -> Tensor:
        value = F.cross_entropy(model(DATA.inputs.float()), DATA.targets)
        assert value.dtype == torch.float32
        return value

    for found, expected in (
        (keskar_sharpness(single, loss), keskar_sharpness(double, loss_of)),
        (adaptive_sharpness(single, loss, rho=0.5), adaptive_sharpness(double, loss_of, rho=0.5)),
    ):
        assert found.percent == pytest.approx(expected.percent, rel=1e-3)


def test_a_loss_that_is_not_finite_somewhere_in_the_region_is_told() -> None:
    model = quadratic(slope=1.0)
    with pytest.raises(RunError, match=r"the loss is nan near these weights, .* take a smaller region"):
        keskar_sharpness(model, lambda model: torch.where(model() > 0.302, math.nan, model()))
    with pytest.raises(RunError, match="the gradient is not finite near these weights"):
        keskar_sharpness(model, lambda model: (model() - 0.3).abs().sqrt())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon > 0, .* got 0.0, 10 and None"),
        ({"iterations": 0}, "iterations >= 1 .* got 0.001, 0 and None"),
        ({"dimension": 8}, r"a dimension of 1 to 7 \(the number of weights\), got 0.001, 10 and 8"),
        ({"dimension": 0}, "got 0.001, 10 and 0"),
    ],
)
def test_a_box_without_extent_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        keskar_sharpness(quadratic(), lambda model: model(), **options)  # type: ignore[arg-type]


def test_a_ball_without_extent_is_refused() -> None:
    with pytest.raises(RequestError, match=r"rho > 0 and iterations >= 1, got 0\.0 and 20"):
        adaptive_sharpness(quadratic(), lambda model: model(), rho=0.0)


def test_it_is_printed_with_its_cost() -> None:
    assert str(Sharpness(0.25, 0.5, 12, 10)) == "20 % (loss 0.25 to 0.5; 12 gradients)"
    assert math.isclose(Sharpness(0.25, 0.5, 12, 10).rise, 0.25)
