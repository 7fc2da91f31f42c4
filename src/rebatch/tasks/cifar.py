"""CIFAR-10 and CIFAR-100 with the paper's augmentation: 45,000 to train on, 5,000 to choose on, the published test."""

from pathlib import Path

from rebatch.data.augment import IMAGENET_STATISTICS, Flip, PadCrop
from rebatch.data.loaders import load as load_published
from rebatch.data.sets import Splits, hold_out

VALIDATION = 5_000

# One split for every seed: the published training set less 5,000 examples to choose things on.
SPLIT_SEED = 0

GRAY = 127
"""What the authors pad with: about the mean pixel, where others pad with black."""


def load_cifar10(data_dir: Path, _: int) -> Splits:
    """CIFAR-10, 10 classes."""
    return _load("cifar10", data_dir)


def load_cifar100(data_dir: Path, _: int) -> Splits:
    """CIFAR-100, 100 classes."""
    return _load("cifar100", data_dir)


def _load(name: str, data_dir: Path) -> Splits:
    published, test = load_published(name, data_dir)
    train, validation = hold_out(published, VALIDATION, SPLIT_SEED)
    augmentations = (PadCrop(padding=4, fill=GRAY), Flip())
    return Splits(train, validation, test, augmentations, normalize=IMAGENET_STATISTICS)
