"""`digits/mlp` and `digits/mlp-plain`: scikit-learn's 1,797 digits, which need no network. The seed draws the split."""

from pathlib import Path

from torch import nn

from rebatch import draws
from rebatch.data.digits import load_digits
from rebatch.data.sets import Splits
from rebatch.models.mlp import mlp

TRAIN, VALIDATION = 1024, 256  # and the other 517 for test


def build() -> nn.Module:
    """64 pixels, three hidden layers of 128 with batch norm, 10 classes."""
    return mlp(64, [128, 128, 128], 10)


def build_plain() -> nn.Module:
    """The same without batch norm, which couples the examples of a batch; of a seed, the same initial linear layers."""
    return nn.Sequential(*(layer for layer in build().children() if not isinstance(layer, nn.BatchNorm1d)))


def load(_: Path, seed: int) -> Splits:
    """1,024 to train on (batches of 32 and of 512 divide it), 256 for validation, 517 for test, drawn by the seed."""
    digits = load_digits()
    order = draws.generator(seed, "split").permutation(len(digits))
    train, validation, test = order[:TRAIN], order[TRAIN : TRAIN + VALIDATION], order[TRAIN + VALIDATION :]
    return Splits(digits.subset(train), digits.subset(validation), digits.subset(test))
