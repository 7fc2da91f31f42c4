import gzip
from pathlib import Path

import pytest

from rebatch.data.catalog import CATALOG, File
from rebatch.data.folder import damage, data_dir, find_file, find_layout


def test_the_folder_named_explicitly_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REBATCH_DATA", str(tmp_path / "environment"))
    assert data_dir(tmp_path / "explicit") == tmp_path / "explicit"
    assert data_dir(None) == tmp_path / "environment"


def test_a_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REBATCH_DATA", "~/sets")
    assert data_dir(None) == tmp_path / "sets"
    assert data_dir(Path("~/other")) == tmp_path / "other"


def test_the_default_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REBATCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_dir(None).name == "rebatch"


def test_an_unpacked_file_is_read_before_a_packed_one(tmp_path: Path) -> None:
    file = File("values")
    assert find_file(tmp_path, file) is None
    (tmp_path / "values.gz").touch()
    assert find_file(tmp_path, file) == tmp_path / "values.gz"
    (tmp_path / "values").touch()
    assert find_file(tmp_path, file) == tmp_path / "values"


def test_a_complete_layout_is_read_before_one_that_was_begun(tmp_path: Path) -> None:
    published = CATALOG["cifar100"]
    binary, python = published.layouts
    assert find_layout(published, tmp_path) is binary
    for layout, name, expected in [
        (python, "train", python),
        (binary, "train.bin", binary),
        (python, "test", python),
        (binary, "test.bin", binary),
    ]:
        (tmp_path / layout.folder).mkdir(exist_ok=True)
        (tmp_path / layout.folder / name).touch()
        assert find_layout(published, tmp_path) is expected


def test_a_size_tells_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "values"
    path.write_bytes(b"12345")
    assert damage(path, File("values", 5)) == damage(path, File("values")) == ""
    assert damage(path, File("values", 7)) == "expected size 7 bytes, found 5"


def test_a_file_packed_again_is_whole_if_it_unpacks_to_the_right_size(tmp_path: Path) -> None:
    path = tmp_path / "values.gz"
    path.write_bytes(gzip.compress(b"12345"))
    size = path.stat().st_size
    assert damage(path, File("values", 5, size)) == damage(path, File("values", 5, 99)) == ""
    assert damage(path, File("values", 7, 99)) == f"expected size 99 bytes, found {size}"
    path.write_bytes(b"1")
    assert damage(path, File("values", 5, 99)) == "expected size 99 bytes, found 1"
