"""Two channels: results on standard output, all else on standard error."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.text import Text

from rebatch.errors import RunError


def say(result: RenderableType) -> None:
    """A result, on standard output, text as it is written; piped output is not squeezed into 80 columns."""
    width = None if sys.stdout.isatty() else 200
    with _standard_output():
        console = Console(width=width, highlight=False, soft_wrap=not sys.stdout.isatty())
        console.print(_plain(result), crop=False)  # a table too wide for the terminal loses nothing


def note(text: str) -> None:
    """Something on the way, on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(_plain(text))


def write_json(document: bytes) -> None:
    """The one JSON document of `--json`."""
    with _standard_output():
        sys.stdout.write(document.decode() + "\n")


def write_text(text: str) -> None:
    """Lines for a file, as they are: not one is wrapped."""
    with _standard_output():
        sys.stdout.write(text)


def drop_output() -> None:
    """Send standard output nowhere, so that Python does not fail once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _standard_output() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise RunError(f"cannot write the result to standard output: {error.strerror}") from None


def _plain(content: RenderableType) -> RenderableType:
    """Text of a user or a path may hold `[red]` or `:smile:`; it is shown, not obeyed."""
    return Text(content) if isinstance(content, str) else content
