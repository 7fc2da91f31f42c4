"""`rebatch transfer`: a tuned recipe to another batch size. Imports no torch."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from rebatch.batch_growth import grow_batch
from rebatch.cli.options import DataDir, Json
from rebatch.cli.recipe import refuse_folder, write_to
from rebatch.cli.transfer_facts import fitted, known_course, known_examples, known_knee, reduced, tokens_in_example
from rebatch.interval import Interval
from rebatch.price import expected_along, price, sizes
from rebatch.recipe import Recipe, Sgd
from rebatch.recipe_file import dumps_recipe, read_recipe, to_table
from rebatch.rules.doubts import run_doubts
from rebatch.rules.move import Facts, Move
from rebatch.rules.table import DEFAULT_RULES, PRESETS
from rebatch.tasks import find_task
from rebatch.transfer import Transfer, differences
from rebatch.transfer import transfer as move

if TYPE_CHECKING:
    from rebatch.knee_fit import KneeFit

# A batch of fewer tokens is likely one of sequences.
FEWEST_TOKENS = 4096
# A carried rate and the sweep's best that differ by more are told.
FAR = 1.25


def transfer(
    recipe: Annotated[Path, typer.Argument(help="The tuned recipe, a TOML file.", metavar="RECIPE.toml")],
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples of one optimizer step, over all ranks.")],
    rules: Annotated[
        list[str] | None,
        typer.Option("--rules", help=f"Rules or presets ({', '.join(PRESETS)}); repeat or separate by commas."),
    ] = None,
    loss_reduction: Annotated[
        str | None,
        typer.Option("--loss-reduction", help="Rewrite the recipe for losses summed (sum) or averaged (mean)."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Take the number of examples from this task.")] = None,
    examples: Annotated[int | None, typer.Option("--examples", help="Number of training examples.", min=1)] = None,
    noise_scale: Annotated[
        float | None, typer.Option("--noise-scale", help="tr(Sigma)/|G|^2 in examples; rebatch measure noise-scale.")
    ] = None,
    noise_scale_from: Annotated[
        Path | None,
        typer.Option(
            "--noise-scale-from",
            help="Its course along this recipe's run: the file that rebatch measure noise-scale --json wrote.",
        ),
    ] = None,
    critical_batch_size: Annotated[
        float | None,
        typer.Option("--critical-batch-size", help="In examples; rebatch measure critical-batch-size."),
    ] = None,
    knee: Annotated[
        float | None, typer.Option("--knee", help="Where the best rate of an Adam-like optimizer bends, in examples.")
    ] = None,
    from_sweep: Annotated[
        Path | None,
        typer.Option(
            "--from-sweep",
            help="Find the knee in runs of yours: a CSV table (lr, batch_size, loss), or the store of a study.",
        ),
    ] = None,
    tokens: Annotated[
        float | None,
        typer.Option("--tokens", help="Training tokens of a language model; gives its knee."),
    ] = None,
    tokens_per_example: Annotated[
        int | None,
        typer.Option(
            "--tokens-per-example",
            help="Where batch sizes count sequences: tokens of one. The task's; else 1, batch sizes in tokens.",
            min=1,
        ),
    ] = None,
    parameters: Annotated[
        float | None, typer.Option("--parameters", help="With --tokens: parameters, embeddings left out.")
    ] = None,
    top_eigenvalue: Annotated[
        float | None, typer.Option("--top-eigenvalue", help="Of the mean loss; rebatch measure limits.")
    ] = None,
    contrastive: Annotated[
        bool, typer.Option("--contrastive", help="The loss is one over pairs of a batch's examples.")
    ] = False,
    grow_to: Annotated[
        int | None,
        typer.Option("--grow-to", help="Let the batch grow, up to this, in place of the learning rate's decay."),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
    output: Annotated[Path | None, typer.Option("--output", help="Write the new recipe to this file.")] = None,
) -> None:
    """Move a recipe to another batch size: what changes, by which rule and why, and what it costs."""
    chosen = [name.strip() for item in rules or [] for name in item.split(",")] or list(DEFAULT_RULES)
    refuse_folder(output)
    given = read_recipe(recipe)
    tuned = reduced(given, loss_reduction)
    fit = None if from_sweep is None else fitted(from_sweep, tuned)
    found = None if task is None else find_task(task)
    length = tokens_in_example(found, tokens_per_example)
    curve, known = known_knee(tuned, knee, fit, tokens, parameters, length)
    facts = Facts(
        noise_scale=noise_scale,
        noise_course=known_course(noise_scale_from, noise_scale, given, found),
        critical_batch_size=critical_batch_size,
        knee=curve,
        knee_from=known,
        top_eigenvalue=top_eigenvalue,
        contrastive=contrastive,
    )
    size = known_examples(found, examples, data_dir)
    result = move(tuned, batch_size=batch_size, rules=chosen, examples=size, facts=facts)
    result = _with_rewriting(result, given, tuned)
    if tokens is not None and length == 1 and tuned.batch_size < FEWEST_TOKENS:
        doubt = (
            f"batch sizes are read as tokens, and {tuned.batch_size} is few: where they count sequences give "
            "--tokens-per-example"
        )
        result = msgspec.structs.replace(result, warnings=(*result.warnings, doubt))
    rates = {} if fit is None else _swept_rates(result, fit)
    if fit is not None:
        result = _with_sweep(result, fit, rates)
    if grow_to is not None:
        result = _grown(result, grow_to, size, facts)
    if output is not None:
        write_to(result.recipe, output)
    if json:
        _print_json(result, length, fit)
    else:
        _print(result, output, length, in_tokens=tokens is not None)
        if fit is not None:
            _print_sweep(fit, rates)


def _with_rewriting(result: Transfer, given: Recipe, tuned: Recipe) -> Transfer:
    """With what `--loss-reduction` changed, which comes before the move."""
    why = f"the loss of a batch is now its {tuned.loss_reduction}: the same steps"
    rewritten = differences(given, tuned, "loss_reduction", why)
    return msgspec.structs.replace(result, changes=(*rewritten, *result.changes))


def _swept_rates(result: Transfer, fit: "KneeFit") -> dict[int, Interval]:
    """The best rate that the sweep finds where the transfer starts, and where it goes."""
    from rebatch.knee_fit import predict

    start = result.recipe.tuned or result.recipe
    return {size: predict(fit, size) for size in (start.batch_size, result.recipe.batch_size)}


def _with_sweep(result: Transfer, fit: "KneeFit", rates: dict[int, Interval]) -> Transfer:
    """The sweep's own bounds of the best rate, and where it is asked for more than it knows."""
    start = result.recipe.tuned or result.recipe
    own, best = rates[start.batch_size], rates[result.recipe.batch_size]
    doubts = list(result.warnings)
    if not own.low <= start.optimizer.lr <= own.high:
        doubts.append(
            f"the recipe's learning rate {start.optimizer.lr:.4g} is not what the sweep finds best at its batch size, "
            f"{own.estimate:.4g} ({own.low:.4g} to {own.high:.4g}): the rate that is carried is off by as much"
        )
    elif not 1 / FAR < best.estimate / (carried := result.recipe.optimizer.lr) < FAR:
        times = start.optimizer.lr / own.estimate
        doubts.append(
            f"the sweep's best rate there is {best.estimate:.4g}, the one that is carried {carried:.4g}: at batch size "
            f"{start.batch_size} the recipe's own is {times:.3g} times the sweep's"
        )
    if fit.batch_size.low == 0.0 and math.isinf(fit.batch_size.high):
        doubts.append(f"the sweep resolves no knee: {fit.knee.batch_size:.4g} is where its curve came to lie, no more")
    tried = [rate.batch_size for rate in fit.rates]
    beyond = max(result.recipe.batch_size / max(tried), min(tried) / result.recipe.batch_size)
    if beyond > 1.0:
        doubts.append(f"batch size {result.recipe.batch_size} is {beyond:.3g} times beyond those of the sweep")
    if math.isinf(fit.batch_size.high) and result.recipe.batch_size > max(tried):
        doubts.append(f"the sweep shows no knee (at least {fit.batch_size.low:.3g}): the rate may bend before")
    return msgspec.structs.replace(result, lr=best, warnings=tuple(doubts))


def _grown(result: Transfer, most: int, examples: int | None, facts: Facts) -> Transfer:
    """The transferred recipe with a growing batch: a recipe of its own, which remembers nothing."""
    grown = grow_batch(result.recipe, most=most)
    note = (
        f"the batch grows from {grown.batch_size} to {max(grown.batch_sizes)} where the learning rate fell: fewer steps"
    )
    tuned = result.recipe.tuned or result.recipe
    cost = price(tuned, grown, examples)
    why = "a batch that grows by 1/a keeps the noise as a rate that falls by a does, in fewer steps"
    changes = (*result.changes, *differences(result.recipe, grown, "grow_batch", why))
    moved = Move(tuned, grown.batch_size, examples, facts)
    stages = moved.stages(sizes(grown))
    doubts = [*result.warnings, *run_doubts(grown, moved)]
    if not isinstance(grown.optimizer, Sgd):
        doubts.append(
            "weight decay and the moments' decay stay per step while the batch grows: per example they are ever less"
        )
    return msgspec.structs.replace(
        result,
        recipe=grown,
        changes=changes,
        notes=(*result.notes, note),
        warnings=tuple(dict.fromkeys(doubts)),
        price=cost,
        expected=expected_along(stages) if stages else None,
    )


def _print_sweep(fit: "KneeFit", rates: dict[int, Interval]) -> None:
    from rebatch.cli.output import note

    note(f"knee of the sweep: {fit}; left out, with their best rate at an end of those tried: {len(fit.left_out)}")
    for size, rate in rates.items():
        bounds = f"90 %: {rate.low:.4g} to {rate.high:.4g}"
        note(f"best rate by the sweep at batch size {size}: {rate.estimate:.4g} ({bounds})")


def _print(result: Transfer, output: Path | None, length: int, *, in_tokens: bool) -> None:
    from rebatch.cli.output import note, say
    from rebatch.report.transfer_table import transfer_tables

    say(transfer_tables(result))
    if length > 1 or in_tokens:
        sizes = [recipe.batch_size * length for recipe in (result.recipe.tuned or result.recipe, result.recipe)]
        each = f", {length} an example" if length > 1 else ""
        say(f"batches in tokens{each}: {sizes[0]:,} -> {sizes[1]:,}")
    if output is None:
        say(f"\n{dumps_recipe(result.recipe)}")
    else:
        note(f"written to {output}")


def _print_json(result: Transfer, length: int, fit: "KneeFit | None") -> None:
    from rebatch.cli.output import write_json

    document = {**msgspec.to_builtins(result), "recipe": to_table(result.recipe), "tokens_per_example": length}
    if fit is not None:
        document["sweep"] = msgspec.to_builtins(fit)
    write_json(msgspec.json.format(msgspec.json.encode(document), indent=2))
