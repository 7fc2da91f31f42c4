"""A folder of images as a task of one's own: it trains, evaluates, and keeps law 1."""

from pathlib import Path

import pytest
import torch
from torch import nn

from data.image_folders import write_folders
from rebatch.data.augment import IMAGENET_STATISTICS, Flip
from rebatch.data.images import DecodeCrop
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.recipe import Epochs, Recipe, Sgd
from rebatch.tasks import TASKS, Task
from rebatch.tasks.imagenet import load_folders
from rebatch.training import evaluate, train
from toy import assert_same_state, state_of

RECIPE = Recipe(batch_size=6, ghost_batch_size=2, optimizer=Sgd(lr=0.1, momentum=0.9), budget=Epochs(2))
TRAIN, VALIDATION, TEST = 17, 5, 3


def build() -> nn.Module:
    features = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*features, nn.Linear(5 * 5 * 5, 3))


def task_of(processes: int) -> Task:
    return Task(
        "mine/small",
        RECIPE,
        TRAIN,
        VALIDATION,
        TEST,
        classes=3,
        build=build,
        load=lambda data_dir, _: load_folders(data_dir / "mine", VALIDATION, processes=processes),
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("data")
    write_folders(data_dir / "mine", TRAIN + VALIDATION, TEST)
    return data_dir


def trained(data_dir: Path, processes: int, micro_batch_size: int | None) -> tuple[nn.Module, list[dict[str, float]]]:
    task = task_of(processes)
    model = task.model()
    rows = train(
        model,
        task.data(0, data_dir),
        task.recipe,
        seed=0,
        evaluations=2,
        execution=Execution(precision="float64"),
        micro_batch_size=micro_batch_size,
    )
    return model, list(rows)


def test_a_run_depends_neither_on_how_it_is_cut_nor_on_who_decodes(data_dir: Path) -> None:
    model, rows = trained(data_dir, 1, None)
    assert rows[-1]["epoch"] == 2
    other, other_rows = trained(data_dir, 2, None)
    assert_same_state(state_of(other), state_of(model))
    assert other_rows == rows
    cut, cut_rows = trained(data_dir, 2, 4)
    assert_same_state(state_of(cut), state_of(model), rtol=1e-10)
    assert cut_rows[-1]["validation_loss"] == pytest.approx(rows[-1]["validation_loss"], rel=1e-10)


def test_evaluation_reads_the_test_folder_piece_by_piece(data_dir: Path) -> None:
    task = task_of(1)
    splits = task.data(0, data_dir)
    assert splits.test.targets.tolist() == [0, 1, 2]
    model = task.model()
    whole = evaluate(model, splits.test, splits.normalize)
    pieces = evaluate(model, splits.test, splits.normalize, batch_size=2)
    assert torch.equal(whole.correct, pieces.correct)
    assert whole.loss == pytest.approx(pieces.loss, rel=1e-5)  # float32


def test_validation_is_drawn_from_the_training_images_once_for_all_seeds(data_dir: Path) -> None:
    first, again = (task_of(1).data(seed, data_dir) for seed in (0, 1))
    files = torch.cat([first.train.inputs, first.validation.inputs, first.test.inputs])
    assert sorted(files.tolist()) == list(range(TRAIN + VALIDATION + TEST))
    assert torch.equal(first.validation.inputs, again.validation.inputs)
    assert first.test.inputs.tolist() == [22, 23, 24]


def test_images_are_prepared_as_in_the_paper(data_dir: Path) -> None:
    splits = load_folders(data_dir / "mine", VALIDATION)
    decode, flip = splits.augmentations
    assert isinstance(decode, DecodeCrop)
    assert (decode.files.resize, decode.files.crop, flip) == (256, 224, Flip())
    assert splits.normalize is not None
    assert (splits.normalize.mean, splits.normalize.std) == (IMAGENET_STATISTICS.mean, IMAGENET_STATISTICS.std)
    assert splits.normalize(splits.test.inputs).shape == (3, 3, 224, 224)


def test_imagenet_is_held_to_its_published_numbers(data_dir: Path, tmp_path: Path) -> None:
    task = TASKS["imagenet/alexnet"]
    assert (task.train + task.validation, task.test) == (1_281_167, 50_000)
    with pytest.raises(RequestError, match=r"no folder .*imagenet/train; it must hold one folder of images per class"):
        task.data(0, tmp_path)
    (tmp_path / "imagenet").symlink_to(data_dir / "mine")
    with pytest.raises(RequestError, match="validation must be from 1 to 21 of 22 examples, got 10000"):
        task.data(0, tmp_path)
