"""The progress of a study, on standard error: a bar of optimizer steps; in a log, a line a tenth of the runs."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from rebatch.batching import total_steps
from rebatch.study.plan import Plan, RunSpec
from rebatch.study.store import Store
from rebatch.study.worker import Message


@contextmanager
def study_progress(
    plan: Plan, store: Store, arms: Collection[str] | None = None
) -> Iterator[Callable[[RunSpec, Message], None]]:
    """Gives what the engine calls with each message of a worker; `arms` are those that are run, all if None."""
    steps = {plan.spec(arm, seed).run_id: plan.steps(arm) for arm, seed in plan.runs()}
    missing = {spec.run_id for spec in store.missing(plan, arms)}
    names = {plan.spec(arm, seed).run_id: f"{arm.name}, seed {seed}" for arm, seed in plan.runs()}
    done = dict.fromkeys(missing, 0)
    finished: set[str] = set()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task(f"{len(missing)} runs", total=sum(steps[run_id] for run_id in missing))

        def on_progress(spec: RunSpec, message: Message) -> None:
            if spec.run_id not in steps:  # the best of some candidates, known only now
                missing.add(spec.run_id)
                steps[spec.run_id] = total_steps(spec.recipe, spec.data.examples or plan.examples)
                names[spec.run_id] = f"chosen recipe, seed {spec.seed}"
                bar.update(line, total=sum(steps[run_id] for run_id in missing))
            if message.kind == "failed":
                bar.console.print(Text(f"failed: {names[spec.run_id]}: {message.text}"), soft_wrap=True)
            if message.kind in {"done", "failed"}:
                finished.add(spec.run_id)
                if not console.is_terminal and _is_tenth(len(finished), len(missing)):
                    bar.console.print(f"{len(finished)} of {len(missing)} runs finished", highlight=False)
            if message.kind != "busy":  # in another engine's hands, which says nothing of its steps
                done[spec.run_id] = message.steps if message.kind == "steps" else steps[spec.run_id]
            title = f"{len(finished)}/{len(missing)} runs; {names[spec.run_id]}"
            bar.update(line, completed=sum(done.values()), description=title)

        yield on_progress


def _is_tenth(done: int, total: int) -> bool:
    """Whether `done` passed another tenth of `total`.

    >>> [done for done in range(1, 31) if _is_tenth(done, 30)]
    [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    >>> [done for done in range(1, 7) if _is_tenth(done, 6)]
    [1, 2, 3, 4, 5, 6]
    """
    return 10 * done // total > 10 * (done - 1) // total
