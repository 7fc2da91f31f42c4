"""Options that several commands share, with one spelling and one help text each."""

import os
from pathlib import Path
from typing import Annotated

import typer

from rebatch.errors import RequestError

# More threads or processes than this only wait for each other; a hundred thousand end in a crash.
PER_CORE = 4


def _bearable(param: typer.CallbackParam, value: int | None) -> int | None:
    """A number of threads or processes, no more than this machine's cores can bear."""
    cores = os.cpu_count() or 1
    if value is not None and value > PER_CORE * cores:
        raise RequestError(
            f"--{param.name} must be at most {PER_CORE * cores}, {PER_CORE} for each of this machine's {cores} cores, "
            f"got {value}; leave it out for a good choice"
        )
    return value


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
Threads = Annotated[int | None, typer.Option(help="CPU threads; torch's choice by default.", min=1, callback=_bearable)]
WorkerThreads = Annotated[int, typer.Option("--threads", help="Threads of each worker.", min=1, callback=_bearable)]
Jobs = Annotated[int | None, typer.Option(help="Worker processes; one per core by default.", min=1, callback=_bearable)]
