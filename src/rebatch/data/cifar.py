"""CIFAR-10 and CIFAR-100: the binary version, and the Python version read without running its pickle."""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rebatch.errors import RequestError

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


def read_binary(path: Path, *, label_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 3, 32, 32) and labels (N,) of records of `label_bytes` labels, the finest last, and 3072 pixels.

    Raises:
        RequestError: the file does not hold whole records.
    """
    content = np.fromfile(path, np.uint8)
    record = label_bytes + PIXELS
    if len(content) == 0 or len(content) % record:
        raise RequestError(f"{path} is damaged: expected records of {record} bytes, found {len(content)} bytes in all")
    records = content.reshape(-1, record)
    images = np.ascontiguousarray(records[:, label_bytes:]).reshape(-1, *SHAPE)
    return images, records[:, label_bytes - 1].astype(np.int64)


def read_python(path: Path, *, label_key: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 3, 32, 32) and labels (N,) of one file of the Python version; `label_key` is where its labels are.

    Raises:
        RequestError: the file is damaged, or its pickle asks for anything that an array of numbers does not need.
    """
    table = _unpickled(path)
    if not isinstance(table, dict) or not {"data", label_key} <= table.keys():
        raise RequestError(f"{path} is damaged: expected a table with 'data' and {label_key!r}")
    images, labels = table["data"], table[label_key]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
        raise RequestError(f"{path} is damaged: expected 'data' to be bytes of shape (N, {PIXELS})")
    if not _is_labels(labels, len(images)):
        raise RequestError(f"{path} is damaged: expected {len(images)} integers as {label_key!r}")
    return images.reshape(-1, *SHAPE), np.array(labels, np.int64)


def _is_labels(labels: object, count: int) -> bool:
    return isinstance(labels, Sequence) and len(labels) == count and all(type(label) is int for label in labels)


# NumPy's own name for this function moved between versions 1 and 2; an array knows it.
_RECONSTRUCT = np.empty(0).__reduce__()[0]

ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""All that a pickle may name: a pickle can call whatever it names."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]


def _unpickled(path: Path) -> object:
    content = path.read_bytes()
    try:
        return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # damaged bytes are instructions too: they can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(f"{path} is damaged or not CIFAR: expected a pickle of arrays only, but {reason}") from error
