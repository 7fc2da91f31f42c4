"""What `rebatch train` does once its request is understood. Imports torch."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rebatch.batching import total_steps
from rebatch.cli.output import say, write_json
from rebatch.distributed import World
from rebatch.errors import RunError
from rebatch.study.environment import environment
from rebatch.study.execute import execute
from rebatch.study.plan import RunSpec
from rebatch.study.store import Result, RunFolder, Store
from rebatch.tasks import Task
from rebatch.training import Row


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
) -> None:
    """Train, or show the result that the store already has."""
    total = total_steps(spec.recipe, task.train)
    with _folder(spec, store, world) as folder, _progress(total, world) as on_row:
        result = folder.result()
        if result is None:
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
            )
        rows = folder.rows()
    if world.rank == 0:
        _report(spec, result, rows, json=json)


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
def _progress(total: int, world: World) -> Iterator[Callable[[Row], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    console = Console(stderr=True, quiet=world.rank > 0, highlight=False)
    bars = (*columns, TimeRemainingColumn())
    with Progress(*bars, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("training", total=total)
        clock = _Clock()

        def on_row(row: Row) -> None:
            rate = clock.rate(row["examples"])
            bar.update(line, completed=row["step"], description=f"loss {row['train_loss']:.4f}, {rate:,.0f} examples/s")
            if "validation_accuracy" in row:
                console.print(_line(row, rate), soft_wrap=True)

        yield on_row


class _Clock:
    """Examples per second between two rows."""

    def __init__(self) -> None:
        self._then, self._seen = time.monotonic(), 0.0

    def rate(self, examples: float) -> float:
        now = time.monotonic()
        rate = (examples - self._seen) / max(now - self._then, 1e-9)
        self._then, self._seen = now, examples
        return rate


def _line(row: Row, rate: float) -> str:
    return (
        f"epoch {row['epoch']:7.2f}  step {row['step']:>8,.0f}  lr {row['lr']:.3g}  loss {row['train_loss']:.4f}  "
        f"validation {row['validation_accuracy']:.2f} %  {rate:,.0f} examples/s"
    )


def _report(spec: RunSpec, result: Result, rows: list[Row], *, json: bool) -> None:
    if json:
        numbers = {name: getattr(result, name) for name in ("status", "steps", "accuracy", "test_loss", "seconds")}
        document = {"task": spec.task, "seed": spec.seed, **numbers, "environment": result.environment, "rows": rows}
        write_json(msgspec.json.format(msgspec.json.encode(document), indent=2))
        return
    if result.status == "diverged":
        say(f"diverged after {result.steps:,} steps: the loss is not finite; counts as chance, {result.accuracy:.1f} %")
    else:
        rate = rows[-1]["examples"] / result.seconds
        say(
            f"test accuracy {result.accuracy:.2f} % after {result.steps:,} steps, {result.seconds:.1f} s, "
            f"{rate:,.0f} examples/s with evaluation"
        )
