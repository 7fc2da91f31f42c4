"""`rebatch train`: one run of a recipe, alone or under `torchrun -m rebatch`."""

from pathlib import Path
from typing import Annotated

import typer

from rebatch.cli.execution import ChannelsLast, Compile, PrecisionName, choose_execution, not_measured
from rebatch.cli.options import DataDir, Json, TaskName, Threads


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.", metavar="RECIPE.toml")],
    task: TaskName,
    seed: Annotated[int, typer.Option(help="Initial weights, order and augmentation.", min=0)] = 0,
    micro_batch_size: Annotated[int | None, typer.Option(help="Most examples of one forward pass.", min=1)] = None,
    allow_batch_norm: Annotated[
        bool, typer.Option("--allow-batch-norm", help="Accept plain batch norm over micro-batches or ranks.")
    ] = False,
    precision: PrecisionName = None,
    channels_last: ChannelsLast = False,
    compiled: Compile = False,
    threads: Threads = None,
    store: Annotated[Path | None, typer.Option(help="Keep rows, checkpoint and result here, and resume.")] = None,
    continue_: Annotated[
        Path | None,
        typer.Option(
            "--continue",
            help="Go on by this recipe from another run's checkpoint: its store or folder.",
            metavar="STORE",
        ),
    ] = None,
    noise_scale: Annotated[
        float | None,
        typer.Option("--noise-scale", help="With --continue: that of the moment, to carry squares of the gradient by."),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Train a task with a recipe: progress, loss, accuracy, examples per second."""
    import msgspec
    import torch

    from rebatch.cli.train_run import run
    from rebatch.cutting import is_cut
    from rebatch.distributed import World
    from rebatch.errors import RequestError
    from rebatch.recipe_file import read_recipe
    from rebatch.study.continuing import continued
    from rebatch.study.plan import RunSpec
    from rebatch.tasks import find_task
    from rebatch.tasks.find import run_digest

    if noise_scale is not None and continue_ is None:
        raise RequestError("--noise-scale says how a state is carried over, and goes with --continue; leave it out")
    if threads is not None:
        torch.set_num_threads(threads)
    found = find_task(task).sized(data_dir)
    named = not_measured(found, precision)
    execution = choose_execution(
        found, named, torch.get_num_threads(), data_dir, channels_last=channels_last, compiled=compiled
    )
    spec = RunSpec(
        task=found.name,
        recipe=read_recipe(recipe).as_tuned(),
        seed=seed,
        execution=execution,
        task_digest=run_digest(task, found),
    )
    world = World.from_environment()
    cut = is_cut(spec.recipe, micro_batch_size, world.size)
    if allow_batch_norm and cut and spec.recipe.ghost_batch_size is None:
        spec = msgspec.structs.replace(spec, batch_norm_cut=(micro_batch_size or 0, world.size))
    try:
        earlier = None
        if continue_ is not None:
            spec, earlier = continued(spec, continue_, found.train, world, noise_scale=noise_scale)
        run(
            spec,
            found,
            world,
            store=store,
            data_dir=data_dir,
            micro_batch_size=micro_batch_size,
            allow_batch_norm=allow_batch_norm,
            json=json,
            earlier=earlier,
        )
    finally:
        world.close()
