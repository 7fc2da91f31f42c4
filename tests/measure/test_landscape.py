"""On losses with a known spread the measured one is it; the Taylor line fits what is smooth; the model is untouched."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from rebatch.measure.landscape import (
    Spread,
    fit_alpha,
    hessian_traces,
    landscape,
    loss_along,
    random_direction,
    spread,
    taylor_curve,
    taylor_line,
    taylor_ratio,
    undisturbed,
)
from rebatch.observation import trainable
from toy import assert_same_state, state_of, toy_model, toy_splits

EDGES = np.geomspace(1.0, 10.0, 6)


class Quadratic(nn.Module):
    """L(w) = g.w + w'Hw/2 in 7 dimensions, from w_0 = 0, with `frozen` weights that no direction may move."""

    def __init__(self, gradient: Tensor, hessian: Tensor) -> None:
        super().__init__()
        self.first, self.rest = nn.Parameter(torch.zeros(3).double()), nn.Parameter(torch.zeros(2, 2).double())
        self.frozen = nn.Parameter(torch.ones(2).double(), requires_grad=False)
        self.gradient, self.hessian = gradient.double(), hessian.double()

    def forward(self) -> Tensor:
        w = torch.cat([self.first, self.rest.flatten()])
        return self.gradient @ w + 0.5 * w @ self.hessian @ w + self.frozen.sum()


def quadratic(slope: float = 1.0, bend: float = 1.0, seed: int = 0) -> Quadratic:
    numbers = torch.Generator().manual_seed(seed)
    half = torch.randn(7, 7, generator=numbers)
    return Quadratic(slope * torch.randn(7, generator=numbers), bend * (half + half.T))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def z_of_squares(measured: np.ndarray, expected: np.ndarray) -> float:
    values = measured**2 - expected**2
    return float(values.mean() / (values.std(ddof=1) / math.sqrt(len(values))))


# Directions and losses


def test_directions_are_unit_vectors_uniform_over_all_weights_together() -> None:
    weights = [torch.zeros(3, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)]
    numbers = generator()
    draws = torch.stack(
        [torch.cat([part.flatten() for part in random_direction(weights, numbers)]) for _ in range(4000)]
    )
    torch.testing.assert_close(draws.norm(dim=1), torch.ones(4000, dtype=torch.float64), rtol=1e-6, atol=0.0)
    error = math.sqrt(2 * 6 / (7**2 * 9) / 4000)  # of a squared coordinate: Beta(1/2, 3)
    assert (draws.square().mean(0) - 1 / 7).abs().max() < 4 * error


def test_loss_along_is_the_loss_at_the_moved_weights() -> None:
    model = quadratic()
    with torch.no_grad():
        model.first.fill_(0.3)
    direction = random_direction(trainable(model), generator())
    w, v = torch.cat([model.first, model.rest.flatten()]), torch.cat([part.flatten() for part in direction])
    found = loss_along(model, trainable(model), direction, [0.0, 0.5, 7.0])
    for z, loss in zip([0.0, 0.5, 7.0], found, strict=True):
        here = w + z * v
        slow = model.gradient @ here + 0.5 * here @ model.hessian @ here + 2.0
        assert loss == pytest.approx(slow.item(), rel=1e-10)


def test_a_loss_that_fails_leaves_the_weights_in_place() -> None:
    model = quadratic()
    before = state_of(model)

    def broken() -> Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        loss_along(broken, trainable(model), random_direction(trainable(model), generator()), [1.0])
    assert_same_state(state_of(model), before)


def training_loss(model: nn.Module) -> Callable[[], Tensor]:
    data = toy_splits().train
    return lambda: F.cross_entropy(model(data.inputs), data.targets)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_does_not_change_the_model(training: bool) -> None:
    model = toy_model(dropout=0.3).train(training)
    model[1].eval()  # a mode of its own
    first = trainable(model)[0]
    first.grad = torch.full_like(first, 3.0)
    before, modes = state_of(model), [module.training for module in model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    def loss() -> Tensor:
        model.train()  # running statistics and dropout move
        return training_loss(model)()

    found = landscape(model, loss, draws=3, high=1.0, generator=generator())
    hessian_traces(model, loss, probes=2, generator=generator())
    assert found.differences.any()
    assert_same_state(state_of(model), before)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(first.grad, torch.full_like(first, 3.0))
    assert trainable(model)[1].grad is None
    assert torch.equal(torch.rand(3), expected)


def test_undisturbed_puts_back_after_an_error() -> None:
    model = toy_model()
    before = state_of(model)

    def disturb() -> None:
        with undisturbed(model):
            training_loss(model)()
            model.eval()
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        disturb()
    assert_same_state(state_of(model), before)
    assert model.training


# The estimators


def test_the_spread_of_a_quadratic_is_its_taylor_curve_to_second_order() -> None:
    model = quadratic(bend=0.3)
    found = landscape(model, model, draws=3000, high=10.0, generator=generator())
    assert (found.dimensions, found.noise) == (7, 0.0)
    assert found.gradient_norm == pytest.approx(float(model.gradient.norm()), rel=1e-10)
    trace, square_trace = float(model.hessian.trace()), float((model.hessian @ model.hessian).trace())
    curve = taylor_curve(found.distances, found.gradient_norm, 7, trace, square_trace)
    line = taylor_line(found.distances, found.gradient_norm, 7)
    assert abs(z_of_squares(found.differences, curve)) < 4
    assert z_of_squares(found.differences, line) > 4
    ratio = taylor_ratio(found.differences, curve, 0.9999)
    assert ratio is not None
    assert ratio.low < 1.0 < ratio.high < ratio.low + 0.3


@pytest.mark.parametrize(("slope", "bend", "alpha"), [(1.0, 0.0, 2.0), (0.0, 1.0, 4.0)])
def test_a_line_has_alpha_two_and_a_bowl_alpha_four(slope: float, bend: float, alpha: float) -> None:
    model = quadratic(slope, bend)
    found = landscape(model, model, draws=1000, low=1.0, high=10.0, generator=generator())
    interval = fit_alpha(spread(found.distances, found.differences, EDGES), 0.9999)
    assert interval.low < alpha < interval.high < interval.low + 1.0


def test_the_spread_of_a_random_field_has_its_alpha_and_an_interval_that_covers() -> None:
    # Differences N(0, z^alpha): each draw sees the field along a direction of its own.
    rng, hits, alpha = np.random.default_rng(0), 0, 1.2
    for _ in range(1000):
        z = rng.uniform(1.0, 10.0, 400)
        interval = fit_alpha(spread(z, rng.normal(size=400) * z ** (alpha / 2), EDGES))
        hits += interval.low < alpha < interval.high
    assert 0.92 < hits / 1000 < 0.97


def test_spread_is_the_root_mean_square_per_bin() -> None:
    z, y = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 9.0]), np.array([1.0, -2.0, 3.0, -4.0, 5.0, 6.0])
    found = spread(z, y, [1.0, 2.0, 4.0])
    assert found.rms == pytest.approx([math.sqrt(5 / 2), math.sqrt(50 / 3)])
    assert found.distances == pytest.approx([math.sqrt(3.25 / 2), math.sqrt(19.25 / 3)])
    assert found.draws.tolist() == [2, 3]
    assert found.standard_errors[1] == pytest.approx(stats.sem([9.0, 16.0, 25.0]) / (2 * math.sqrt(50 / 3)))


def test_standard_errors_of_the_spread_are_those_of_repeated_measurements() -> None:
    rng = np.random.default_rng(1)
    many = [spread(np.ones(200), rng.normal(size=200), [0.5, 1.5]) for _ in range(1000)]
    spreads = np.array([one.rms[0] for one in many])
    assert np.mean([one.standard_errors[0] for one in many]) == pytest.approx(spreads.std(), rel=4 / math.sqrt(2000))


def test_a_noisy_loss_shows_its_noise_and_takes_the_base_anew() -> None:
    model, numbers = quadratic(), generator(3)

    def noisy() -> Tensor:
        loss: Tensor = model() + 0.5 * torch.randn((), generator=numbers)
        return loss

    found = landscape(model, noisy, draws=500, high=1e-9, generator=generator(), noisy=True, smooth=model)
    assert found.noise == pytest.approx(0.5 * math.sqrt(2), rel=4 / math.sqrt(1000))
    assert found.differences.std() == pytest.approx(found.noise, rel=4 * math.sqrt(2 / 1000))
    assert found.gradient_norm == pytest.approx(float(model.gradient.norm()), rel=1e-10)


def test_between_keeps_the_draws_of_a_range() -> None:
    model = quadratic()
    found = landscape(model, model, draws=50, low=1.0, high=5.0, generator=generator())
    part = found.between(2.0, 3.0)
    kept = (found.distances >= 2.0) & (found.distances < 3.0)
    assert 0 < len(part.distances) < 50
    np.testing.assert_array_equal(part.differences, found.differences[kept])
    assert (part.dimensions, part.gradient_norm) == (found.dimensions, found.gradient_norm)


def test_hessian_traces_are_those_of_the_matrix() -> None:
    model = quadratic()
    trace, square = hessian_traces(model, model, probes=500, generator=generator())
    assert abs(trace.estimate - float(model.hessian.trace())) < 4 * trace.standard_error
    assert abs(square.estimate - float((model.hessian @ model.hessian).trace())) < 4 * square.standard_error


def test_a_weight_that_the_loss_does_not_use_is_one_more_dimension_and_flat() -> None:
    bends = torch.arange(1.0, 8.0)
    model = Quadratic(torch.ones(7), torch.diag(bends))
    model.unused = nn.Parameter(torch.zeros(2))
    found = landscape(model, model, draws=2, high=1.0, generator=generator())
    assert found.dimensions == 9
    assert found.gradient_norm == pytest.approx(math.sqrt(7), rel=1e-12)
    traces = hessian_traces(model, model, probes=2, generator=generator())  # exact for any signs: H is diagonal
    assert [each.estimate for each in traces] == pytest.approx([float(bends.sum()), float(bends @ bends)], rel=1e-12)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 2 draws, got \[2, 1\]"):
        spread([1.0, 1.5, 2.5], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="at least 2 bins, got 1"):
        fit_alpha(Spread(np.ones(1), np.ones(1), np.ones(1), np.ones(1, dtype=np.int64)))
