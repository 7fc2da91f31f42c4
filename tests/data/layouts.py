"""Small files in the published layouts, made from arrays."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def random_bytes(shape: tuple[int, ...], below: int = 256) -> Bytes:
    return np.random.default_rng(0).integers(0, below, size=shape, dtype=np.uint8)


def idx_bytes(values: Bytes) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def cifar_bytes(images: Bytes, *labels: Bytes) -> bytes:
    return b"".join(bytes(int(column[row]) for column in labels) + images[row].tobytes() for row in range(len(images)))


def write_mnist(folder: Path, train: int, test: int, *, packed: bool) -> dict[str, Bytes]:
    """MNIST's four files with few images of 5 x 7; returns what they hold by file name."""
    contents = {
        "train-images-idx3-ubyte": random_bytes((train, 5, 7)),
        "train-labels-idx1-ubyte": random_bytes((train,), below=10),
        "t10k-images-idx3-ubyte": random_bytes((test, 5, 7)),
        "t10k-labels-idx1-ubyte": random_bytes((test,), below=10),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in contents.items():
        data = idx_bytes(values)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return contents


def python2_pickle(images: Bytes, label_key: str, labels: list[int]) -> bytes:
    """A table of an array and labels as Python 2 and its NumPy wrote it: byte strings, protocol 2, the old module."""

    def string(text: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(text)) + text

    def integer(number: int) -> bytes:
        return b"J" + struct.pack("<i", number)

    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + string(b"u1") + integer(0) + integer(1) + b"tR"
    dtype += b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    shape = integer(images.shape[0]) + integer(images.shape[1]) + b"\x86"
    array = empty + b"(" + integer(1) + shape + dtype + b"\x89" + string(images.tobytes()) + b"tb"
    numbers = b"](" + b"".join(integer(label) for label in labels) + b"e"
    table = string(b"data") + array + string(label_key.encode()) + numbers
    return b"\x80\x02}(" + table + b"u."
