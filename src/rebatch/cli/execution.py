"""From `--precision` and the task to an `Execution`; only "auto" imports torch, to measure."""

from pathlib import Path
from typing import get_args

from rebatch.errors import RequestError, did_you_mean
from rebatch.execution import Execution, Precision
from rebatch.tasks import Task


def choose_execution(
    task: Task, precision: str | None, threads: int, data_dir: Path | None, *, compile_model: bool = False
) -> Execution:
    """As the user says, else as the task says; "auto" measures on this machine."""
    asked = precision or ("auto" if task.execution == "auto" else None)
    if asked is None:
        assert isinstance(task.execution, Execution)
        return task.execution
    if asked == "auto":
        from rebatch.cli.output import note
        from rebatch.study.choose import fastest

        choice, rates = fastest(task, data_dir, threads=threads)
        measured = "; ".join(f"{each.describe()}: {rate:,.0f}" for each, rate in rates.items())
        note(f"measured examples per second: {measured}; chosen: {choice.describe()}")
        return choice
    known = get_args(Precision)
    if asked not in known:
        raise RequestError(f"--precision {asked!r} is unknown{did_you_mean(asked, [*known, 'auto'])}")
    return Execution(precision=asked, compile=compile_model)  # type: ignore[arg-type]
