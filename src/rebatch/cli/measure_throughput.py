"""`rebatch measure throughput`: speed and memory of a micro-batch of each size, on this device."""

from typing import TYPE_CHECKING, Annotated

import typer

from rebatch.cli.execution import ChannelsLast, Compile, PrecisionName, choose_execution, not_measured
from rebatch.cli.options import DataDir, Json, RecipeOption, Seed, TaskName, Threads
from rebatch.errors import RequestError

if TYPE_CHECKING:
    from rich.table import Table

    from rebatch.interval import Interval
    from rebatch.study.capacity import Capacity, Largest, Size

ENDED = {
    "given": "",
    "data": "The training set has no more examples.",
    "slow": "Larger sizes take long and were left out; name them with --sizes.",
    "memory": "Larger sizes do not fit into memory.",
    "time": "Larger sizes take too long.",
    "died": "With a larger size the process died.",
}


def throughput(
    task: TaskName,
    recipe: RecipeOption = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--sizes", help="Micro-batch sizes, repeated or separated by commas; powers of two by default."),
    ] = None,
    largest: Annotated[
        bool, typer.Option("--largest", help="Also search for the largest micro-batch that fits; takes longer.")
    ] = False,
    precision: PrecisionName = None,
    channels_last: ChannelsLast = False,
    compiled: Compile = False,
    seed: Seed = 0,
    threads: Threads = None,
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", help="Most memory to hold, such as 4GB; by default 90 % of what is free."),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Measure examples per second and memory for each micro-batch size, on this device.

    Everything runs in a process of its own, which may run out of memory without harm.
    """
    from rebatch.cli.measuring import chosen_recipe
    from rebatch.cli.output import note, say, write_json
    from rebatch.study.capacity import measure_capacity
    from rebatch.study.capacity_worker import Workload
    from rebatch.study.memory import parse_bytes
    from rebatch.tasks import find_task

    wanted, limit = _sizes(sizes), None if memory_limit is None else parse_bytes(memory_limit)
    found = find_task(task).sized(data_dir)
    named = not_measured(found, precision)
    execution = choose_execution(
        found, named, _threads(threads, named), data_dir, channels_last=channels_last, compiled=compiled
    )
    workload = Workload(task, chosen_recipe(found, recipe), execution, seed, threads, data_dir, limit)
    note(f"{found.name}: {execution.describe()}, in a process of its own")
    measured = measure_capacity(workload, sizes=wanted, search=largest, on_progress=note)
    if json:
        write_json(_document(found.name, measured))
        return
    say(_heading(found.name, measured))
    say(_table(measured))
    for line in _lines(measured):
        say(line)


def _sizes(given: list[str] | None) -> list[int] | None:
    """The whole numbers of `--sizes`.

    >>> _sizes(["16,32", "64"]), _sizes(None)
    ([16, 32, 64], None)
    """
    try:
        return [int(part) for text in given for part in text.split(",")] if given else None
    except ValueError:
        raise RequestError(f"--sizes must be whole numbers, such as 16,32, got {','.join(given or [])!r}") from None


def _threads(threads: int | None, precision: str | None) -> int:
    """How many threads "auto" measures with; nothing else asks, and torch is not imported for nothing."""
    if threads is not None or precision != "auto":
        return threads or 1
    import torch

    return torch.get_num_threads()


def _heading(task: str, found: "Capacity") -> str:
    from rebatch.study.memory import show_bytes

    threads = f", {found.threads} thread{'s' if found.threads > 1 else ''}" if found.device == "cpu" else ""
    limit = "no memory limit" if found.limit is None else f"memory limit {show_bytes(found.limit)}"
    taken = "" if found.baseline is None else f", of which {show_bytes(found.baseline)} are taken before the model"
    return (
        f"{task} on {found.device}{threads}, {found.execution.describe()}; {limit}{taken}\n"
        f"medians of {found.rounds} rounds with 95 % intervals"
    )


def _table(found: "Capacity") -> "Table":
    from rebatch.report.transfer_table import borderless

    table = borderless("micro_batch_size", "examples/s", "ms a step", "memory", "fits", whole=["examples/s", "memory"])
    for size in found.sizes:
        table.add_row(f"{size.micro_batch_size:,}", *_cells(size))
    return table


def _cells(size: "Size") -> tuple[str, str, str, str]:
    from rebatch.study.memory import show_bytes

    fits = {"fits": "yes", "untried": "not tried", "memory": "no", "time": "too slow", "died": "died"}[size.outcome]
    rate = size.examples_per_second
    return (
        "-" if rate is None else f"{rate.estimate:,.0f} [{rate.low:,.0f}, {rate.high:,.0f}]",
        "-" if rate is None else f"{1000 * size.micro_batch_size / rate.estimate:.3g}",
        "-" if size.memory is None else show_bytes(size.memory),
        fits,
    )


def _lines(found: "Capacity") -> list[str]:
    """What the table means: the line through it, where larger stops being faster, and the largest size."""
    lines = [f"{each.micro_batch_size:,} does not fit: {each.detail}" for each in found.sizes if _failed(each)]
    if found.fit is not None and found.update_seconds is not None:
        lines.append(
            f"A micro-batch takes {_milliseconds(found.fit.fixed)} ms, and {_milliseconds(found.fit.per_example)} ms "
            f"for each example (misses a size by {found.fit.misfit:.0%} at most); "
            f"an update of the weights {_milliseconds(found.update_seconds)} ms."
        )
    lines.append(f"{_sentence(found)} {ENDED[found.ended]}".strip())
    return lines if found.largest is None else [*lines, _largest(found.largest, found.limit)]


def _failed(size: "Size") -> bool:
    return size.outcome in ("memory", "time", "died")


def _milliseconds(interval: "Interval") -> str:
    return f"{1000 * interval.estimate:.3g} [{1000 * interval.low:.3g}, {1000 * interval.high:.3g}]"


def _sentence(found: "Capacity") -> str:
    """Where examples per second stop growing."""
    timed = [size.micro_batch_size for size in found.sizes if size.seconds is not None]
    if found.full_speed is None or not timed:
        return "No size that was tried fits."
    if len(timed) == 1:
        return "One size alone does not tell where examples per second stop growing."
    if found.full_speed == max(timed):
        return f"Examples per second still grow at {found.full_speed:,}, the largest size that was timed."
    return f"Examples per second stop growing at a micro-batch of {found.full_speed:,}, within 10 % of the best."


def _largest(found: "Largest", limit: int | None) -> str:
    from rebatch.study.memory import show_bytes

    within = "" if limit is None else f" within {show_bytes(limit)}"
    tried = f"tried: {', '.join(f'{each.micro_batch_size:,}' for each in found.tried)}"
    size = found.micro_batch_size
    if size is None:
        return f"No micro-batch fits{within} ({tried})."
    if found.bounded_by == "most":
        return f"The largest micro-batch, the whole training set of {size:,}, fits{within} ({tried})."
    above = next(each for each in found.tried if _failed(each))
    why = {"memory": "does not fit", "time": "takes too long", "died": "ends in the death of its process"}
    return (
        f"The largest micro-batch that fits{within} is {size:,}; {above.micro_batch_size:,} "
        f"{why[found.bounded_by]} ({tried})."
    )


def _document(task: str, found: "Capacity") -> bytes:
    import msgspec

    from rebatch.study.environment import environment

    fit = found.fit
    line = None if fit is None else {"fixed": fit.fixed, "per_example": fit.per_example, "misfit": fit.misfit}
    execution = msgspec.structs.asdict(found.execution)  # defaults too
    own = {"task": task, "execution": execution, "fit": line}
    return msgspec.json.encode({**msgspec.structs.asdict(found), **own, "environment": environment()})
