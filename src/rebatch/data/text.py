"""Text as examples: windows of bytes, each with the byte that comes next at every position. Counting needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rebatch.errors import RequestError

if TYPE_CHECKING:
    from rebatch.data.sets import Splits

# Of the windows, each; at least one. The rest is to train on.
HELD_OUT = 0.1


class Counts(NamedTuple):
    """Windows to train on, to choose on, to test on."""

    train: int
    validation: int
    test: int


def find_texts(folder: Path) -> list[Path]:
    """The `.txt` files of `folder`, by name.

    Raises:
        RequestError: there are none.
    """
    found = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not found:
        raise RequestError(f"no text in {folder}; put any .txt files there (nothing is downloaded)")
    return found


def count_windows(texts: Sequence[Path], length: int) -> Counts:
    """How many windows of `length` bytes, and one more to predict, the texts give.

    Raises:
        RequestError: a file that cannot be read, or fewer than three windows in all.
    """
    size = sum(_size(path) for path in texts)
    windows = (size - 1) // length
    held = max(1, round(HELD_OUT * windows))
    if windows < 3:
        raise RequestError(
            f"{_names(texts)} must hold at least {3 * length + 1} bytes, three windows of {length} and the byte that "
            f"comes next, got {size}"
        )
    return Counts(windows - 2 * held, held, held)


def digest(texts: Sequence[Path]) -> str:
    """What identifies the texts' content, one after the other: the first 16 hex digits of its SHA-256."""
    found = hashlib.sha256()
    for path in texts:
        found.update(_read(path))
    return found.hexdigest()[:16]


def load_windows(texts: Sequence[Path], length: int) -> Splits:
    """The texts, joined, as windows of `length` bytes that do not overlap: inputs (N, length) uint8, targets int64.

    The target of a byte is the byte that follows. The first windows are to train on, those that follow to choose on,
    the last ones to test on; what is left at the end, less than a window, is left out.

    Raises:
        RequestError: as `count_windows`.
    """
    import torch

    from rebatch.data.sets import DataSet, Splits

    counts = count_windows(texts, length)
    text = torch.frombuffer(bytearray(b"".join(_read(path) for path in texts)), dtype=torch.uint8)
    used = sum(counts) * length
    inputs, targets = (text[start : start + used].reshape(-1, length) for start in (0, 1))
    targets = targets.long()
    train, validation, test = (
        DataSet(*part) for part in zip(torch.split(inputs, [*counts]), torch.split(targets, [*counts]), strict=True)
    )
    return Splits(train, validation, test)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None


def _names(texts: Sequence[Path]) -> str:
    return str(texts[0]) if len(texts) == 1 else f"the {len(texts)} texts in {texts[0].parent}"
