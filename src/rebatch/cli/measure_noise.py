"""`rebatch measure noise-scale`: how the gradient noise scale grows along a run."""

from typing import TYPE_CHECKING, Annotated

import typer

from rebatch.cli.options import DataDir, Json, RecipeOption, Seed, TaskName, Threads

if TYPE_CHECKING:
    from rebatch.study.noise_along import Look


def noise_scale(
    task: TaskName,
    recipe: RecipeOption = None,
    looks: Annotated[int, typer.Option(help="Estimates, each over the steps since the last.", min=1)] = 10,
    micro_batch_size: Annotated[
        int | None, typer.Option(help="Measure from micro-batches of so many examples, instead of parts.", min=1)
    ] = None,
    norm: Annotated[str, typer.Option(help="euclidean, or adam: divided by Adam's own denominators.")] = "euclidean",
    seed: Seed = 0,
    threads: Threads = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Train with the recipe and print tr(Sigma)/|G|^2 on the way, with 95 % intervals.

    What --json writes is what `rebatch transfer --noise-scale-from` reads.
    """
    import msgspec

    from rebatch.cli.measuring import chosen_run
    from rebatch.cli.output import note, say, write_json
    from rebatch.errors import RequestError
    from rebatch.noise_course import in_words, whole_run
    from rebatch.price import cost
    from rebatch.recipe_file import to_table
    from rebatch.study.noise_along import noise_scale_along

    if norm not in ("euclidean", "adam"):
        raise RequestError(f"--norm must be euclidean or adam, got {norm!r}")
    run = chosen_run(task, recipe, seed, threads, data_dir)
    options = {"seed": seed, "looks": looks, "micro_batch_size": micro_batch_size, "norm": norm}
    found: list[Look] = []
    unit = "" if run.tokens_per_example == 1 else f", in examples of {run.tokens_per_example} tokens"
    for look in noise_scale_along(run.model, run.data, run.recipe, **options):  # type: ignore[arg-type]
        if not found and not json:
            say(f"{'step':>8} {'examples':>10} {'train loss':>10}  noise scale, 95 % interval{unit}")
        found.append(look)
        if not json:
            say(f"{look.step:>8,} {look.examples:>10,} {look.train_loss:>10.4g}  {look.noise_scale or 'too few steps'}")
    looked = [msgspec.to_builtins(look) for look in found]
    planned = cost(run.recipe, len(run.data.train)).examples
    about = {"task": run.name, "seed": seed, "norm": norm, "recipe": to_table(run.recipe), "examples": planned}
    document = msgspec.json.encode({**about, "looks": looked})
    if json:
        write_json(document)
        return
    try:
        say(f"over the whole run {in_words(whole_run(document))}: what `rebatch transfer --noise-scale` takes")
    except RequestError as error:
        note(str(error))
