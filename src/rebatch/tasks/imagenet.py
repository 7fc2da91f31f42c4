"""ImageNet (ILSVRC-2012), or any set in its layout: class folders of images in `train/` and in `val/`.

Put it, or a link to it, into the data folder as `imagenet/`: `train/<class>/*.JPEG` and `val/<class>/*.JPEG` with the
same class names. The archives cannot be fetched without an account at image-net.org.
"""

from dataclasses import replace
from pathlib import Path

import torch

from rebatch.data.augment import IMAGENET_STATISTICS, Flip
from rebatch.data.images import DecodeCrop, ImageFiles, find_images
from rebatch.data.sets import DataSet, Splits, hold_out
from rebatch.tasks.published import SPLIT_SEED

# Drawn from the 1,281,167 published training images: a standard error of half a point for less than 1 % of them.
VALIDATION = 10_000


def load(data_dir: Path, _: int) -> Splits:
    """ILSVRC-2012: 1,271,167 to train on, 10,000 of the training images to choose on, the 50,000 of `val/` as test."""
    return load_folders(data_dir / "imagenet", VALIDATION)


def load_folders(folder: Path, validation: int, *, processes: int | None = None) -> Splits:
    """Training, validation (drawn from the training images) and test set of `folder`, never whole in memory.

    Training: shorter side 256, random crop of 224, flip; evaluation: shorter side 256, centre 224; ImageNet statistics.
    For the `load` of a task of your own. `processes` processes decode, as many as there are processors if left out.

    Raises:
        RequestError: the folder is not laid out so, or Pillow is not installed.
    """
    paths, targets, classes = find_images(folder / "train")
    test_paths, test_targets, _ = find_images(folder / "val", classes)
    files = ImageFiles((*paths, *test_paths), processes=processes)
    published = DataSet(torch.arange(len(paths)), torch.tensor(targets))
    test = DataSet(torch.arange(len(paths), len(files)), torch.tensor(test_targets))
    train, held_out = hold_out(published, validation, SPLIT_SEED)
    normalize = replace(IMAGENET_STATISTICS, decode=files.centres)
    return Splits(train, held_out, test, (DecodeCrop(files), Flip()), normalize)
