"""What `rebatch train` does once its request is understood. Imports torch."""

import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rebatch.batching import examples_seen, progress, total_steps
from rebatch.cli.output import note, say, write_json
from rebatch.distributed import World
from rebatch.errors import RequestError, RunError
from rebatch.study.environment import environment
from rebatch.study.execute import execute
from rebatch.study.plan import Continued, RunSpec
from rebatch.study.store import Result, RunFolder, Store
from rebatch.tasks import Task
from rebatch.tasks.find import describe
from rebatch.training import Checkpointer, Row


def run(
    spec: RunSpec,
    task: Task,
    world: World,
    *,
    store: Path | None,
    data_dir: Path | None,
    micro_batch_size: int | None,
    allow_batch_norm: bool,
    json: bool,
    earlier: RunFolder | None = None,
) -> None:
    """Train, or show the result that the store already has."""
    with _folder(spec, store, world) as folder:
        result = known = folder.result()
        if result is None:
            if world.rank == 0 and spec.continues is not None:
                note(_goes_on(spec, spec.continues, task.train))
            with _progress(spec, task, folder, world) as on_row, _users_code(folder, world, keep=store is not None):
                result = execute(
                    spec,
                    folder,
                    task,
                    data_dir=data_dir,
                    environment=environment(),
                    on_row=on_row,
                    world=world,
                    micro_batch_size=micro_batch_size,
                    allow_batch_norm=allow_batch_norm,
                    earlier=earlier,
                )
        rows = folder.rows()
    if world.rank == 0 and json:
        _write(spec, result, rows)
    elif world.rank == 0:
        say(f"{'already done: ' if known else ''}{_result_line(result)}")


def _goes_on(spec: RunSpec, before: Continued, examples: int) -> str:
    """Where it goes on, and at which part of its budget: of a longer budget it is a smaller part."""
    at, earlier = spec.start(examples), before.spec
    old = progress(at.step, examples, earlier.recipe, earlier.start(examples))
    new = progress(at.step, examples, spec.recipe, at)
    moved = f" (it was {old:.1%}, so the schedule jumps)" if abs(new - old) > JUMP else ""
    return f"goes on after {at.step:,} steps and {at.seen:,} examples, at {new:.1%} of the budget{moved}"


# Partial batches move the progress of a place within an epoch by less.
JUMP = 0.01


@contextmanager
def _folder(spec: RunSpec, store: Path | None, world: World) -> Iterator[RunFolder]:
    """The run's folder, held by rank 0; a temporary one where nothing is to be kept."""
    with tempfile.TemporaryDirectory() if store is None else nullcontext(store) as root:
        # Rank 0 makes the folder and holds it; the others only look.
        if world.rank == 0 or store is None:
            folder = Store(Path(root), create=True).begin(spec)
        world.barrier()
        folder = Store(Path(root)).run(spec)
        if world.rank > 0:
            yield folder
            return
        with folder.held() as ours:
            if not ours:
                raise RunError(f"another process is working on this run in {folder.path}; wait for it")
            yield folder


@contextmanager
def _users_code(folder: RunFolder, world: World, *, keep: bool) -> Iterator[None]:
    """What the user's model prints goes to standard error; what it raises is one line, the traceback in the store."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (RequestError, RunError, OSError):
        raise
    except (Exception, SystemExit) as error:
        line = describe(error)
        if keep and world.rank == 0:
            with suppress(OSError):
                line += f", traceback in {folder.keep_error(traceback.format_exc())}"
        raise RunError(line) from error


@contextmanager
def _progress(spec: RunSpec, task: Task, folder: RunFolder, world: World) -> Iterator[Callable[[Row], None]]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    console = Console(stderr=True, quiet=world.rank > 0, highlight=False)
    bars = (*columns, TimeRemainingColumn())
    with Progress(*bars, console=console, transient=True, disable=not console.is_terminal) as bar:
        start = spec.start(task.train)
        line = bar.add_task("training", total=total_steps(spec.recipe, task.train, start))
        unit = "examples" if task.tokens_per_example == 1 else "tokens"
        first = max(Checkpointer(folder.checkpoint).steps(), start.step)
        clock = _Clock(examples_seen(first, task.train, spec.recipe, start))

        def on_row(row: Row) -> None:
            rate = f"{clock.rate(row['examples']) * task.tokens_per_example:,.0f} {unit}/s"
            bar.update(line, completed=row["step"], description=f"loss {row['train_loss']:.4f}, {rate}")
            if "validation_accuracy" in row:
                console.print(_line(row, rate), soft_wrap=True)

        yield on_row


class _Clock:
    """Examples per second between two rows; a resumed run starts with the examples it has `seen`."""

    def __init__(self, seen: float) -> None:
        self._then, self._seen = time.monotonic(), seen

    def rate(self, examples: float) -> float:
        now = time.monotonic()
        rate = (examples - self._seen) / max(now - self._then, 1e-9)
        self._then, self._seen = now, examples
        return rate


def _line(row: Row, rate: str) -> str:
    return (
        f"epoch {row['epoch']:7.2f}  step {row['step']:>8,.0f}  lr {row['lr']:.3g}  loss {row['train_loss']:.4f}  "
        f"validation {row['validation_accuracy']:.2f} %  {rate}"
    )


def _write(spec: RunSpec, result: Result, rows: list[Row]) -> None:
    numbers = {name: getattr(result, name) for name in ("status", "steps", "accuracy", "test_loss", "seconds")}
    document = {"task": spec.task, "seed": spec.seed, **numbers, "environment": result.environment, "rows": rows}
    write_json(msgspec.json.format(msgspec.json.encode(document), indent=2))


def _result_line(result: Result) -> str:
    if result.status == "diverged":
        chance = f"counts as chance, {result.accuracy:.1f} %"
        return f"diverged after {result.steps:,} steps: the loss is not finite; {chance}"
    return f"test accuracy {result.accuracy:.2f} % after {result.steps:,} steps, {result.seconds:.1f} s"
