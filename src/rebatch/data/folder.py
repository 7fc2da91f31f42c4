"""Where published files lie: the data folder, and the files of a set below it."""

import os
from pathlib import Path

from rebatch.data.catalog import File, Layout, PublishedSet, fetch_command
from rebatch.errors import RequestError


def data_dir(explicit: Path | None) -> Path:
    """`explicit`, else the environment's REBATCH_DATA, else the user's cache folder (Linux: ~/.cache/rebatch).

    Raises:
        RequestError: it is a file.
    """
    folder = explicit or os.environ.get("REBATCH_DATA") or _cache()
    folder = Path(folder).expanduser()
    if folder.is_file():
        raise RequestError(f"the data folder {folder} is a file, not a folder; name the folder of the data files")
    return folder


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("rebatch"))


def find_file(folder: Path, file: File) -> Path | None:
    """`file` in `folder`: unpacked, else as the `.gz` that was published, else None."""
    candidates = (folder / file.name, folder / f"{file.name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def find_layout(published: PublishedSet, data_dir: Path) -> Layout:
    """The layout to read: the first that is complete, else the first that has any file, else the first."""

    def there(layout: Layout) -> list[bool]:
        return [find_file(data_dir / layout.folder, file) is not None for file in layout.files]

    complete = [layout for layout in published.layouts if all(there(layout))]
    begun = [layout for layout in published.layouts if any(there(layout))]
    return next(iter(complete + begun), published.layouts[0])


def locate(published: PublishedSet, data_dir: Path) -> list[Path]:
    """The files of the layout to read, those to train on first; only names and sizes are looked at.

    Raises:
        RequestError: one of them is missing or shows by its size that it is not the published one.
    """
    layout, mend = find_layout(published, data_dir), f"run `{fetch_command(published.name, data_dir)}`"
    paths = []
    for file in layout.files:
        if (path := find_file(data_dir / layout.folder, file)) is None:
            raise RequestError(f"{published.name} is not there: no file {data_dir / layout.folder / file.name}; {mend}")
        if found := damage(path, file):
            raise RequestError(f"{path} is damaged: {found}; delete it and {mend}")
        paths.append(path)
    return paths


def damage(path: Path, file: File) -> str:
    """`"expected size 60008 bytes, found 1000"` where the size of `path` shows that it is not `file`; else empty.

    A `.gz` that someone packed again has another size than the published one, and is fine if it says that it unpacks
    to the right one.
    """
    found = path.stat().st_size
    if path.suffix == ".gz":
        whole = found == file.packed_size or file.size in (None, _unpacked_size(path))
        return "" if whole else f"expected size {file.packed_size} bytes, found {found}"
    return "" if file.size in (None, found) else f"expected size {file.size} bytes, found {found}"


def _unpacked_size(path: Path) -> int:
    """What a gzip file's last four bytes, little end first, say of its content's size."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4))
        return int.from_bytes(file.read(), "little")
