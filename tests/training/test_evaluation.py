"""Evaluation at several views of an image: outputs are averaged, for the validation and for the test set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch.data.augment import Normalize
from rebatch.data.sets import DataSet, Splits
from rebatch.data.views import views_of
from rebatch.execution import Execution
from rebatch.recipe import Recipe, Sgd, Steps
from rebatch.study.execute import execute
from rebatch.study.plan import RunSpec
from rebatch.study.store import Store
from rebatch.tasks import Task
from rebatch.training import evaluate, train

NORMALIZE = Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
RECIPE = Recipe(batch_size=8, optimizer=Sgd(lr=0.1), budget=Steps(3))
VIEWS: list[Any] = ["one", "flip", "flip+shift"]


def splits(views: Any) -> Splits:
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (31, 3, 5, 7), dtype=torch.uint8, generator=numbers)
    data = DataSet(images, torch.randint(0, 4, (31,), generator=numbers))
    parts = data.subset(range(13)), data.subset(range(13, 24)), data.subset(range(24, 31))
    return Splits(*parts, normalize=NORMALIZE, views=views)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(30, 4))


def by_hand(model: nn.Module, data: DataSet, views: Any) -> tuple[float, list[bool]]:
    """View by view, example by example."""
    losses, correct = [], []
    model.eval()
    with torch.no_grad():
        for index in range(len(data)):
            image, target = NORMALIZE(data.inputs[index : index + 1]), data.targets[index : index + 1]
            logits: Tensor = sum(weight * model(view) for weight, view in views_of(image, views))
            losses.append(F.cross_entropy(logits, target).item())
            correct.append(int(logits.argmax()) == int(target))
    model.train()
    return sum(losses) / len(losses), correct


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("batch_size", [4, 2048])
def test_outputs_are_averaged_over_the_views(views: Any, batch_size: int) -> None:
    model, data = network(), splits(views)
    found = evaluate(model, data.test, data.normalize, views=views, batch_size=batch_size)
    loss, correct = by_hand(model, data.test, views)
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.correct.tolist() == correct


def test_the_views_differ() -> None:
    model, data = network(), splits("one")
    assert len({evaluate(model, data.test, data.normalize, views=views).loss for views in VIEWS}) == 3


@pytest.mark.parametrize("views", VIEWS)
def test_a_run_is_validated_at_the_views_of_its_data(views: Any) -> None:
    model, data = network(), splits(views)
    *_, last = train(model, data, RECIPE, seed=0, evaluations=1)
    assert last["validation_loss"] == pytest.approx(by_hand(model, data.validation, views)[0], rel=1e-5)


def test_views_do_not_change_the_training() -> None:
    rows = [list(train(network(), splits(views), RECIPE, seed=0)) for views in VIEWS]
    assert len({tuple(row["train_loss"] for row in each) for each in rows}) == 1


@pytest.mark.parametrize("views", ["one", "flip+shift"])
def test_a_study_s_run_is_tested_at_the_views_of_its_task(views: Any, tmp_path: Path) -> None:
    made = splits(views)
    task = Task("mine/net", RECIPE, 13, 11, 7, classes=4, build=network, load=lambda folder, seed: made)
    spec = RunSpec(task=task.name, recipe=RECIPE, seed=0, evaluations=1)
    folder = Store(tmp_path, create=True).begin(spec)
    result = execute(spec, folder, task, data_dir=None, environment={}, on_row=lambda row: None)
    model = task.model(0)
    list(train(model, made, RECIPE, seed=0, evaluations=1))
    loss, correct = by_hand(model, made.test, views)
    assert result.test_loss == pytest.approx(loss, rel=1e-5)
    assert result.accuracy == pytest.approx(100 * sum(correct) / 7)


def test_several_views_are_averaged_in_float32_also_where_the_run_is_in_bfloat16() -> None:
    model, data = network(), splits("flip")
    exact = evaluate(model, data.test, data.normalize, views="flip")
    rounded = evaluate(model, data.test, data.normalize, views="flip", execution=Execution(precision="bfloat16"))
    assert rounded.loss == pytest.approx(exact.loss, rel=2e-2)  # bfloat16 keeps 8 bits
    seen: list[torch.dtype] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(outputs.dtype)
        return F.cross_entropy(outputs, targets, reduction="sum")

    for views in VIEWS:
        execution = Execution(precision="bfloat16", memory_format="channels_last")
        evaluate(model, data.test, data.normalize, views=views, loss=loss, execution=execution)
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


def test_splits_keep_their_views_on_the_way() -> None:
    data = splits("flip")
    assert data.to("cpu").views == replace(data, augmentations=()).views == "flip"
