"""The reference recipes: the learning rate of every phase, as the authors' code prints it."""

import pytest
import torch

from rebatch.batching import batch_bounds, total_steps
from rebatch.data.sets import DataSet, Splits
from rebatch.recipe import Recipe, Sgd, Steps
from rebatch.schedule import lr_factor
from rebatch.tasks import TASKS
from rebatch.training import train

Phases = list[tuple[int, float]]

# Recipe, epochs, and from which epoch (counted from 0) which rate.
REGIMES: dict[str, tuple[Recipe, int, Phases]] = {
    "f1": (TASKS["mnist/f1"].recipe, 50, [(0, 0.1), (10, 0.01), (20, 1e-3), (30, 1e-4)]),
    "c1": (TASKS["cifar10/c1"].recipe, 200, [(0, 0.05), (60, 5e-3), (120, 5e-4), (180, 5e-5)]),
    "c1 code": (TASKS["cifar10/c1"].regime("code"), 200, [(0, 1e-3), (60, 1e-2), (120, 1e-3), (180, 1e-4)]),
    "resnet44": (TASKS["cifar10/resnet44"].recipe, 100, [(0, 0.1), (81, 0.01)]),
    "resnet44 planned": (TASKS["cifar10/resnet44"].regime("planned"), 164, [(0, 0.1), (81, 0.01), (122, 1e-3)]),
    "vgg": (TASKS["cifar10/vgg"].recipe, 200, [(0, 0.1), (60, 0.02), (120, 4e-3), (160, 8e-4)]),
    "wrn": (TASKS["cifar100/wrn16-4"].recipe, 200, [(0, 0.1), (60, 0.02), (120, 4e-3), (140, 1e-4)]),
    "wrn preact": (TASKS["cifar100/wrn16-4-preact"].recipe, 200, [(0, 0.1), (60, 0.02), (120, 4e-3), (160, 8e-4)]),
    "alexnet": (
        TASKS["imagenet/alexnet"].recipe, 30, [(0, 0.01), (10, 5e-3), (15, 1e-3), (20, 5e-4), (25, 1e-4)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REGIMES)
@pytest.mark.parametrize("examples", [45_000, 1_271_167])
def test_every_epoch_has_its_rate(name: str, examples: int) -> None:
    recipe, epochs, phases = REGIMES[name]
    total = total_steps(recipe, examples)
    per_epoch = total // epochs
    for epoch in range(epochs):
        expected = [rate for start, rate in phases if start <= epoch][-1]
        for step in (epoch * per_epoch, (epoch + 1) * per_epoch - 1):
            assert batch_bounds(step, examples, recipe)[0] == epoch
            assert recipe.optimizer.lr * lr_factor(recipe.schedule, step / total) == pytest.approx(expected)


# Not of Hoffer et al., but of Page's series and what descends from it: tests/tasks/test_fast.py.
FAST = ("page-resnet18", "resnet9", "fast94", "proxy")
PAPER = [name for name in TASKS if not name.startswith(("digits", "text", *(f"cifar10/{model}" for model in FAST)))]


@pytest.mark.parametrize("name", PAPER)
def test_regimes_of_the_paper_have_momentum_and_clipping(name: str) -> None:
    recipe = TASKS[name].recipe
    assert recipe.max_grad_norm == 5.0
    assert isinstance(recipe.optimizer, Sgd)
    assert recipe.optimizer.momentum == 0.9


def test_the_code_s_regime_of_c1_and_c3_has_no_momentum() -> None:
    regime = TASKS["cifar10/c1"].regime("code")
    assert regime == TASKS["cifar100/c3"].regime("code")
    assert regime.optimizer == Sgd(lr=1e-3, weight_decay=5e-4)
    assert regime.max_grad_norm == 5.0


def test_weight_decay_is_as_in_the_reference() -> None:
    decay = {name: task.recipe.optimizer.weight_decay for name, task in TASKS.items()}
    assert decay["cifar10/c1"] == decay["cifar100/c3"] == decay["imagenet/alexnet"] == 5e-4
    assert decay["cifar10/resnet44"] == decay["cifar100/wrn16-4"] == decay["mnist/f1"] == 1e-4
    alexnet = TASKS["imagenet/alexnet"].recipe.optimizer
    assert isinstance(alexnet, Sgd)
    assert alexnet.weight_decay_until * 30 == 15


SHAPES = {"digits": (64,), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "imagenet": (3, 224, 224), "text": (64,)}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_makes_a_step(name: str) -> None:
    """On made images, or bytes, through the task's own model, recipe and way of being computed."""
    task = TASKS[name]
    numbers = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, *SHAPES.get(name.split("/")[0], (3, 32, 32)), generator=numbers)
    places = [task.tokens_per_example] if task.tokens_per_example > 1 else []
    if places:
        inputs = inputs.abs()
    data = DataSet(inputs, torch.randint(0, task.classes, (8, *places), generator=numbers))
    splits = Splits(data.subset(range(4)), data.subset(range(4, 6)), data.subset(range(6, 8)))
    model = task.model(0, splits)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    execution = None if task.execution == "auto" else task.execution
    moving = 1 if lr_factor(task.recipe.schedule, 0.0) > 0 else 2  # a rate may rise from 0
    recipe = task.recipe.replace(batch_size=4, budget=Steps(moving))
    *_, row = train(model, splits, recipe, seed=0, evaluations=1, execution=execution)
    assert "diverged" not in row
    assert "validation_accuracy" in row
    assert model(inputs[:2].to(next(model.parameters()).dtype)).shape == (2, task.classes, *places)
    for start, parameter in zip(before, model.parameters(), strict=True):
        assert torch.equal(start, parameter) != parameter.requires_grad
