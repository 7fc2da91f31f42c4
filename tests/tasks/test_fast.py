"""The tasks of Page's series and of airbench94: data, recipes and whitening against what their codes say."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rebatch.averaging import Lookahead
from rebatch.batching import steps_per_epoch, total_steps
from rebatch.data.augment import AlternatingFlip, Cutout, Flip, Normalize, PadCrop, Translate
from rebatch.data.sets import DataSet, Splits
from rebatch.models.whitening import Whitening, whitening_filters
from rebatch.optimizers import build_optimizer
from rebatch.recipe import Recipe, Sgd, Steps
from rebatch.reduction import with_loss_reduction
from rebatch.schedule import PiecewiseLinear, lr_factor
from rebatch.tasks import TASKS, Task, published
from rebatch.tasks.recipes import PAGE_512
from rebatch.training import Checkpointer, Row, train

CROP_AND_FLIP = (PadCrop(4, fill="reflect"), Flip())
PAGE = ((125.31, 122.95, 113.87), (62.99, 62.09, 66.70))  # of pixels 0..255
AIRBENCH = ((125.307, 122.961, 113.8575), (62.985, 62.0925, 66.708))  # 255 x what it writes


@dataclass(frozen=True)
class Expected:
    parameters: int
    whitened: bool
    augmentations: tuple[Any, ...]
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    views: str
    steps: tuple[int, int]  # an epoch, a run


PAGE_RUN, PROXY_RUN = (352, 35 * 352), (352, 12 * 352)
EXPECTED = {
    "cifar10/page-resnet18": Expected(5_205_834, False, CROP_AND_FLIP, PAGE, "one", PAGE_RUN),
    "cifar10/page-resnet18-half": Expected(1_304_490, False, CROP_AND_FLIP, PAGE, "one", PAGE_RUN),
    "cifar10/page-resnet18-double": Expected(20_799_114, False, CROP_AND_FLIP, PAGE, "one", PAGE_RUN),
    "cifar10/resnet9": Expected(6_573_120, False, (*CROP_AND_FLIP, Cutout(8, fill=121)), PAGE, "one", (87, 24 * 87)),
    "cifar10/fast94": Expected(
        1_972_792, True, (AlternatingFlip(), Translate(2, fill="reflect")), AIRBENCH, "flip+shift", (43, 426)
    ),
    "cifar10/proxy": Expected(146_744, True, CROP_AND_FLIP, PAGE, "one", PROXY_RUN),
    "cifar10/proxy-half": Expected(38_968, True, CROP_AND_FLIP, PAGE, "one", PROXY_RUN),
    "cifar10/proxy-double": Expected(569_656, True, CROP_AND_FLIP, PAGE, "one", PROXY_RUN),
}
EACH = pytest.mark.parametrize("name", EXPECTED)
WHITENED = [name for name, expected in EXPECTED.items() if expected.whitened]
SMALL = 13  # of 5,000 + 13 made images to train on


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Splits]:
    """The splits of a task, of made images in the published layout: bytes (N, 3, 32, 32) and labels (N,)."""

    def loaded(task: Task, *, train: int = SMALL, side: int = 32) -> Splits:
        def made(name: str, data_dir: Path) -> tuple[DataSet, DataSet]:
            numbers = torch.Generator().manual_seed(0)
            count = published.VALIDATION + train
            images = torch.randint(0, 256, (count + 7, 3, side, side), dtype=torch.uint8, generator=numbers)
            data = DataSet(images, torch.randint(0, 10, (count + 7,), generator=numbers))
            return data.subset(range(count)), data.subset(range(count, count + 7))

        monkeypatch.setattr(published, "load", made)
        splits = task.load(Path(), 0)
        few = splits.validation.subset(range(11))  # enough to be evaluated on
        return Splits(splits.train, few, splits.test, splits.augmentations, splits.normalize, splits.views)

    return loaded


@EACH
def test_data_are_prepared_as_their_codes_do(name: str, load: Callable[..., Splits]) -> None:
    expected, splits = EXPECTED[name], load(TASKS[name])
    assert splits.augmentations == expected.augmentations
    assert splits.views == expected.views
    assert isinstance(splits.normalize, Normalize)
    mean, std = (torch.tensor(row, dtype=torch.float64).view(3, 1, 1) for row in expected.statistics)
    found = splits.normalize(splits.test.inputs).double()
    torch.testing.assert_close(found, (splits.test.inputs - mean) / std, rtol=1e-5, atol=1e-5)


def test_the_gray_of_cutout_is_nearly_the_mean_of_every_channel() -> None:
    (gray,) = (part.fill for part in EXPECTED["cifar10/resnet9"].augmentations if isinstance(part, Cutout))
    for mean, std in zip(*PAGE, strict=True):
        assert abs(gray - mean) / std < 1 / 9


@EACH
def test_networks_and_lengths_of_runs(name: str) -> None:
    task, expected = TASKS[name], EXPECTED[name]
    assert sum(parameter.numel() for parameter in task.model().parameters()) == expected.parameters
    assert (task.prepare is not None) == expected.whitened
    assert (task.train, task.validation, task.test) == (45_000, 5_000, 10_000)
    recipe = task.recipe
    steps = steps_per_epoch(task.train, recipe.batch_size, recipe.last_batch), total_steps(recipe, task.train)
    assert steps == expected.steps


@EACH
def test_a_task_trains_on_images_in_the_published_layout(name: str, load: Callable[..., Splits]) -> None:
    task = TASKS[name]
    data = load(task)
    model = task.model(0, data)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    recipe = task.recipe.replace(batch_size=6, budget=Steps(3))  # the first one may have rate 0
    if recipe.averaging is not None:
        recipe = recipe.replace(averaging=Lookahead(every=2))
    *_, row = train(model, data, recipe, seed=0, evaluations=1)
    assert "diverged" not in row
    for key, value in model.named_parameters():
        assert value.isfinite().all()
        assert torch.equal(before[key], value) != value.requires_grad


@pytest.mark.parametrize("name", WHITENED)
def test_the_first_5000_training_images_whiten_normalized_and_not_augmented(
    name: str, load: Callable[..., Splits]
) -> None:
    task = TASKS[name]
    data = load(task, train=5_003, side=6)
    assert data.normalize is not None
    model = task.model(0, data)
    (layer,) = (part for part in model.modules() if isinstance(part, Whitening))
    assert layer.weight.isfinite().all()
    assert torch.equal(layer.weight, whitening_filters(data.normalize(data.train.inputs[:5_000])))
    assert not torch.equal(layer.weight, whitening_filters(data.normalize(data.train.inputs)))
    without = task.model()  # a forgotten data set shows
    assert any(parameter.isnan().all() for parameter in without.parameters())


@pytest.mark.parametrize("name", ["cifar10/proxy", "cifar10/fast94"])
def test_a_whitened_run_resumes_bit_for_bit(name: str, load: Callable[..., Splits], tmp_path: Path) -> None:
    task, path = TASKS[name], tmp_path / "checkpoint.pt"
    data = load(task)
    recipe = task.recipe.replace(batch_size=6, budget=Steps(6), averaging=Lookahead(every=2))

    def rows(checkpoint: Checkpointer | None) -> tuple[Any, nn.Module]:
        model = task.model(0, data)
        return train(model, data, recipe, seed=0, evaluations=3, checkpoint=checkpoint), model

    whole, model = rows(None)
    expected: list[Row] = list(whole)
    stopped, _ = rows(Checkpointer(path, seconds=0.0))
    first = list(islice(stopped, 4))[:3]  # the row after the last save is lost with the process
    again, resumed = rows(Checkpointer(path, seconds=1e9))
    assert first + list(again) == expected
    assert "validation_loss" in expected[-1]
    for key, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def rates(recipe: Recipe, epochs: int) -> list[float]:
    """The rate of the mean loss at every knot of whole epochs."""
    mean = with_loss_reduction(recipe, "mean")
    return [mean.optimizer.lr * lr_factor(mean.schedule, epoch / epochs) for epoch in range(epochs + 1)]


# Peak of the mean loss, epochs, and rates by epoch, straight lines between.
KNOTS: dict[str, tuple[Recipe, int, dict[int, float]]] = {
    "page 128": (TASKS["cifar10/page-resnet18"].recipe, 35, {0: 0.0, 15: 0.1, 30: 0.005, 35: 0.0}),
    "page 512": (TASKS["cifar10/page-resnet18"].regime("batch-512"), 35, {0: 0.0, 15: 0.44, 30: 0.005, 35: 0.0}),
    "resnet9": (TASKS["cifar10/resnet9"].recipe, 24, {0: 0.0, 5: 0.4, 24: 0.0}),
    "proxy": (TASKS["cifar10/proxy"].recipe, 12, {0: 0.0, 5: 0.2, 10: 0.01, 12: 0.0}),
}


@pytest.mark.parametrize("name", KNOTS)
def test_rates_rise_and_fall_between_the_knots_of_the_series(name: str) -> None:
    recipe, epochs, knots = KNOTS[name]
    found, places = rates(recipe, epochs), list(knots)
    for start, stop in pairwise(places):
        for epoch in range(start, stop + 1):
            expected = knots[start] + (knots[stop] - knots[start]) * (epoch - start) / (stop - start)
            assert found[epoch] == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", KNOTS)
def test_the_series_has_one_optimizer(name: str) -> None:
    optimizer = with_loss_reduction(KNOTS[name][0], "mean").optimizer
    assert isinstance(optimizer, Sgd)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.lr_in_buffer) == (0.9, True, True)
    assert optimizer.weight_decay == pytest.approx(5e-4, rel=1e-12)


def test_page_sums_the_loss_also_of_a_partial_last_batch() -> None:
    task = TASKS["cifar10/page-resnet18"]
    for recipe, peak, size in ((task.recipe, 0.1, 128), (PAGE_512, 0.44, 512)):
        assert (recipe.loss_reduction, recipe.last_batch, recipe.batch_size) == ("sum", "keep", size)
        assert recipe.optimizer.lr == pytest.approx(peak / size)
        assert recipe.optimizer.weight_decay == pytest.approx(5e-4 * size)


def airbench_step(weight: Tensor, gradient_of_sum: Tensor, scaler: float) -> Tensor:
    """The first step of airbench94's optimizer at full rate, in its own words; `scaler` is 64 for norms' biases."""
    kilostep_scale = 1024 * (1 + 1 / (1 - 0.85))
    lr, wd = 11.5 / kilostep_scale * scaler, 0.0153 * 1024 / kilostep_scale
    weight = nn.Parameter(weight.clone())
    optimizer = torch.optim.SGD([{"params": [weight], "lr": lr, "weight_decay": wd / lr}], momentum=0.85, nesterov=True)
    weight.grad = gradient_of_sum.clone()
    optimizer.step()
    return weight.detach()


def test_a_step_of_fast94_is_airbench94s() -> None:
    recipe, model = TASKS["cifar10/fast94"].recipe, nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    torch.manual_seed(0)
    gradients = [torch.randn_like(parameter) for parameter in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        nn.init.normal_(parameter)
        parameter.grad = gradient / recipe.batch_size  # of the mean loss
    before = [parameter.detach().clone() for parameter in model.parameters()]
    build_optimizer(recipe, model).step()
    for place, (parameter, start, gradient) in enumerate(zip(model.parameters(), before, gradients, strict=True)):
        expected = airbench_step(start, gradient, 64.0 if place == 3 else 1.0)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-14)
    assert recipe.optimizer.lr == pytest.approx(11.5 / (1 + 1 / (1 - 0.85)), rel=1e-12)


def test_the_rest_of_fast94_is_airbench94s() -> None:
    recipe = TASKS["cifar10/fast94"].recipe
    assert recipe.schedule == PiecewiseLinear(points=((0.0, 0.2), (0.23, 1.0), (1.0, 0.07)))
    assert recipe.label_smoothing == 0.2
    assert recipe.averaging == Lookahead(decay=0.95, every=5, power=3.0)
    assert (recipe.batch_size, recipe.last_batch) == (1024, "drop")
    assert total_steps(recipe, 50_000) == 475  # airbench rounds 475.2 up
