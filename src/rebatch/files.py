"""Files that are whole or absent, by a temporary file beside the target and one atomic rename; and JSON read back."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that no reader ever sees half of it, even after `kill -9` or a full disk.

    A link stays one, its target is written. What is no file (a pipe, /dev/stdout) is written into and not replaced.
    """
    if path.exists() and not path.is_file():
        with naming(path), path.open("wb") as file:
            file.write(data)
        return
    path = path.resolve() if path.is_symlink() else path
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


def decoded(data: bytes, kind: type[T]) -> T:
    """JSON as `kind`.

    Raises:
        msgspec.DecodeError: `data` is no JSON, or has another shape. Of bytes that are no UTF-8 msgspec itself raises
            UnicodeDecodeError, which is none of its own errors.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system name `path`, the file that the user knows; a failed write by itself names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
