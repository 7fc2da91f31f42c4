"""How a published training set is split: the same examples are held out to choose things on, whatever the seed."""

from pathlib import Path

from rebatch.data.loaders import load
from rebatch.data.sets import DataSet, hold_out

VALIDATION = 5_000

# One split for every seed: the published training set less the examples to choose things on.
SPLIT_SEED = 0


def load_three(name: str, data_dir: Path) -> tuple[DataSet, DataSet, DataSet]:
    """The published set `name` in three: to train on, 5,000 to choose on, and the published test set."""
    published, test = load(name, data_dir)
    train, validation = hold_out(published, VALIDATION, SPLIT_SEED)
    return train, validation, test
