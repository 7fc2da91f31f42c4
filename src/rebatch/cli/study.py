"""`rebatch study`: list, run, show."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebatch.cli.execution import ChannelsLast, Compile, PrecisionName, choose_execution
from rebatch.cli.options import DataDir, Json, TaskName

if TYPE_CHECKING:
    from rebatch.study.engine import Outcome
    from rebatch.study.plan import Plan
    from rebatch.study.store import Store

app = typer.Typer(help="Studies: questions with arms, seeds and verdicts.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_studies(json: Json = False) -> None:
    """The built-in studies and tasks."""
    import msgspec

    from rebatch.cli.output import say, write_json
    from rebatch.study.studies import STUDIES
    from rebatch.tasks import TASKS

    if json:
        rows = [{"name": study.name, "title": study.title, "source": study.source} for study in STUDIES.values()]
        write_json(msgspec.json.encode({"studies": rows, "tasks": list(TASKS)}))
        return
    for study in STUDIES.values():
        say(f"{study.name:<16} {study.title} ({study.source})")
    say(f"\ntasks: {', '.join(TASKS)}")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="hoffer-gap, ..., or path/to/file.py:name.")],
    task: TaskName = "digits",
    seeds: Annotated[int | None, typer.Option(help="Runs per arm; the study's own number by default.", min=1)] = None,
    scale: Annotated[str, typer.Option(help="quick, cpu or paper.")] = "quick",
    jobs: Annotated[int | None, typer.Option(help="Worker processes; one per core by default.", min=1)] = None,
    threads: Annotated[int, typer.Option(help="Threads of each worker.", min=1)] = 1,
    precision: PrecisionName = None,
    channels_last: ChannelsLast = False,
    compiled: Compile = False,
    store: Annotated[Path | None, typer.Option(help="Where runs are kept.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Run a study. Finished runs are kept; the same command again runs only what is missing."""
    from rebatch.cli.output import note, say, write_json
    from rebatch.errors import RequestError, RunError, did_you_mean
    from rebatch.report.page import write_report
    from rebatch.report.summary import summarize, to_json
    from rebatch.report.terminal import study_tables
    from rebatch.study.find import find_study
    from rebatch.study.plan import SCALES, make_plan, plan_name
    from rebatch.study.store import Store
    from rebatch.tasks import find_task
    from rebatch.tasks.find import file_digest

    if scale not in SCALES:
        raise RequestError(f"--scale {scale!r} is unknown{did_you_mean(scale, SCALES)}")
    study, found = find_study(name), find_task(task)
    root_name = plan_name(study.name, found.name, scale)
    root = store or Path("rebatch-store") / root_name
    runs = Store(root, create=True)
    earlier = runs.plan(root_name)
    if earlier is not None and precision is None and not (channels_last or compiled):
        execution = earlier.execution  # a new measurement could choose otherwise and orphan the runs
    else:
        execution = choose_execution(
            found, precision, threads, data_dir, channels_last=channels_last, compiled=compiled
        )
    plan = make_plan(
        study,
        found,
        scale,
        execution=execution,
        seeds=seeds,
        task_digest=file_digest(task),
        command=f"rebatch {' '.join(sys.argv[1:])}",
    )
    outcome = _run(plan, runs, task, jobs, threads, data_dir)
    summary = summarize(plan, runs, failed=len(outcome.failed), reused=outcome.reused)
    page = write_report(runs, root / "report")
    if json:
        write_json(to_json(summary))
        note(f"report: {page}")
    else:
        say(study_tables(summary))
        say(f"report: {page}")
    if outcome.failed:
        first = next(iter(outcome.failed.values()))
        raise RunError(f"{len(outcome.failed)} runs failed, the first with: {first}; the same command tries them again")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="The store of a study.", metavar="DIR")], json: Json = False
) -> None:
    """Tables and verdicts of what is stored."""
    import msgspec

    from rebatch.cli.output import say, write_json
    from rebatch.errors import RequestError
    from rebatch.report.summary import summarize, to_json
    from rebatch.report.terminal import study_tables
    from rebatch.study.store import Store

    store = Store(folder)
    summaries = [summarize(plan, store) for plan in store.plans()]
    if not summaries:
        raise RequestError(f"{folder} holds no study yet; `rebatch study run NAME --store {folder}` starts one")
    if json and len(summaries) == 1:
        write_json(to_json(summaries[0]))
    elif json:
        write_json(msgspec.json.format(msgspec.json.encode({"studies": summaries}), indent=2))
    else:
        for summary in summaries:
            say(study_tables(summary))


def _run(plan: "Plan", store: "Store", task: str, jobs: int | None, threads: int, data_dir: Path | None) -> "Outcome":
    from rebatch.cli.output import note
    from rebatch.cli.progress import study_progress
    from rebatch.study.engine import run_plan

    count = jobs or max(1, _cores() // threads)
    missing = sum(store.run(spec).result() is None for spec in plan.specs())
    note(f"{plan.name}: {missing} of {len(plan.specs())} runs to do, {min(count, max(missing, 1))} at a time")
    with study_progress(plan, store) as on_progress:
        return run_plan(plan, store, task=task, jobs=count, threads=threads, data_dir=data_dir, on_progress=on_progress)


def _cores() -> int:
    """Cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
