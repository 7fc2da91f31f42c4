"""Runs on the toy problem: by `train`, stopped and resumed, and by a loop written by hand that tests change in places.

The hand-written loop is the slow twin: whole batches, plain torch, nothing of the library but the order of examples.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch import Recipe, Sgd, draws
from rebatch.observation import Observer
from rebatch.training import Checkpointer, Row, train
from toy import FLOAT64, RECIPE, state_of, toy_model, toy_splits

Outcome = tuple[list[Row], dict[str, Tensor]]


def run(recipe: Recipe = RECIPE, model: nn.Module | None = None, **options: Any) -> Outcome:
    """Rows and final state of one run in float64."""
    model = toy_model() if model is None else model
    options = {"seed": 1, "execution": FLOAT64, "evaluations": 3, **options}
    rows = list(train(model, toy_splits(), recipe, **options))
    return rows, state_of(model)


def stopped_and_resumed(
    recipe: Recipe,
    folder: Path,
    *,
    after: int,
    model: Callable[[], nn.Module] = toy_model,
    observers: Callable[[], list[Observer]] = list,
) -> Outcome:
    """The same as `run`, in two processes' worth: the first dies after `after` rows, the second goes on."""
    path = folder / "checkpoint.pt"
    stopped = train(
        model(),
        toy_splits(),
        recipe,
        seed=1,
        execution=FLOAT64,
        evaluations=3,
        checkpoint=Checkpointer(path, seconds=0.0),
        observers=observers(),
    )
    *first, lost = [next(stopped) for _ in range(after + 1)]  # the row after the last save is lost with the process
    del stopped
    torch.manual_seed(12345)  # another process has another state of torch's generator
    checkpoint = Checkpointer(path, seconds=1e9)
    assert first[-1]["step"] <= checkpoint.steps() < lost["step"]
    rest, state = run(recipe, model(), checkpoint=checkpoint, observers=observers())
    return first + rest, state


def assert_same_rows(found: list[Row], expected: list[Row], rtol: float = 0.0) -> None:
    """Equal columns and numbers, bit for bit unless `rtol` says otherwise."""
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=rtol, abs=0.0)


def mean_loss(model: nn.Module, epoch: int, chosen: Tensor) -> Tensor:
    """The mean loss of the examples `chosen`."""
    data = toy_splits().train
    return F.cross_entropy(model(data.inputs[chosen]), data.targets[chosen])


def sgd(recipe: Recipe, model: nn.Module) -> torch.optim.SGD:
    """torch's own optimizer with the recipe's numbers, fused as the library takes it, so that sums round alike."""
    numbers = recipe.optimizer
    assert isinstance(numbers, Sgd)
    return torch.optim.SGD(
        model.parameters(), lr=numbers.lr, momentum=numbers.momentum, weight_decay=numbers.weight_decay, fused=True
    )


def by_hand(
    recipe: Recipe,
    model: nn.Module,
    *,
    epochs: int = 3,
    loss: Callable[[nn.Module, int, Tensor], Tensor] = mean_loss,
    start: Callable[[int, torch.optim.Optimizer], torch.optim.Optimizer] = lambda step, optimizer: optimizer,
    change: Callable[[int, list[Tensor]], None] = lambda step, gradients: None,
) -> list[float]:
    """Train `model` in place at a constant rate without clipping; gives the loss of each step.

    `start` (step, optimizer) gives the optimizer of the step, `loss` (model, epoch, chosen examples) what it goes down,
    `change` (step, gradients) changes the gradients in place.
    """
    optimizer: torch.optim.Optimizer = sgd(recipe, model)
    losses: list[float] = []
    for epoch in range(epochs):
        order = torch.from_numpy(draws.order(1, epoch, len(toy_splits().train)))
        for chosen in torch.split(order, recipe.batch_size):
            optimizer = start(len(losses), optimizer)
            optimizer.zero_grad()
            value = loss(model, epoch, chosen)
            value.backward()  # type: ignore[no-untyped-call]
            change(len(losses), [p.grad for p in model.parameters() if p.grad is not None])
            optimizer.step()
            losses.append(value.item())
    return losses
