import gzip
from pathlib import Path

import numpy as np
import pytest

from data.layouts import idx_bytes, random_bytes
from rebatch.data.idx import read_idx
from rebatch.errors import RequestError

WHOLE = idx_bytes(random_bytes((3, 5, 7)))
PACKED = gzip.compress(WHOLE)


@pytest.mark.parametrize("shape", [(11,), (3, 5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("packed", [False, True])
def test_what_was_written_is_read(tmp_path: Path, shape: tuple[int, ...], packed: bool) -> None:
    values = random_bytes(shape)
    path = tmp_path / ("values.gz" if packed else "values")
    path.write_bytes(gzip.compress(idx_bytes(values)) if packed else idx_bytes(values))
    read = read_idx(path)
    assert np.array_equal(read, values)
    assert read.dtype == np.uint8
    assert read.flags.writeable


DAMAGED = {
    "empty": ("x", b"", "expected an IDX file of bytes .00 00 08 ..., it starts with nothing: it is empty"),
    "other magic": ("x", b"PK\x03\x04" + WHOLE, "expected an IDX file of bytes .00 00 08 ..., it starts 50 4b 03 04"),
    "other type": ("x", b"\x00\x00\x0d\x01" + WHOLE, "it starts 00 00 0d 01"),
    "no dimension": ("x", b"\x00\x00\x08\x00", "it starts 00 00 08 00"),
    "header cut": ("x", WHOLE[:9], "found 9$"),
    "truncated": ("x", WHOLE[:-1], "expected 121 bytes .unpacked. for 3 x 5 x 7 values, found 120"),
    "too long": ("x", WHOLE + b"\x00", "expected 121 bytes .unpacked. for 3 x 5 x 7 values, found 122"),
    "gzip truncated": ("x.gz", PACKED[:-20], "expected a whole gzip file, but compressed file ended before"),
    "gzip header": ("x.gz", b"<html>" + PACKED, "expected a whole gzip file, but not a gzipped file"),
    "gzip content": ("x.gz", PACKED[:10] + b"\xff" + PACKED[11:], "expected a whole gzip file, but error -3"),
    "gzip checksum": ("x.gz", PACKED[:-8] + b"\x00" * 4 + PACKED[-4:], "expected a whole gzip file, but crc check"),
    "gzip empty": ("x.gz", b"", "empty"),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_told_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        read_idx(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name} is damaged: ")
    assert "\n" not in str(caught.value)
