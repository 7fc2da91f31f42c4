import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.layouts import cifar_bytes, python2_pickle, random_bytes
from rebatch.data.cifar import read_binary, read_python
from rebatch.errors import RequestError

IMAGES = random_bytes((5, 3, 32, 32))
LABELS = np.array([3, 1, 4, 1, 99], np.uint8)
TABLE: dict[str, Any] = {"data": IMAGES.reshape(5, -1), "labels": LABELS.tolist()}


def test_the_last_label_byte_is_the_fine_label(tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(cifar_bytes(IMAGES, LABELS))
    (tmp_path / "two.bin").write_bytes(cifar_bytes(IMAGES, np.zeros_like(LABELS), LABELS))
    for name, label_bytes in (("one.bin", 1), ("two.bin", 2)):
        images, labels = read_binary(tmp_path / name, label_bytes=label_bytes)
        assert np.array_equal(images, IMAGES)
        assert labels.tolist() == LABELS.tolist()
        assert labels.dtype == np.int64


@pytest.mark.parametrize("size", [0, 3_072, 5 * 3_073 - 1])
def test_a_binary_file_of_broken_records_is_damaged(tmp_path: Path, size: int) -> None:
    (tmp_path / "x.bin").write_bytes(cifar_bytes(IMAGES, LABELS)[:size])
    with pytest.raises(RequestError, match=f"x.bin is damaged: expected records of 3073 bytes, found {size} bytes"):
        read_binary(tmp_path / "x.bin", label_bytes=1)


PICKLES = {
    "as published": python2_pickle(IMAGES.reshape(5, -1), "labels", LABELS.tolist()),
    "written today": pickle.dumps(TABLE, protocol=4),
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_the_python_version_holds_the_same_images(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data_batch_1").write_bytes(content)
    images, labels = read_python(tmp_path / "data_batch_1", label_key="labels")
    assert np.array_equal(images, IMAGES)
    assert labels.tolist() == LABELS.tolist()


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.mkdir, exec, np.load, getattr])
def test_a_pickle_that_calls_anything_else_is_refused_and_not_run(tmp_path: Path, function: Any, protocol: int) -> None:
    trap = tmp_path / "trap"
    argument = f"open({str(trap)!r}, 'w')" if function is exec else str(trap)
    (tmp_path / "test").write_bytes(pickle.dumps({**TABLE, "labels": Calls(function, argument)}, protocol=protocol))
    with pytest.raises(RequestError, match=r"expected a pickle of arrays only, but it asks for \w+\.\w+"):
        read_python(tmp_path / "test", label_key="labels")
    assert not trap.exists()


WRONG = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "truncated": PICKLES["as published"][:-100],
    "truncated early": PICKLES["as published"][:40],
    "no table": pickle.dumps([1, 2]),
    "no labels": pickle.dumps({"data": [1]}),
    "other labels": pickle.dumps({**TABLE, "labels": ["a"] * 5}, protocol=4),
    "fewer labels": pickle.dumps({**TABLE, "labels": [1]}, protocol=4),
    "no array": pickle.dumps({**TABLE, "data": [1]}, protocol=4),
    "other numbers": pickle.dumps({**TABLE, "data": TABLE["data"].astype(np.int32)}, protocol=4),
    "other shape": pickle.dumps({**TABLE, "data": TABLE["data"].reshape(-1)}, protocol=4),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_a_damaged_pickle_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train").write_bytes(content)
    with pytest.raises(RequestError, match="train is damaged") as caught:
        read_python(tmp_path / "train", label_key="labels")
    assert "\n" not in str(caught.value)


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    whole = python2_pickle(IMAGES[:1].reshape(1, -1), "labels", [1])
    header, rng = 250, np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        content[int(rng.integers(header))] = int(rng.integers(256))
        (tmp_path / "train").write_bytes(content)
        with contextlib.suppress(RequestError):  # nothing else may come out
            read_python(tmp_path / "train", label_key="labels")
