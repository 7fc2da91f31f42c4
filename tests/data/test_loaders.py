import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.layouts import cifar_bytes, idx_bytes, python2_pickle, random_bytes, write_mnist
from rebatch.data.catalog import CATALOG, File, Layout, PublishedSet
from rebatch.data.loaders import load
from rebatch.errors import RequestError

TRAIN, TEST = 7, 3


def small(name: str, classes: int) -> PublishedSet:
    """The set as the catalog has it, of few and small examples."""
    published = CATALOG[name]
    if name == "mnist":
        sizes = (16 + 35 * TRAIN, 8 + TRAIN, 16 + 35 * TEST, 8 + TEST)
        files = [
            File(file.name, size, packed_size=1) for file, size in zip(published.layouts[0].files, sizes, strict=True)
        ]
        layout = replace(published.layouts[0], train=tuple(files[:2]), test=tuple(files[2:]))
        return replace(published, layouts=(layout,), train=TRAIN, test=TEST, shape=(1, 5, 7), classes=classes)
    layouts = tuple(_without_sizes(layout) for layout in published.layouts)
    return replace(published, layouts=layouts, train=TRAIN * len(layouts[0].train), test=TEST, classes=classes)


def _without_sizes(layout: Layout) -> Layout:
    train, test = (tuple(File(file.name) for file in files) for files in (layout.train, layout.test))
    return replace(layout, train=train, test=test)


@pytest.fixture(autouse=True)
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, classes in (("mnist", 10), ("cifar10", 10), ("cifar100", 100)):
        monkeypatch.setitem(CATALOG, name, small(name, classes))


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_packed_or_not(tmp_path: Path, packed: bool) -> None:
    contents = write_mnist(tmp_path / "MNIST" / "raw", TRAIN, TEST, packed=packed)
    train, test = load("mnist", tmp_path)
    for data, part in ((train, "train"), (test, "t10k")):
        assert torch.equal(data.inputs[:, 0], torch.from_numpy(contents[f"{part}-images-idx3-ubyte"]))
        assert data.inputs.dtype == torch.uint8
        assert data.targets.tolist() == contents[f"{part}-labels-idx1-ubyte"].tolist()
        assert data.targets.dtype == torch.int64


def write_cifar(published: PublishedSet, data_dir: Path) -> dict[str, tuple[torch.Tensor, list[int]]]:
    """Both layouts, file by file the same examples; returns those by name in the binary layout."""
    binary, python = published.layouts
    label_key = "labels" if published.classes == 10 else "fine_labels"
    for layout in published.layouts:
        (data_dir / layout.folder).mkdir()
    written = {}
    rng = np.random.default_rng(1)
    for one, other in zip(binary.files, python.files, strict=True):
        count = TEST if one in binary.test else TRAIN
        images = rng.integers(0, 256, size=(count, 3, 32, 32), dtype=np.uint8)
        labels = rng.integers(0, published.classes, size=count, dtype=np.uint8)
        columns = [labels] if published.classes == 10 else [np.zeros_like(labels), labels]
        (data_dir / binary.folder / one.name).write_bytes(cifar_bytes(images, *columns))
        pickled = python2_pickle(images.reshape(count, -1), label_key, labels.tolist())
        (data_dir / python.folder / other.name).write_bytes(pickled)
        written[one.name] = (torch.from_numpy(images), labels.tolist())
    return written


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("left_out", [0, 1])
def test_cifar_is_read_in_either_layout(tmp_path: Path, name: str, left_out: int) -> None:
    published = CATALOG[name]
    written = write_cifar(published, tmp_path)
    shutil.rmtree(tmp_path / published.layouts[left_out].folder)
    train, test = load(name, tmp_path)
    *parts, last = written.values()
    assert torch.equal(train.inputs, torch.cat([images for images, _ in parts]))
    assert train.targets.tolist() == [label for _, labels in parts for label in labels]
    assert torch.equal(test.inputs, last[0])
    assert test.targets.tolist() == last[1]


def test_a_missing_set_is_answered_with_the_command_that_gets_it(tmp_path: Path) -> None:
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    with pytest.raises(RequestError) as caught:
        load("mnist", tmp_path)
    assert str(caught.value) == (
        f"mnist is not there: no file {file}; run `rebatch data fetch mnist --data-dir {tmp_path}`"
    )


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_cifar(CATALOG["cifar10"], tmp_path)
    shutil.rmtree(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(
        RequestError, match=r"no file .*cifar-10-batches-bin/data_batch_3\.bin; run `rebatch data fetch"
    ):
        load("cifar10", tmp_path)


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
PACKED = gzip.compress(idx_bytes(random_bytes((TRAIN, 5, 7))))
FEWER = gzip.compress(idx_bytes(random_bytes((2, 5, 7))))
DAMAGED_MNIST = {
    "truncated": (IMAGES, b"\x00\x00\x08\x03", "expected size 261 bytes, found 4"),
    "other magic": (IMAGES, b"P" * 261, "expected an IDX file"),
    "other shape": (IMAGES, idx_bytes(random_bytes((TRAIN, 7, 5))), r"images of shape \(5, 7\), found \(7, 5\)"),
    "fewer images": (f"{IMAGES}.gz", FEWER, f"expected size 1 bytes, found {len(FEWER)}"),
    "a label too high": (LABELS, idx_bytes(np.array([1, 12, 2], np.uint8)), "labels from 0 to 9, found 12"),
    "other labels": (LABELS, b"\x00\x00\x08\x01\x00\x00\x00\x02abc", "expected 10 bytes .unpacked. for 2 values"),
    "gzip truncated": (f"{IMAGES}.gz", PACKED[:-30], f"expected size 1 bytes, found {len(PACKED) - 30}"),
    "gzip content": (f"{IMAGES}.gz", PACKED[:40] + b"1234" + PACKED[44:], "expected a whole gzip file"),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED_MNIST.values(), ids=DAMAGED_MNIST)
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder, TRAIN, TEST, packed=False)
    (folder / name.removesuffix(".gz")).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        load("mnist", tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{folder / name}")
    assert text.endswith(f"; delete it and run `rebatch data fetch mnist --data-dir {tmp_path}`")
    assert "\n" not in text


def test_a_label_too_high_is_found_in_its_own_file(tmp_path: Path) -> None:
    write_cifar(CATALOG["cifar10"], tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_4.bin"
    path.write_bytes(bytes([11]) + path.read_bytes()[1:])
    with pytest.raises(RequestError, match=r"data_batch_4\.bin is damaged: expected labels from 0 to 9, found 11"):
        load("cifar10", tmp_path)


def test_fewer_examples_than_published_are_refused(tmp_path: Path) -> None:
    write_cifar(CATALOG["cifar100"], tmp_path)
    path = tmp_path / "cifar-100-binary" / "train.bin"
    path.write_bytes(path.read_bytes()[:-3_074])
    with pytest.raises(RequestError, match=f"expected {TRAIN} images, found {TRAIN - 1}; delete it and run"):
        load("cifar100", tmp_path)


def test_a_file_that_cannot_be_read_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder, TRAIN, TEST, packed=False)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(RequestError, match=f"{IMAGES} cannot be read: Permission denied"):
        load("mnist", tmp_path)


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no published set named 'mnits'; did you mean 'mnist'"):
        load("mnits", tmp_path)
