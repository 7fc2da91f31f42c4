"""CIFAR-10 and CIFAR-100 in three splits: 45,000 to train on, 5,000 to choose on, the published test set.

Augmented and normalized as Hoffer et al. (2017) do, as Page's series (2018) does, or as airbench94 does (Jordan, 2024).
The latter two train on all 50,000 and choose on the test set.
"""

from pathlib import Path

from torch import nn

from rebatch.data.augment import (
    IMAGENET_STATISTICS,
    AlternatingFlip,
    Augmentation,
    Cutout,
    Flip,
    Normalize,
    PadCrop,
    Translate,
)
from rebatch.data.batches import prepare
from rebatch.data.sets import Splits
from rebatch.data.views import Views
from rebatch.models import whitening
from rebatch.tasks.published import load_three

GRAY = 127
"""What the authors pad with: about the mean pixel, where others pad with black."""

# The training set's own, as their codes write them: Page's in pixels.
PAGE_STATISTICS = Normalize((125.31 / 255, 122.95 / 255, 113.87 / 255), (62.99 / 255, 62.09 / 255, 66.70 / 255))
AIRBENCH_STATISTICS = Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

MEAN = 121
"""The mean pixel. Page cuts out to each channel's own mean, which lies within a ninth of a standard deviation of it."""

CROP_AND_FLIP = (PadCrop(padding=4, fill="reflect"), Flip())


def load_cifar10(data_dir: Path, _: int) -> Splits:
    """CIFAR-10, 10 classes, as Hoffer et al. prepare it."""
    return _load("cifar10", data_dir, PAPER, IMAGENET_STATISTICS)


def load_cifar100(data_dir: Path, _: int) -> Splits:
    """CIFAR-100, 100 classes, as Hoffer et al. prepare it."""
    return _load("cifar100", data_dir, PAPER, IMAGENET_STATISTICS)


PAPER = (PadCrop(padding=4, fill=GRAY), Flip())


def load_page(data_dir: Path, _: int) -> Splits:
    """CIFAR-10 as parts 1 and 2 of Page's series prepare it: padded by reflection and cropped, flipped."""
    return _load("cifar10", data_dir, CROP_AND_FLIP, PAGE_STATISTICS)


def load_page_cutout(data_dir: Path, _: int) -> Splits:
    """The same, then a square of 8 pixels is cut out, as from part 3 on."""
    return _load("cifar10", data_dir, (*CROP_AND_FLIP, Cutout(8, fill=MEAN)), PAGE_STATISTICS)


def load_airbench(data_dir: Path, _: int) -> Splits:
    """CIFAR-10 as airbench94 prepares it: alternating flips, moved by up to 2 pixels, evaluated at six views."""
    augmentations = (AlternatingFlip(), Translate(2, fill="reflect"))
    return _load("cifar10", data_dir, augmentations, AIRBENCH_STATISTICS, "flip+shift")


def whiten(model: nn.Module, data: Splits) -> None:
    """Set the whitening layer of `model` from the first 5,000 training images, normalized and not augmented."""
    images, _ = prepare(data.train, slice(0, whitening.EXAMPLES), data.normalize)
    whitening.whiten(model, images)


def _load(
    name: str, data_dir: Path, augmentations: tuple[Augmentation, ...], normalize: Normalize, views: Views = "one"
) -> Splits:
    return Splits(*load_three(name, data_dir), augmentations, normalize, views)
