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
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="A recipe file; the task's own if left out.", metavar="RECIPE.toml")
]
Seed = Annotated[int, typer.Option(help="Initial weights, order and augmentation.", min=0)]
Threads = Annotated[int | None, typer.Option(help="CPU threads; torch's choice by default.", min=1)]
