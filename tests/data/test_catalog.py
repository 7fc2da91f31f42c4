import subprocess
import sys
from pathlib import Path

import pytest

from rebatch.data.catalog import CATALOG, PublishedSet, fetch_command, published_set
from rebatch.data.loaders import READERS
from rebatch.errors import RequestError


@pytest.mark.parametrize("published", CATALOG.values(), ids=CATALOG)
def test_a_row_is_complete(published: PublishedSet) -> None:
    assert CATALOG[published.name] is published
    assert published.source
    assert published.license
    for layout in published.layouts:
        assert len(layout.train) % READERS[layout.format].files == 0
    for download in published.downloads:
        assert len(bytes.fromhex(download.sha256)) == 32
        assert download.size > 0


@pytest.mark.parametrize("published", CATALOG.values(), ids=CATALOG)
def test_what_is_fetched_has_known_sizes(published: PublishedSet) -> None:
    layout = published.layouts[0]
    assert all(file.size for file in layout.files)
    by_name = {download.name: download.size for download in published.downloads}
    packed = {f"{file.name}.gz": file.packed_size for file in layout.files if file.packed_size}
    assert packed == {name: size for name, size in by_name.items() if not name.endswith(".tar.gz")}


def test_sizes_follow_from_the_examples() -> None:
    def total(name: str) -> int:
        return sum(file.size or 0 for file in CATALOG[name].layouts[0].files)

    assert total("mnist") == total("fashion-mnist") == 70_000 * (784 + 1) + 2 * (16 + 8)
    assert total("cifar10") == 60_000 * (3_072 + 1)
    assert total("cifar100") == 60_000 * (3_072 + 2)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"no published set named 'cifar-10'; did you mean 'cifar10'\?"):
        published_set("cifar-10")


def test_the_command_survives_a_folder_with_a_space() -> None:
    assert fetch_command("mnist", Path("/my data")) == "rebatch data fetch mnist --data-dir '/my data'"


def test_the_catalog_and_fetching_work_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None;"  # an import of torch would raise
        "import rebatch.data.catalog, rebatch.data.folder, rebatch.data.fetch;"
        "print([name for name in ('numpy', 'pooch', 'requests', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
