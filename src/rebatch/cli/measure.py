"""`rebatch measure`: what batch size and learning rate do to a run, on a task of ours or of the user."""

import math
from typing import TYPE_CHECKING

import typer

from rebatch.cli.measure_critical import critical_batch_size
from rebatch.cli.measure_noise import noise_scale
from rebatch.cli.measure_throughput import throughput
from rebatch.cli.options import DataDir, Json, RecipeOption, Seed, TaskName, Threads

if TYPE_CHECKING:
    from rebatch.interval import Interval
    from rebatch.study.limits import Limits

app = typer.Typer(help="Measure what batch size does to a run.", no_args_is_help=True, rich_markup_mode=None)
app.command("noise-scale")(noise_scale)
app.command("critical-batch-size")(critical_batch_size)
app.command("throughput")(throughput)

SENTENCES = {
    "curvature": "Curvature limits the rate: doubling it breaks training. A larger batch would not bear more.",
    "forgetting": "Forgetting limits the rate, not curvature: a larger batch can take a larger rate.",
    "both": "Both limit the rate: doubling it breaks training, and a batch is forgotten within half an epoch.",
    "neither": "Neither curvature nor forgetting limits the rate: it may be larger.",
}


@app.command("limits")
def limits(
    task: TaskName,
    recipe: RecipeOption = None,
    seed: Seed = 0,
    threads: Threads = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Say whether curvature or forgetting keeps the learning rate from being larger.

    Trains with the recipe until its high rate ends, which takes that part of a run and a little more.
    """
    from rebatch.cli.measuring import chosen_run
    from rebatch.cli.output import note, say, write_json
    from rebatch.study.limits import high_rate_ends, measure_limits

    run = chosen_run(task, recipe, seed, threads, data_dir)
    steps = high_rate_ends(run.recipe, len(run.data.train))
    if not json:
        note(f"{run.name}: training {steps:,} steps of {run.recipe.batch_size}, then measuring")
    measured = measure_limits(run.model, run.data, run.recipe, seed=seed)
    if json:
        write_json(_document(run.name, seed, measured))
        return
    for name, value in _lines(measured):
        say(f"{name:<34} {value}")
    say(SENTENCES[measured.verdict])


def _lines(found: "Limits") -> list[tuple[str, str]]:
    tau = found.decay.tau
    return [
        ("learning rate (of the mean loss)", f"{found.lr:g}, at batch size {found.batch_size}, step {found.step:,}"),
        ("branches break at", f"{_between(found.breaks)}; room: x {found.room:.3g} at least"),
        ("top eigenvalue", str(found.curvature)),
        (
            "a quadratic would break at",
            "unknown for this optimizer" if math.isnan(found.stable_lr) else f"{found.stable_lr:.3g}",
        ),
        ("loss of the newest batch", f"{found.decay.newest:.4g}"),
        ("loss of unseen examples", f"{found.unseen_loss:.4g}, augmented alike"),
        ("a batch is forgotten after", _epochs(found.forgotten)),
        ("decay of what was learned (tau)", f"{tau.estimate:.3g} epochs, {_between(tau)}"),
    ]


def _epochs(forgotten: float) -> str:
    return f"{forgotten:.2g} epochs" if forgotten <= 1.0 else "more than an epoch"


def _between(interval: "Interval") -> str:
    """`0.8 to 1.6`, or the side that is known.

    >>> from rebatch.statistics import Interval
    >>> _between(Interval(1.0, 0.8, 1.6)), _between(Interval(math.inf, 3.2, math.inf))
    ('0.8 to 1.6', 'more than 3.2')
    """
    if math.isinf(interval.high):
        return f"more than {interval.low:.3g}"
    return f"{interval.low:.3g} to {interval.high:.3g}"


def _document(task: str, seed: int, found: "Limits") -> bytes:
    import msgspec

    return msgspec.json.encode(
        {"task": task, "seed": seed, **msgspec.to_builtins(found), "room": found.room, "verdict": found.verdict}
    )
