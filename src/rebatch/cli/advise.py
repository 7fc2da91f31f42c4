"""`rebatch advise`: which batch size this recipe should have, on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebatch.cli.execution import ChannelsLast, Compile, PrecisionName, choose_execution, not_measured
from rebatch.cli.options import DataDir, Json, RecipeOption, Seed, TaskName, Threads

if TYPE_CHECKING:
    from rebatch.study.advising import Advised


def advise(
    task: TaskName,
    recipe: RecipeOption = None,
    seeds: Annotated[int, typer.Option(help="Branches per batch size and rate.", min=1)] = 3,
    precision: PrecisionName = None,
    channels_last: ChannelsLast = False,
    compiled: Compile = False,
    seed: Seed = 0,
    threads: Threads = None,
    data_dir: DataDir = None,
    json: Json = False,
    output: Annotated[Path | None, typer.Option("--output", help="Write the new recipe to this file.")] = None,
) -> None:
    """Say which batch size to use on this machine, with which recipe, and how sure that is.

    It measures speed and memory, and trains: branches of the run at several batch sizes and rates. What is compared is
    time to the same validation loss on this machine.
    """
    import torch

    from rebatch.cli.measuring import chosen_recipe
    from rebatch.cli.output import note, write_json
    from rebatch.cli.recipe import refuse_folder, write_to
    from rebatch.study.advising import measure_advice
    from rebatch.study.capacity_worker import Workload
    from rebatch.tasks import find_task

    refuse_folder(output)
    found = find_task(task).sized(data_dir)
    named = not_measured(found, precision)
    count = threads or torch.get_num_threads()
    torch.set_num_threads(count)
    execution = choose_execution(found, named, count, data_dir, channels_last=channels_last, compiled=compiled)
    workload = Workload(task, chosen_recipe(found, recipe), execution, seed, count, data_dir)
    advised = measure_advice(found, found.data(seed, data_dir), workload, seeds=seeds, tell=note)
    if output is not None and advised.advice is not None:
        write_to(workload.recipe if advised.transfer is None else advised.transfer.recipe, output)
        note(f"written to {output}{', as it is' if advised.transfer is None else ''}")
    elif output is not None:
        note(f"nothing is written to {output}")
    if json:
        write_json(_document(found.name, advised))
    else:
        _print(advised)


def _print(advised: "Advised") -> None:
    from rebatch.cli.output import say
    from rebatch.report.advice_table import answer, options_table
    from rebatch.report.transfer_table import transfer_tables

    if advised.advice is None:
        say(f"I don't know, because {advised.doubts[-1]}.")
    else:
        say(options_table(advised.advice))
        say(f"\n{answer(advised.advice)}")
        if advised.transfer is not None:
            say(transfer_tables(advised.transfer))
    for moment in advised.moments:
        fit, noise = moment.fit or "unknown", moment.noise_scale_in_words
        say(f"at step {moment.step:,}: critical batch size {fit}; noise scale {noise}")
    for doubt in advised.doubts if advised.advice is not None else advised.doubts[:-1]:
        say(f"leans on: {doubt}")
    fast = advised.capacity.full_speed
    say(
        "it would change with the device (on this one examples per second stop growing at a micro-batch of "
        f"{fast}), or if the critical batch size is not what the branches say"
    )


def _document(task: str, advised: "Advised") -> bytes:
    import msgspec

    from rebatch.recipe_file import to_table

    transfer = advised.transfer
    return msgspec.json.encode(
        {
            "task": task,
            "advice": advised.advice,
            "recipe": None if transfer is None else to_table(transfer.recipe),
            "changes": () if transfer is None else transfer.changes,
            "moments": msgspec.to_builtins(advised.moments),
            "capacity": advised.capacity,
            "doubts": advised.doubts,
        }
    )
