"""CIFAR-10 and CIFAR-100 with the paper's augmentation: 45,000 to train on, 5,000 to choose on, the published test."""

from pathlib import Path

from rebatch.data.augment import IMAGENET_STATISTICS, Flip, PadCrop
from rebatch.data.sets import Splits
from rebatch.tasks.published import load_three

GRAY = 127
"""What the authors pad with: about the mean pixel, where others pad with black."""


def load_cifar10(data_dir: Path, _: int) -> Splits:
    """CIFAR-10, 10 classes."""
    return _load("cifar10", data_dir)


def load_cifar100(data_dir: Path, _: int) -> Splits:
    """CIFAR-100, 100 classes."""
    return _load("cifar100", data_dir)


def _load(name: str, data_dir: Path) -> Splits:
    augmentations = (PadCrop(padding=4, fill=GRAY), Flip())
    return Splits(*load_three(name, data_dir), augmentations, normalize=IMAGENET_STATISTICS)
