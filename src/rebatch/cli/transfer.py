"""`rebatch transfer`: a tuned recipe to another batch size. Imports no torch."""

from pathlib import Path
from typing import Annotated

import typer

from rebatch.cli.options import Json
from rebatch.cli.recipe import refuse_folder, write_to
from rebatch.errors import RequestError
from rebatch.recipe import Recipe
from rebatch.recipe_file import dumps_recipe, read_recipe, to_table
from rebatch.reduction import with_loss_reduction
from rebatch.rules import DEFAULT_RULES
from rebatch.transfer import Transfer
from rebatch.transfer import transfer as move


def transfer(
    recipe: Annotated[Path, typer.Argument(help="The tuned recipe, a TOML file.", metavar="RECIPE.toml")],
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples of one optimizer step, over all ranks.")],
    rules: Annotated[
        list[str] | None,
        typer.Option("--rules", help="Rules or presets (hoffer, linear, bigbatch); repeat or separate by commas."),
    ] = None,
    loss_reduction: Annotated[
        str | None,
        typer.Option("--loss-reduction", help="Rewrite the recipe for losses summed (sum) or averaged (mean)."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Take the number of examples from this task.")] = None,
    examples: Annotated[int | None, typer.Option("--examples", help="Number of training examples.", min=1)] = None,
    json: Json = False,
    output: Annotated[Path | None, typer.Option("--output", help="Write the new recipe to this file.")] = None,
) -> None:
    """Move a recipe to another batch size: what changes, by which rule and why, and what it costs."""
    chosen = [name for item in rules or [] for name in item.split(",")] or list(DEFAULT_RULES)
    refuse_folder(output)
    tuned = _reduced(read_recipe(recipe), loss_reduction)
    result = move(tuned, batch_size=batch_size, rules=chosen, examples=_examples(task, examples))
    if output is not None:
        write_to(result.recipe, output)
    if json:
        _print_json(result)
    else:
        _print(result, output)


def _reduced(recipe: Recipe, reduction: str | None) -> Recipe:
    match reduction:
        case None:
            return recipe
        case "sum" | "mean":
            return with_loss_reduction(recipe, reduction)
        case _:
            raise RequestError(f"--loss-reduction must be sum or mean, got {reduction!r}")


def _examples(task: str | None, examples: int | None) -> int | None:
    from rebatch.tasks import find_task

    if task is None:
        return examples
    if examples is not None:
        raise RequestError("--task and --examples both give the number of examples; use one of them")
    return find_task(task).train


def _print(result: Transfer, output: Path | None) -> None:
    from rebatch.cli.output import note, say
    from rebatch.report.transfer_table import transfer_tables

    say(transfer_tables(result))
    if output is None:
        say(f"\n{dumps_recipe(result.recipe)}")
    else:
        note(f"written to {output}")


def _print_json(result: Transfer) -> None:
    import msgspec

    from rebatch.cli.output import write_json

    document = {**msgspec.to_builtins(result), "recipe": to_table(result.recipe)}
    write_json(msgspec.json.format(msgspec.json.encode(document), indent=2))
