"""The progress bar of a study: optimizer steps done of all that are missing, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rebatch.batching import total_steps
from rebatch.study.plan import Plan, RunSpec
from rebatch.study.store import Store
from rebatch.study.worker import Message


@contextmanager
def study_progress(plan: Plan, store: Store) -> Iterator[Callable[[RunSpec, Message], None]]:
    """Gives what the engine calls with each message of a worker."""
    steps = {spec.run_id: total_steps(spec.recipe, plan.examples) for spec in plan.specs()}
    missing = {spec.run_id for spec in plan.specs() if store.run(spec).result() is None}
    names = {
        plan.spec(arm, seed).run_id: f"{arm.name}, seed {seed}"
        for arm in plan.design.arms
        for seed in range(plan.design.seeds)
    }
    done = dict.fromkeys(missing, 0)
    finished: set[str] = set()
    columns = (
        TextColumn("{task.description}"),
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
            if message.kind == "failed":
                bar.console.print(f"failed: {names[spec.run_id]}: {message.text}", markup=False, highlight=False)
            if message.kind in {"done", "failed"}:
                finished.add(spec.run_id)
            done[spec.run_id] = message.steps if message.kind == "steps" else steps[spec.run_id]
            title = f"{len(finished)}/{len(missing)} runs; {names[spec.run_id]}"
            bar.update(line, completed=sum(done.values()), description=title)

        yield on_progress
