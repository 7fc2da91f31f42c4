"""`rebatch study export` and `import`: results that are kept, and runs that go on elsewhere."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rebatch.report.paper.material import Published
    from rebatch.study.archive import Imported
    from rebatch.study.plan import Plan
    from rebatch.study.store import Store


def export(
    folder: Annotated[Path, typer.Argument(help="The store of a study.", metavar="DIR")],
    output: Annotated[Path, typer.Option("--output", help="Folder of kept results.")] = Path("results"),
    published: Annotated[
        Path | None,
        typer.Option(help="CSV of published curves to draw beside ours: panel,batch,epoch,iteration,distance."),
    ] = None,
) -> None:
    """Write each study's result, runs and figure: OUTPUT/STUDY/TASK-SCALE.json, .runs.jsonl and .svg."""
    from rebatch.cli.output import note, say
    from rebatch.errors import RequestError
    from rebatch.report.paper.material import read_published
    from rebatch.study.store import Store

    store = Store(folder)
    plans = store.plans()
    if not plans:
        raise RequestError(f"{folder} holds no study yet; `rebatch study run NAME --store {folder}` starts one")
    if output.exists() and not output.is_dir():
        raise RequestError(f"--output {output} is a file, not a folder; name another folder")
    curves = read_published(published) if published else ()
    draws = find_spec("matplotlib") is not None
    for plan in plans:
        for path in _files(plan, store, output, curves, draws=draws):
            say(str(path))
    if not draws:
        note("no figures: matplotlib is not installed; `pip install 'rebatch[figures]'` brings it")


def import_runs(
    file: Annotated[Path, typer.Argument(help="What `rebatch study export` wrote.", metavar="FILE.runs.jsonl")],
    store: Annotated[Path, typer.Option(help="Store to put the runs into; made where there is none.")],
) -> None:
    """Put exported runs into a store; the same study run there does only what is missing."""
    from rebatch.cli.output import note, say
    from rebatch.study.archive import read_runs, unpack_runs
    from rebatch.study.store import Store

    archive = read_runs(file)  # all of it, before anything is written
    done = unpack_runs(archive, Store(store, create=True))
    say(f"{archive.plan.name}: {done.new} runs imported, {done.known} were in {store} already")
    for line in _kept(done, archive.plan, store):
        note(line)


def _files(
    plan: "Plan", store: "Store", output: Path, published: "tuple[Published, ...]", *, draws: bool
) -> Iterator[Path]:
    """Writes the files of one plan, the figure last: numbers are not lost to a drawing."""
    import msgspec

    from rebatch.cli.output import note
    from rebatch.files import write_whole
    from rebatch.report.paper.material import gather
    from rebatch.report.summary import summarize, to_json
    from rebatch.study.archive import pack_runs, portable

    summary = summarize(plan, store)
    missing = summary.planned - summary.runs.done - summary.runs.diverged
    if missing:
        note(f"{plan.name}: {missing} of {summary.planned} runs are missing; verdicts speak of those that are there")
    summary = msgspec.structs.replace(summary, command=portable(summary.command))
    folder, name = output / plan.study.replace("/", "-"), f"{plan.task.replace('/', '-')}-{plan.scale}"
    for suffix, content in (("json", to_json(summary) + b"\n"), ("runs.jsonl", pack_runs(plan, store))):
        write_whole(folder / f"{name}.{suffix}", content)
        yield folder / f"{name}.{suffix}"
    if draws:
        from rebatch.report.paper.draw import svg

        figure = svg(gather(plan, store, summary, published))
        if figure is None:
            note(f"{plan.name}: no figure, since no run has left what it shows (imported runs have no rows)")
            return
        write_whole(folder / f"{name}.svg", figure)
        yield folder / f"{name}.svg"


def _kept(done: "Imported", plan: "Plan", store: Path) -> Iterator[str]:
    """What the store had of its own, and has still."""
    if done.other:
        seeds = ", ".join(map(str, sorted({spec.seed for spec in done.other})))
        yield (
            f"{len(done.other)} runs (seeds {seeds}) are in {store} with other numbers; those stay and the "
            "file's are left out (another store takes them)"
        )
    if done.other_plan:
        yield f"{store} has a plan {plan.name} of its own, which stays; `rebatch study run` plans anew"
