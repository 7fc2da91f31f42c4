"""`rebatch measure critical-batch-size`: from which batch size on more examples stop buying fewer steps."""

from typing import TYPE_CHECKING, Annotated

import typer

from rebatch.cli.options import DataDir, Json, RecipeOption, Seed, TaskName, Threads

if TYPE_CHECKING:
    from rebatch.study.critical_batch import MeasuredCriticalBatch


def critical_batch_size(
    task: TaskName,
    recipe: RecipeOption = None,
    at: Annotated[float, typer.Option(help="Share of the run's steps after which it branches.")] = 0.2,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Batch sizes to branch at; a quarter to 16 times the recipe's by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Branches per batch size and rate.", min=1)] = 3,
    branch_steps: Annotated[int | None, typer.Option(help="Steps of the reference branch.", min=2)] = None,
    micro_batch_size: Annotated[int | None, typer.Option(help="Most examples of one forward pass.", min=1)] = None,
    seed: Seed = 0,
    threads: Threads = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Branch a run at several batch sizes, each at its best rate, and count steps and examples to one loss."""
    import msgspec

    from rebatch.cli.measuring import chosen_run
    from rebatch.cli.output import say, write_json
    from rebatch.study.critical_batch import KAPPAS, measure_critical_batch_size

    run = chosen_run(task, recipe, seed, threads, data_dir)
    sizes = batch_size or [max(1, round(kappa * run.recipe.batch_size)) for kappa in KAPPAS]
    options = {"seeds": seeds, "branch_steps": branch_steps, "micro_batch_size": micro_batch_size, "seed": seed}
    found = measure_critical_batch_size(
        run.model,
        run.data,
        run.recipe,
        at=at,
        batch_sizes=sizes,
        **options,  # type: ignore[arg-type]
    )
    if json:
        write_json(msgspec.json.encode({"task": run.name, **msgspec.to_builtins(found)}))
        return
    for line in _lines(found):
        say(line)


def _lines(found: "MeasuredCriticalBatch") -> list[str]:
    lines = [
        f"branches start at step {found.step:,}, validation loss {found.loss:.4g}, and go to {found.target:.4g}",
        f"{'batch size':>10} {'rate':>9} {'steps':>9} {'examples':>11}   mean of the seeds",
    ]
    for size in sorted({branch.batch_size for branch in found.branches}):
        same = [branch for branch in found.branches if branch.batch_size == size]
        steps = sum(branch.steps for branch in same) / len(same)
        shown = f"{'not reached':>21}" if steps == float("inf") else f"{steps:>9.4g} {size * steps:>11,.0f}"
        lines.append(f"{size:>10,} {same[0].lr:>9.3g} {shown}")
    fit = found.fit
    lines.append(f"critical batch size  {fit if fit is not None else 'no fit: too few branches reached the loss'}")
    if fit is not None:
        lines.append(f"  fitted: steps = {fit.curve}, runs scatter by {100 * fit.scatter:.0f} %")
    lines.append(f"noise scale          {found.noise_scale_in_words}")
    return lines
