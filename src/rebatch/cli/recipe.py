"""`rebatch recipe`: the recipe that a task comes with, as a file for `transfer` and `train`. Imports no torch."""

from pathlib import Path
from typing import Annotated

import typer

from rebatch.cli.options import Json, TaskName
from rebatch.errors import RequestError, RunError
from rebatch.recipe import Recipe
from rebatch.recipe_file import dumps_recipe, to_table, write_recipe


def recipe(
    task: TaskName,
    regime: Annotated[
        str | None, typer.Option("--regime", help="One of the task's other recipes (code, planned), by name.")
    ] = None,
    json: Json = False,
    output: Annotated[Path | None, typer.Option("--output", help="Write the recipe to this file.")] = None,
) -> None:
    """Write the recipe of a task, tuned at a small batch, as the file that transfer and train read."""
    from rebatch.cli.output import note, write_json, write_text
    from rebatch.tasks import find_task

    found = find_task(task)
    chosen = found.recipe if regime is None else found.regime(regime)
    if output is not None:
        write_to(chosen, output)
    if json:
        import msgspec

        document = {"task": found.name, "regime": regime, "regimes": list(found.regimes), "recipe": to_table(chosen)}
        write_json(msgspec.json.format(msgspec.json.encode(document), indent=2))
    elif output is None:
        write_text(dumps_recipe(chosen))
    else:
        note(f"written to {output}")


def refuse_folder(output: Path | None) -> None:
    """Say now that `--output` cannot be written, before anything is computed."""
    if output is not None and output.is_dir():
        raise RequestError(f"--output must name a file, got the directory {output}; try {output / 'recipe.toml'}")


def write_to(recipe: Recipe, output: Path) -> None:
    """Write a recipe file where `--output` says."""
    refuse_folder(output)
    try:
        write_recipe(recipe, output)
    except OSError as error:  # it names the temporary file beside the target
        raise RunError(f"cannot write {output}: {error.strerror}") from None
