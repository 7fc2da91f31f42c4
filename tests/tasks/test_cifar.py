from pathlib import Path

import pytest
import torch

from rebatch.data.augment import Flip, Normalize, PadCrop
from rebatch.data.sets import DataSet
from rebatch.tasks import cifar, published

EXAMPLES = 5_011


def made(name: str, data_dir: Path) -> tuple[DataSet, DataSet]:
    """Images of one pixel that tell which they are."""
    numbers = torch.arange(EXAMPLES)
    return DataSet(numbers.view(-1, 1, 1, 1), numbers % 10), DataSet(numbers[:7].view(-1, 1, 1, 1), numbers[:7])


def test_5000_of_the_training_images_are_held_out_the_same_for_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "load", made)
    splits, other = cifar.load_cifar10(Path(), 0), cifar.load_cifar100(Path(), 1)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (11, 5_000, 7)
    parts = torch.cat([splits.train.inputs, splits.validation.inputs]).view(-1)
    assert sorted(parts.tolist()) == list(range(EXAMPLES))
    assert torch.equal(splits.train.inputs, other.train.inputs)


def test_images_are_prepared_as_in_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "load", made)
    splits = cifar.load_cifar10(Path(), 0)
    assert splits.augmentations == (PadCrop(padding=4, fill=127), Flip())
    assert splits.normalize == Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
