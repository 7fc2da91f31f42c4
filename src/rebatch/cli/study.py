"""`rebatch study`: run and show; list, export and import are in files of their own."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebatch.cli.execution import ChannelsLast, Compile, PrecisionName, choose_execution
from rebatch.cli.options import DataDir, Jobs, Json, WorkerThreads
from rebatch.cli.study_files import export, import_runs
from rebatch.cli.study_list import list_studies

if TYPE_CHECKING:
    from rebatch.report.summary import StudySummary
    from rebatch.study.engine import Outcome
    from rebatch.study.plan import Plan, Study
    from rebatch.study.store import Store

app = typer.Typer(help="Studies: questions with arms, seeds and verdicts.", no_args_is_help=True, rich_markup_mode=None)


app.command("list")(list_studies)
app.command("export")(export)
app.command("import")(import_runs)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="hoffer-gap, ..., or path/to/file.py:name.")],
    task: Annotated[
        str | None, typer.Option(help="digits, ..., or path/to/file.py:name; the study names its own.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs per arm; the study's own number by default.", min=1)] = None,
    scale: Annotated[str, typer.Option(help="quick, cpu or paper.")] = "quick",
    jobs: Jobs = None,
    threads: WorkerThreads = 1,
    arm: Annotated[list[str] | None, typer.Option(help="Run only this arm for now; may be given again.")] = None,
    precision: PrecisionName = None,
    channels_last: ChannelsLast = False,
    compiled: Compile = False,
    store: Annotated[Path | None, typer.Option(help="Where runs are kept.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Run a study. Finished runs are kept; the same command again runs only what is missing."""
    from rebatch.errors import RequestError, RunError, did_you_mean
    from rebatch.report.summary import summarize
    from rebatch.study.archive import for_all_arms
    from rebatch.study.choosing import choose
    from rebatch.study.find import find_study
    from rebatch.study.plan import SCALES, make_plan, plan_name
    from rebatch.study.store import Store
    from rebatch.tasks import find_task
    from rebatch.tasks.find import run_digest
    from rebatch.tasks.presence import require_data

    if scale not in SCALES:
        raise RequestError(f"--scale {scale!r} is unknown{did_you_mean(scale, SCALES)}")
    study = find_study(name)
    task = task or study.task
    found = find_task(task).sized(data_dir)
    root_name = plan_name(study.name, found.name, scale)
    root = store or Path("rebatch-store") / root_name
    existing = Store(root) if (root / "store.json").exists() else None
    earlier = existing.plan(root_name) if existing else None
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
        task_digest=run_digest(task, found),
        command=for_all_arms(shlex.join(["rebatch", *sys.argv[1:]])),
    )
    wanted = _known_arms(arm, plan)
    if existing is not None:
        plan = choose(plan, existing)
    if existing is None or existing.missing(plan, wanted):
        require_data(found, data_dir)
    runs = existing or Store(root, create=True)  # only now: a request that is refused leaves nothing behind
    if earlier is not None:
        _note_hidden(earlier, plan, runs)
    outcome = _run(plan, runs, task, jobs, threads, data_dir, wanted)
    plan = outcome.plan
    _keep_quantities(study, plan, runs)
    summary = summarize(plan, runs, failed=len(outcome.failed), reused=outcome.reused)
    _show(summary, json=json)
    if problems := [*_write_page(runs, json=json), *_failures(outcome)]:
        raise RunError("; ".join(problems))


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
            say(study_tables(summary, ran=False))


def _show(summary: "StudySummary", *, json: bool) -> None:
    from rebatch.cli.output import say, write_json
    from rebatch.report.summary import to_json
    from rebatch.report.terminal import study_tables

    if json:
        write_json(to_json(summary))
    else:
        say(study_tables(summary))


def _write_page(store: "Store", *, json: bool) -> list[str]:
    """The page comes after the tables: hours of runs are not hidden by a full disk. Returns what went wrong."""
    from rebatch.cli.output import note, say
    from rebatch.errors import RequestError
    from rebatch.report.page import write_report

    try:
        page = write_report(store, store.root / "report")
    except (OSError, RequestError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
        elsewhere = f"`{shlex.join(['rebatch', 'report', str(store.root), '--output', 'DIR'])}` writes it elsewhere"
        return [f"the report page cannot be written ({reason}); all runs are kept in {store.root}, {elsewhere}"]
    (note if json else say)(f"report: {page}")
    return []


def _failures(outcome: "Outcome") -> list[str]:
    first = next(iter(outcome.failed.values()), "")
    many = f"{len(outcome.failed)} runs failed, the first with: {first}; the same command tries them again"
    return [many] if first else []


def _note_hidden(earlier: "Plan", plan: "Plan", store: "Store") -> None:
    """Fewer seeds than before: finished runs go out of sight, and that is said."""
    from rebatch.cli.output import note

    before, now = earlier.design.seeds, plan.design.seeds
    shown = {spec.run_id for spec in plan.specs()}
    specs = [spec for spec in earlier.specs() if spec.run_id not in shown] if now < before else []
    if hidden := [spec for spec in specs if store.run(spec).result() is not None]:
        note(f"seeds: {now} instead of {before}; {len(hidden)} finished runs are kept but not shown (--seeds {before})")


def _keep_quantities(study: "Study", plan: "Plan", store: "Store") -> None:
    """Make the study's numbers anew and keep them; say so where that needs rows that an import did not bring."""
    from rebatch.cli.output import note
    from rebatch.study.quantify import quantify

    found = quantify(study, plan, store)
    store.save_quantities(plan, found.numbers, found.made_of)
    if found.stale:
        seeds = ", ".join(map(str, found.stale))
        note(f"quantities of seeds {seeds} were made of fewer runs than are there; imported runs have no rows")


def _known_arms(arms: list[str] | None, plan: "Plan") -> set[str] | None:
    """The arms that are asked for, with those that they are chosen from; None for all."""
    from rebatch.errors import RequestError, did_you_mean
    from rebatch.study.choosing import with_candidates

    names = [arm.name for arm in plan.design.arms]
    for name in arms or ():
        if name not in names:
            raise RequestError(f"--arm {name!r} is no arm of this study{did_you_mean(name, names)}")
    return with_candidates(plan, arms) if arms else None


def _run(
    plan: "Plan",
    store: "Store",
    task: str,
    jobs: int | None,
    threads: int,
    data_dir: Path | None,
    arms: set[str] | None,
) -> "Outcome":
    from rebatch.cli.output import note
    from rebatch.cli.progress import study_progress
    from rebatch.study.engine import run_plan

    count = jobs or max(1, _cores() // threads)
    missing = len(store.missing(plan, arms))
    total = len(plan.specs(arms))
    to_do = f"{missing} of {total} runs to do, {min(count, missing)} at a time"
    note(f"{plan.name}: {to_do if missing else f'all {total} runs are in the store'}")
    with study_progress(plan, store, arms) as on_progress:
        return run_plan(
            plan,
            store,
            task=task,
            jobs=count,
            threads=threads,
            data_dir=data_dir,
            arms=arms,
            on_progress=on_progress,
        )


def _cores() -> int:
    """Cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
