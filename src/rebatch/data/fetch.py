"""Download published sets with pinned checksums; a file has its final name only when it is whole."""

import contextlib
import logging
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rebatch.data.catalog import Download, Layout, PublishedSet, published_set
from rebatch.data.folder import damage, find_file, find_layout
from rebatch.data.progress import PoochBar, Progress, shown
from rebatch.errors import RunError

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 16


def status(name: str, data_dir: Path) -> str:
    """`"present"`, `"missing"` or `"damaged (file, what is wrong)"`; only names and sizes are looked at.

    Raises:
        RequestError: no published set has that name.
    """
    published = published_set(name)
    layout = find_layout(published, data_dir)
    faults = _faults(data_dir / layout.folder, layout)
    if not faults:
        return "present"
    if all(fault == "missing" for fault in faults.values()) and len(faults) == len(layout.files):
        return "missing"
    file, fault = next(iter(faults.items()))
    return f"damaged ({file}, {fault})"


def fetch(name: str, data_dir: Path, *, progress: bool | Progress = True, retries: int = 3) -> None:
    """Download what is missing or damaged of `name` into `data_dir`; nothing happens if all of it is there.

    Several processes may fetch into one folder: they wait for each other.

    Args:
        progress: whether to show progress on standard error, or a function to tell of it.
        retries: how often a download that failed is tried again.

    Raises:
        RequestError: no published set has that name.
        RunError: no network, a damaged download, no space: which URL, what was expected, what to do by hand.
    """
    published = published_set(name)
    if status(name, data_dir) == "present":
        return
    with _writing(published, data_dir), shown(progress) as tell, _workplace(data_dir) as workplace:
        for download in _wanted(published, data_dir):
            archive = _downloaded(published, download, workplace, data_dir, tell, retries)
            _install(published, archive, workplace, data_dir)


def _faults(folder: Path, layout: Layout) -> dict[str, str]:
    """By file name, what is wrong with the files that are not as published."""
    faults = {}
    for file in layout.files:
        path = find_file(folder, file)
        if fault := "missing" if path is None else damage(path, file):
            faults[path.name if path else file.name] = fault
    return faults


def _wanted(published: PublishedSet, data_dir: Path) -> list[Download]:
    """The downloads that mend what is at fault; an archive holds all files."""
    if find_layout(published, data_dir) is not published.layouts[0]:
        return list(published.downloads)
    layout = published.layouts[0]
    stems = {name.removesuffix(".gz") for name in _faults(data_dir / layout.folder, layout)}
    return [
        download
        for download in published.downloads
        if stems and (_is_archive(download) or download.name.removesuffix(".gz") in stems)
    ]


def _is_archive(download: Download) -> bool:
    return download.name.endswith(".tar.gz")


@contextlib.contextmanager
def _workplace(data_dir: Path) -> Iterator[Path]:
    """A folder of our own below the data folder, so that a finished file moves by a rename; gone afterwards."""
    import filelock

    data_dir.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(data_dir / ".fetch.lock"):
        for left_behind in data_dir.glob(".fetch-*"):  # by a fetch that was killed: we hold the lock
            shutil.rmtree(left_behind, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".fetch-", ignore_cleanup_errors=True) as workplace:
            yield Path(workplace)


def _downloaded(
    published: PublishedSet, download: Download, workplace: Path, data_dir: Path, tell: Progress, retries: int
) -> Path:
    """The published file in the workplace, its checksum compared."""
    import requests

    try:
        return _retrieved(download, workplace, tell, retries)
    except requests.RequestException as error:
        reason = f"{download.url} could not be downloaded: {_reason(error)}"
    except ValueError:
        expected = f"expected {download.size} bytes with SHA-256 {download.sha256}, got something else"
        reason = f"{download.url} came damaged: {expected}"
    attempts = "1 attempt" if retries == 0 else f"{retries + 1} attempts"
    raise RunError(f"{reason}; {attempts}; {_by_hand(published, data_dir)}")


def _retrieved(download: Download, workplace: Path, tell: Progress, retries: int) -> Path:
    import pooch

    # Compressed on the way, a server or proxy could hand over something else than the bytes that were published.
    downloader = pooch.HTTPDownloader(
        progressbar=PoochBar(download.name, download.size, tell),
        chunk_size=CHUNK_BYTES,
        timeout=TIMEOUT_SECONDS,
        headers={"Accept-Encoding": "identity"},
    )
    place = pooch.create(
        path=workplace,
        base_url="",
        registry={download.name: f"sha256:{download.sha256}"},
        urls={download.name: download.url},
        retry_if_failed=retries,
    )
    with _quiet(pooch.get_logger()):
        return Path(place.fetch(download.name, downloader=downloader))


def _reason(error: Exception) -> str:
    """In a few words, without the URL and the objects' addresses that the library prints."""
    import requests

    match error:
        case requests.HTTPError(response=response) if response is not None:
            return f"HTTP status {response.status_code} {response.reason}"
        case requests.Timeout():
            return f"no answer within {TIMEOUT_SECONDS} s"
        case requests.exceptions.ChunkedEncodingError():
            return "the connection broke off"
        case requests.ConnectionError():
            return "no connection to the server"
    return type(error).__name__


def _by_hand(published: PublishedSet, data_dir: Path) -> str:
    """What to do without a network, or with another one."""
    layout = published.layouts[0]
    folder = data_dir / layout.folder
    packed = not any(_is_archive(download) for download in published.downloads)
    names = " ".join(f"{file.name}.gz" if packed else file.name for file in layout.files)
    return f"try again later, or put these files into {folder} by hand: {names}"


def _install(published: PublishedSet, fetched: Path, workplace: Path, data_dir: Path) -> None:
    """Give the fetched files their final names, one rename each."""
    layout = published.layouts[0]
    folder = data_dir / layout.folder
    folder.mkdir(parents=True, exist_ok=True)
    if fetched.name.endswith(".tar.gz"):
        for file in sorted(_unpacked(published, layout, fetched, workplace).iterdir()):
            os.replace(file, folder / file.name)
        return
    os.replace(fetched, folder / fetched.name)
    # A fetch happens because nothing was there, or something damaged: that must not be read before the good file.
    (folder / fetched.name.removesuffix(".gz")).unlink(missing_ok=True)


def _unpacked(published: PublishedSet, layout: Layout, archive: Path, workplace: Path) -> Path:
    """The layout's folder, unpacked in the workplace."""
    try:
        with tarfile.open(archive) as tar:
            # Python before 3.11.4 has no filters; the checksum has already said that this is the published archive.
            safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(workplace / "unpacked", **safely)
    except (tarfile.TarError, EOFError) as error:
        raise RunError(f"{archive.name} of {published.name} cannot be unpacked: {error}") from error
    archive.unlink()
    unpacked = workplace / "unpacked" / layout.folder
    if faults := _faults(unpacked, layout):
        file, fault = next(iter(faults.items()))
        raise RunError(f"{archive.name} of {published.name} does not hold what was published: {file}, {fault}")
    return unpacked


@contextlib.contextmanager
def _writing(published: PublishedSet, data_dir: Path) -> Iterator[None]:
    """A full disk or a folder that cannot be written, in one line."""
    try:
        yield
    except OSError as error:
        size = sum(file.size or 0 for file in published.layouts[0].files)
        need = (size + sum(download.size for download in published.downloads)) // 10**6 + 1
        raise RunError(
            f"{published.name} cannot be written to {data_dir}: {error.strerror or error}; "
            f"it needs {need} MB there; free some, or choose another --data-dir"
        ) from error


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """The library's own lines left out: progress and errors are told here."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
