"""Labels are smoothed in the gradient and nowhere else."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch.errors import RequestError
from rebatch.observation import Observation, Observer
from rebatch.recipe import Defects, Noise, Recipe
from rebatch.schedule import Constant
from rebatch.training import cross_entropy, evaluate
from toy import FLOAT64, RECIPE, assert_same_state, state_of, toy_model, toy_splits
from training.runs import assert_same_rows, by_hand, run, stopped_and_resumed

PLAIN = RECIPE.replace(ghost_batch_size=None, schedule=Constant(), max_grad_norm=None)
SMOOTHING = 0.2


def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
    """Each example's cross-entropy to 1 - s on its label and s / classes on every class."""
    classes = outputs.shape[1]
    aim = torch.full_like(outputs, SMOOTHING / classes)
    for row, label in enumerate(targets.tolist()):
        aim[row, label] += 1 - SMOOTHING
    return -(aim * (outputs - outputs.exp().sum(1, keepdim=True).log())).sum(1)


def test_the_loss_is_smoothed_as_defined_with_and_without_weights() -> None:
    outputs = torch.linspace(-2, 3, 21, dtype=torch.float64).reshape(7, 3)
    targets, weights = torch.arange(7) % 3, torch.linspace(-1, 2, 7, dtype=torch.float64)
    found = cross_entropy(outputs, targets, label_smoothing=SMOOTHING)
    torch.testing.assert_close(found, smoothed(outputs, targets).sum(), rtol=1e-12, atol=0)
    found = cross_entropy(outputs, targets, weights, label_smoothing=SMOOTHING)
    torch.testing.assert_close(found, (weights * smoothed(outputs, targets)).sum(), rtol=1e-12, atol=0)


def test_a_smoothed_run_equals_a_hand_written_one() -> None:
    data, plain = toy_splits().train, []

    def loss(model: nn.Module, epoch: int, chosen: Tensor) -> Tensor:
        outputs = model(data.inputs[chosen])
        plain.append(F.cross_entropy(outputs, data.targets[chosen]).item())
        return smoothed(outputs, data.targets[chosen]).mean()

    model = toy_model()
    by_hand(PLAIN, model, loss=loss)
    rows, weights = run(PLAIN.replace(label_smoothing=SMOOTHING))
    assert_same_state(weights, state_of(model), rtol=1e-10)
    assert rows[0]["train_loss"] == pytest.approx(plain[0], rel=1e-10)  # what is written down is not smoothed


def test_every_loss_that_is_written_down_is_plain() -> None:
    class Losses(Observer):
        def __init__(self) -> None:
            self.first: float | None = None

        def step(self, observation: Observation) -> None:
            self.first = float(observation.loss) if self.first is None else self.first

    recipe, watchers, rows, model = PLAIN.replace(label_smoothing=SMOOTHING), (Losses(), Losses()), [], toy_model()
    rows = [run(each, observers=[watcher])[0] for each, watcher in zip((PLAIN, recipe), watchers, strict=True)]
    assert rows[0][0]["train_loss"] == rows[1][0]["train_loss"]
    assert watchers[0].first == watchers[1].first
    found, _ = run(recipe, model)
    assert found[-1]["validation_loss"] == evaluate(model, toy_splits().validation, execution=FLOAT64).loss


@pytest.mark.parametrize("micro_batch_size", [4, 12])
def test_micro_batch_size_does_not_change_a_smoothed_run(micro_batch_size: int) -> None:
    recipe = RECIPE.replace(label_smoothing=SMOOTHING, noise=Noise(multiplicative=1.5, labels=0.3))
    rows, weights = run(recipe)
    cut_rows, cut_weights = run(recipe, micro_batch_size=micro_batch_size)
    assert_same_rows(cut_rows, rows, rtol=1e-10)
    assert_same_state(cut_weights, weights, rtol=1e-10)


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_smoothed_run_resumes_bit_for_bit(after: int, tmp_path: Path) -> None:
    recipe = RECIPE.replace(label_smoothing=SMOOTHING)
    rows, weights = run(recipe)
    resumed_rows, resumed = stopped_and_resumed(recipe, tmp_path, after=after)
    assert resumed_rows == rows
    assert_same_state(resumed, weights)


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum")


def weighing(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    return cross_entropy(outputs, targets, weights)


REFUSED = {"own_loss": own_loss, "weighing": weighing, "CrossEntropyLoss": nn.CrossEntropyLoss(reduction="sum")}


@pytest.mark.parametrize("name", REFUSED)
def test_a_loss_that_cannot_be_smoothed_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        run(PLAIN.replace(label_smoothing=SMOOTHING), loss=REFUSED[name])
    assert str(caught.value) == (
        f"label_smoothing changes labels, and the loss {name} takes no label_smoothing; give it an argument "
        "`label_smoothing`, as rebatch.training.cross_entropy has, or leave label_smoothing out"
    )
    run(PLAIN, loss=REFUSED[name])


@pytest.mark.parametrize(
    "recipe",
    [PLAIN, PLAIN.replace(ghost_batch_size=4, defects=Defects(ghost_split="chunks"))],
    ids=["plain", "weights too"],
)
def test_a_loss_of_ones_own_that_takes_the_argument_is_smoothed(recipe: Recipe) -> None:
    def mine(outputs: Tensor, targets: Tensor, *, weights: Any = None, label_smoothing: float = 0.0) -> Tensor:
        return cross_entropy(outputs, targets, weights, label_smoothing=label_smoothing)

    recipe = recipe.replace(label_smoothing=SMOOTHING)
    rows, weights = run(recipe, loss=mine)
    expected_rows, expected = run(recipe)
    assert rows == expected_rows
    assert_same_state(weights, expected)


def test_torchs_own_function_is_a_loss_that_takes_it() -> None:
    recipe = PLAIN.replace(label_smoothing=SMOOTHING)
    assert run(recipe, loss=partial(F.cross_entropy, reduction="sum"))[0] == run(recipe)[0]
