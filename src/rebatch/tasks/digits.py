"""`digits/mlp`: scikit-learn's 1,797 digits, real data that needs no network. The seed draws the split."""

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


def load(_: Path, seed: int) -> Splits:
    """1,024 to train on (batches of 32 and of 512 divide it), 256 for validation, 517 for test, drawn by the seed."""
    digits = load_digits()
    order = draws.generator(seed, "split").permutation(len(digits))
    train, validation, test = order[:TRAIN], order[TRAIN : TRAIN + VALIDATION], order[TRAIN + VALIDATION :]
    return Splits(digits.subset(train), digits.subset(validation), digits.subset(test))
