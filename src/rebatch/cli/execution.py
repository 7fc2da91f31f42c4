"""From `--precision`, `--channels-last`, `--compile` and the task to an `Execution`; only "auto" imports torch."""

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import typer

from rebatch.errors import RequestError, did_you_mean
from rebatch.execution import Execution, Precision
from rebatch.tasks import Task

PrecisionName = Annotated[
    str | None, typer.Option("--precision", help="float32, bfloat16, float64, or auto: measured here.")
]
ChannelsLast = Annotated[bool, typer.Option("--channels-last", help="Images and weights in channels-last layout.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the model; worth its minutes on long runs only.")]


def choose_execution(
    task: Task, precision: str | None, threads: int, data_dir: Path | None, *, channels_last: bool, compiled: bool
) -> Execution:
    """As the user says, else as the task says; "auto" measures precision and memory format on this machine."""
    asked = precision or ("auto" if task.execution == "auto" else None)
    chosen = _measured(task, threads, data_dir) if asked == "auto" else _named(task, asked)
    if channels_last:
        chosen = msgspec.structs.replace(chosen, memory_format="channels_last")
    return msgspec.structs.replace(chosen, compile=compiled)


def not_measured(task: Task, precision: str | None) -> str | None:
    """The precision asked for, float32 where the task would have it measured.

    What a command computes, or measures, should not depend on another measurement that nobody asked for.
    """
    return precision or ("float32" if task.execution == "auto" else None)


def _measured(task: Task, threads: int, data_dir: Path | None) -> Execution:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError("auto measures one process and ranks could choose differently; name a --precision here")
    from rebatch.cli.output import note
    from rebatch.study.choose import fastest

    with redirect_stdout(sys.stderr):  # what a user's model prints is no result
        choice, rates = fastest(task, data_dir, threads=threads)
    measured = "; ".join(f"{each.describe()}: {rate:,.0f}" for each, rate in rates.items())
    note(f"measured examples per second: {measured}; chosen: {choice.describe()}")
    return choice


def _named(task: Task, precision: str | None) -> Execution:
    if precision is None:
        assert isinstance(task.execution, Execution)
        return task.execution
    known = get_args(Precision)
    if precision not in known:
        raise RequestError(f"--precision {precision!r} is unknown{did_you_mean(precision, [*known, 'auto'])}")
    return Execution(precision=precision)  # type: ignore[arg-type]
