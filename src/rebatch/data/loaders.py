"""From a published set's name and a data folder to its training and test sets in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rebatch.data.catalog import Format, PublishedSet, fetch_command, published_set
from rebatch.data.cifar import read_binary, read_python
from rebatch.data.folder import find_layout, locate
from rebatch.data.idx import read_idx
from rebatch.data.sets import DataSet
from rebatch.errors import RequestError

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N, C, H, W) or (N, H, W), and labels (N,)."""


@dataclass(frozen=True)
class Reader:
    """How examples are read: `read` takes the paths of `files` files that belong together."""

    files: int
    read: Callable[..., Arrays]


def _read_idx_pair(images: Path, labels: Path) -> Arrays:
    return read_idx(images), read_idx(labels).astype(np.int64)


READERS: dict[Format, Reader] = {
    "idx": Reader(2, _read_idx_pair),
    "cifar10-binary": Reader(1, partial(read_binary, label_bytes=1)),
    "cifar100-binary": Reader(1, partial(read_binary, label_bytes=2)),
    "cifar10-python": Reader(1, partial(read_python, label_key="labels")),
    "cifar100-python": Reader(1, partial(read_python, label_key="fine_labels")),
}


def load(name: str, data_dir: Path) -> tuple[DataSet, DataSet]:
    """The training and the test set of `name`: inputs (N, C, H, W) uint8 and targets (N,), in the published order.

    Raises:
        RequestError: no set of that name, or a file that is missing, unreadable, damaged or not the published one.
    """
    published = published_set(name)
    layout = find_layout(published, data_dir)
    reader, paths = READERS[layout.format], locate(published, data_dir)
    mend = f"run `{fetch_command(name, data_dir)}`"
    train = _load_split(published, reader, paths[: len(layout.train)], published.train, mend)
    test = _load_split(published, reader, paths[len(layout.train) :], published.test, mend)
    return train, test


def _load_split(published: PublishedSet, reader: Reader, paths: Sequence[Path], examples: int, mend: str) -> DataSet:
    groups = [paths[first : first + reader.files] for first in range(0, len(paths), reader.files)]
    try:
        parts = [_read(published, reader, group) for group in groups]
        images = np.concatenate([part for part, _ in parts]) if len(parts) > 1 else parts[0][0]
        if len(images) != examples:
            raise RequestError(f"{paths[0].parent} is damaged: expected {examples} images, found {len(images)}")
    except RequestError as error:
        raise RequestError(f"{error}; delete it and {mend}") from error
    except OSError as error:
        raise RequestError(f"{error.filename or paths[0]} cannot be read: {error.strerror or error}") from error
    labels = np.concatenate([part for _, part in parts])
    return DataSet(torch.from_numpy(images.reshape(-1, *published.shape)), torch.from_numpy(labels))


def _read(published: PublishedSet, reader: Reader, group: Sequence[Path]) -> Arrays:
    """What one group of files holds, if its images and labels are such as the set has."""
    images, labels = reader.read(*group)
    shape = published.shape if images.ndim == 4 else published.shape[1:]
    if images.shape[1:] != shape:
        raise RequestError(f"{group[0]} is damaged: expected images of shape {shape}, found {images.shape[1:]}")
    if labels.shape != images.shape[:1]:
        raise RequestError(f"{group[-1]} is damaged: expected {len(images)} labels, found shape {labels.shape}")
    strange = labels[(labels < 0) | (labels >= published.classes)]
    if strange.size:
        limit = published.classes - 1
        raise RequestError(f"{group[-1]} is damaged: expected labels from 0 to {limit}, found {strange[0]}")
    return images, labels
