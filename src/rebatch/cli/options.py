"""Options that several commands share, with one spelling and one help text each."""

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", envvar="REBATCH_DATA", help="Folder of published data files; the user's cache folder by default."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else there.")]
TaskName = Annotated[str, typer.Option("--task", help="digits, mnist/f1, ..., or path/to/file.py:name.")]
