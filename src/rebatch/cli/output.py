"""Two channels: results on standard output, all else on standard error."""

import sys

from rich.console import Console, RenderableType


def say(renderable: RenderableType) -> None:
    """A result, on standard output; piped output is not squeezed into 80 columns."""
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, soft_wrap=not sys.stdout.isatty()).print(renderable)


def note(text: str) -> None:
    """Something on the way, on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def write_json(document: bytes) -> None:
    """The one JSON document of `--json`."""
    sys.stdout.write(document.decode() + "\n")
