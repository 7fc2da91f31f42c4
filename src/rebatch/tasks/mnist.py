"""`mnist/f1` and `fashion-mnist/f1`: the paper's F1 with its augmentation, a flip for digits included."""

from pathlib import Path

from rebatch.data.augment import Flip, Normalize, PadCrop
from rebatch.data.sets import Splits
from rebatch.tasks.published import load_three


def load_mnist(data_dir: Path, _: int) -> Splits:
    """MNIST: 55,000, 5,000 and the 10,000 of the published test set."""
    return _load("mnist", data_dir)


def load_fashion_mnist(data_dir: Path, _: int) -> Splits:
    """Fashion-MNIST, in the same layout."""
    return _load("fashion-mnist", data_dir)


def _load(name: str, data_dir: Path) -> Splits:
    augmentations = (PadCrop(padding=2), Flip())
    return Splits(*load_three(name, data_dir), augmentations, normalize=Normalize((0.5,), (0.5,)))
