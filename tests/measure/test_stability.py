"""The edge of stability against iterated quadratics; edges and optima of sweeps against what one reads off."""

import math

import pytest
import torch

from rebatch.measure import adam_stable_lr, edge, optimum, stable_lr, stable_lr_of, unstable
from rebatch.recipe import Sgd


@pytest.mark.parametrize(
    ("momentum", "nesterov"),
    [(0.0, False), (0.5, False), (0.9, False), (0.97, False), (0.5, True), (0.9, True), (0.97, True)],
)
def test_just_below_the_limit_torch_converges_on_a_quadratic_and_just_above_it_diverges(
    momentum: float, nesterov: bool
) -> None:
    optimizer = Sgd(lr=1.0, momentum=momentum, nesterov=nesterov)
    limit = stable_lr_of(optimizer, 1.7)
    assert limit == stable_lr(1.7, momentum, nesterov=nesterov)
    ends = []
    for factor in (0.95, 1.05):
        weight = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        sgd = torch.optim.SGD([weight], lr=factor * limit, momentum=momentum, nesterov=nesterov)
        for _ in range(400):
            weight.grad = 1.7 * weight.detach()
            sgd.step()
        ends.append(abs(weight.item()))
    assert ends[0] < 0.1
    assert ends[1] > 100.0


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_adam_with_a_frozen_preconditioner_breaks_at_the_limit(beta1: float) -> None:
    """Two weights with their own curvature and denominator; torch's Adam late in a run, v put back before each step."""
    curvature, denominator = (torch.tensor(numbers, dtype=torch.float64) for numbers in ([3.4, 0.5], [2.0, 0.1]))
    limit = adam_stable_lr(float((curvature / denominator).max()), beta1)
    ends = []
    for factor in (0.95, 1.05):
        weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([weight], lr=factor * limit, betas=(beta1, 0.999), eps=0.0)
        late = {"step": torch.tensor(1e5), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        adam.state[weight] = late
        for _ in range(400):
            weight.grad = curvature * weight.detach()
            # So that v is what it was, with this step's own gradient in it.
            late["exp_avg_sq"].copy_((denominator.square() - 0.001 * weight.grad.square()) / 0.999)
            adam.step()
        ends.append(float(weight.detach().norm()))
    assert ends[0] < 0.1
    assert ends[1] > 100.0


def test_where_the_loss_does_not_curve_upwards_no_rate_is_too_large() -> None:
    assert stable_lr(0.0) == stable_lr(-1.0, 0.9) == adam_stable_lr(-1.0) == math.inf


@pytest.mark.parametrize(
    ("losses", "broken"),
    [
        ([0.4, 0.2, 0.1], [False, False, False]),
        ([0.4, 0.2, math.nan], [False, False, True]),
        ([0.4, math.inf, 0.2], [False, True, True]),  # what lies above a broken rate is broken
        ([2.4, 0.2], [True, True]),
        ([2.3, 0.2], [False, False]),  # at chance, not above it
    ],
)
def test_a_rate_is_broken_where_the_loss_is_lost(losses: list[float], broken: list[bool]) -> None:
    assert unstable(losses, math.log(10)) == broken


def test_a_leap_counts_where_it_is_asked_for() -> None:
    assert unstable([0.1, 0.19, 0.39, 0.2], math.log(10), jump=2) == [False, False, True, True]
    assert unstable([0.1, 0.19, 0.37, 0.2], math.log(10), jump=2) == [False] * 4


def test_points_between_octaves_refine_an_edge_and_do_not_move_it() -> None:
    losses = {1.0: 0.5, 2.0: 0.5, 4.0: 0.5, 4.757: 0.62, 5.657: 0.78, 6.727: 0.99, 8.0: 1.2, 16.0: 2.0}
    octaves = [rate for rate in losses if rate in (1.0, 2.0, 4.0, 8.0, 16.0)]
    for rates, expected in ((octaves, (4.0, 8.0)), (list(losses), (6.727, 8.0))):
        found = edge(rates, unstable([losses[rate] for rate in rates], math.log(10), rates=rates, jump=2))
        assert (found.low, found.high) == expected


def test_the_edge_lies_between_what_holds_and_what_does_not() -> None:
    found = edge([0.5, 1.0, 4.0], [False, False, True])
    assert (found.low, found.estimate, found.high) == (1.0, 2.0, 4.0)
    above = edge([1.0, 2.0], [False, False])
    assert (above.low, above.high) == (2.0, math.inf)
    below = edge([1.0, 2.0], [True, True])
    assert (below.low, below.high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="rising rates and as many answers"):
        edge([2.0, 1.0], [False, True])


@pytest.mark.parametrize("best", [0.7, 1.0, 1.9, 5.0])
def test_the_optimum_of_a_parabola_in_log_rate_is_found_exactly(best: float) -> None:
    rates = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    losses = [0.2 + 0.03 * math.log2(rate / best) ** 2 for rate in rates]
    assert optimum(rates, losses) == pytest.approx(best, rel=1e-9)


def test_an_optimum_at_an_end_or_beside_a_broken_rate_is_that_rate() -> None:
    assert optimum([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]) == 1.0
    assert optimum([1.0, 2.0, 4.0], [2.0, 1.0, math.nan]) == 2.0
    assert optimum([1.0, 2.0, 4.0], [1.0, 1.0, 1.0]) == 1.0
    assert math.isnan(optimum([1.0, 2.0], [math.nan, math.inf]))
