"""`mnist/f1` and `fashion-mnist/f1`: the paper's F1 with its augmentation, a flip for digits included."""

from pathlib import Path

from rebatch.data.augment import Flip, Normalize, PadCrop
from rebatch.data.loaders import load as load_published
from rebatch.data.sets import Splits, hold_out

VALIDATION = 5_000

# One split for every seed: the published training set less 5,000 examples to choose things on.
SPLIT_SEED = 0


def load_mnist(data_dir: Path, _: int) -> Splits:
    """MNIST: 55,000, 5,000 and the 10,000 of the published test set."""
    return _load("mnist", data_dir)


def load_fashion_mnist(data_dir: Path, _: int) -> Splits:
    """Fashion-MNIST, in the same layout."""
    return _load("fashion-mnist", data_dir)


def _load(name: str, data_dir: Path) -> Splits:
    published, test = load_published(name, data_dir)
    train, validation = hold_out(published, VALIDATION, SPLIT_SEED)
    return Splits(
        train, validation, test, augmentations=(PadCrop(padding=2), Flip()), normalize=Normalize((0.5,), (0.5,))
    )
