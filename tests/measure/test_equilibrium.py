"""Steps at rest: closed forms against a simulation, and weights before a norm by name."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rebatch.equilibrium import relative_step, rest_decay
from rebatch.measure.relative_steps import RelativeSteps, weights_before_a_norm
from rebatch.models.mlp import mlp
from rebatch.observation import Observation
from rebatch.recipe import Sgd


@pytest.mark.parametrize(
    "optimizer",
    [
        Sgd(lr=0.02, weight_decay=0.05),
        Sgd(lr=0.002, weight_decay=0.05, momentum=0.9),
        Sgd(lr=0.002, weight_decay=0.05, momentum=0.9, nesterov=True),
    ],
    ids=["no momentum", "heavy ball", "Nesterov"],
)
def test_weights_that_see_noise_alone_come_to_rest_at_the_closed_form(optimizer: Sgd) -> None:
    """Gradients at right angles to the weights, as long as 1/|w|, in many dimensions: torch's SGD does the rest."""
    generator = torch.Generator().manual_seed(0)
    dimensions, steps = 1_000, 4_000
    weight = nn.Parameter(torch.randn(dimensions, generator=generator, dtype=torch.float64) / math.sqrt(dimensions))
    sgd = torch.optim.SGD(
        [weight],
        lr=optimizer.lr,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        nesterov=optimizer.nesterov,
    )
    squares = []
    for step in range(steps):
        before = weight.detach().clone()
        noise = torch.randn(dimensions, generator=generator, dtype=torch.float64)
        noise -= noise @ before / (before @ before) * before
        weight.grad = noise / noise.norm() / before.norm()
        sgd.step()
        if step >= steps // 2:
            squares.append(float((weight.detach() - before).norm() / before.norm()) ** 2)
    assert math.sqrt(np.mean(squares)) == pytest.approx(relative_step(optimizer), rel=0.02)


def test_decay_that_comes_to_rest_ten_times_in_a_run() -> None:
    sgd = Sgd(lr=0.1, momentum=0.9)
    decay = rest_decay(sgd, 2_000, 10)
    assert (1 - 0.9) / (4 * 0.1 * decay) == pytest.approx(200)


def test_the_weights_before_a_norm_are_all_but_the_last() -> None:
    torch.manual_seed(0)
    model = mlp(6, [5, 5], 3)
    before = [weight.detach().clone() for weight in model.parameters()]
    inputs = torch.randn(32, 6)
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert [names[place] for place in weights_before_a_norm(model, inputs)] == ["1.weight", "4.weight"]
    plain = nn.Sequential(*(layer for layer in model if not isinstance(layer, nn.BatchNorm1d)))
    assert weights_before_a_norm(plain, inputs) == []
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_steps_count_from_the_first_that_is_wanted() -> None:
    model = nn.Linear(2, 2, bias=False)
    observer = RelativeSteps([0], first=1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    assert math.isnan(observer.row(model)["relative_step"])
    for step in range(3):
        observer.step(Observation(step=step, model=model, examples=1, lr=0.1, loss=torch.tensor(0.0)))
        with torch.no_grad():
            model.weight.mul_(2.0 if step == 0 else 1.1)
    assert observer.row(model)["relative_step"] == pytest.approx(0.1)
    assert observer.row(model)["relative_step"] == pytest.approx(0.1)
