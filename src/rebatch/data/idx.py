"""The IDX format of MNIST and its relatives, packed with gzip or not."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rebatch.errors import RequestError


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of unsigned bytes in `path`, of any shape; a name that ends in `.gz` is unpacked.

    Two zero bytes, 8 for unsigned bytes, the number of dimensions, each dimension in 4 bytes (big end first), values.

    Raises:
        RequestError: the file is damaged or holds something else.
    """
    content = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or content[3] == 0:
        raise RequestError(f"{path} is damaged: expected an IDX file of bytes (00 00 08 ..), it starts {_hex(content)}")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[at : at + 4]) for at in range(4, start, 4)]
    size = start + math.prod(shape)
    if len(content) != size:
        expected = f"expected {size} bytes (unpacked) for {' x '.join(map(str, shape))} values"
        raise RequestError(f"{path} is damaged: {expected}, found {len(content)}")
    return np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(shape)


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise RequestError(f"{path} is damaged: expected a whole gzip file, but {str(error).lower()}") from error


def _hex(content: bytes) -> str:
    return content[:4].hex(" ") or "with nothing: it is empty"
