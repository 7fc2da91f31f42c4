"""Files that are whole or absent: a temporary file beside the target, then one atomic rename."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that no reader ever sees half of it, even after `kill -9` or a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with naming(path), partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with naming(path):
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # a read-only disk refuses to remove even what is not there
            partial.unlink()
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system name `path`, the file that the user knows; a failed write by itself names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
