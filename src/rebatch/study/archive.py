"""Runs in one file that can be carried to another machine: a plan, and every finished run's spec and result.

The first line holds the format, the plan, and the numbers that its claims speak about (`quantities`), with the ids of
the runs that they were made of; every other line holds one run. Rows stay behind: they are large, and all that verdicts
need of them is in the result and in the quantities.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from rebatch.errors import RequestError
from rebatch.files import decoded
from rebatch.study.plan import Plan, RunSpec
from rebatch.study.store import Quantities, Result, RunsBySeed, Store

FORMAT = 1
MARK = "rebatch runs"

T = TypeVar("T")


class _Mark(msgspec.Struct):
    """What says that a file is one of ours; a newer rebatch may write more."""

    kind: str
    format: Annotated[int, msgspec.Meta(ge=1)]


class _Head(_Mark, kw_only=True):
    plan: Plan
    quantities: Quantities = {}
    made_of: RunsBySeed = {}


class _Line(msgspec.Struct, kw_only=True):
    run_id: str
    spec: RunSpec
    result: Result


@dataclass(frozen=True)
class Archive:
    """What such a file holds."""

    plan: Plan
    quantities: Quantities
    made_of: RunsBySeed
    runs: list[tuple[RunSpec, Result]]


@dataclass
class Imported:
    """What an import did: runs that are new in the store, that were there, and that the store has otherwise."""

    new: int = 0
    known: int = 0
    other: list[RunSpec] = field(default_factory=list)
    other_plan: bool = False


def pack_runs(plan: Plan, store: Store) -> bytes:
    """The plan and its finished runs as the lines of a file."""
    head = _Head(
        kind=MARK,
        format=FORMAT,
        plan=msgspec.structs.replace(plan, command=portable(plan.command)),
        quantities=store.quantities(plan),
        made_of=_made_of(plan, store),
    )
    finished = [(spec, store.run(spec).result()) for spec in plan.specs()]
    lines = [_Line(run_id=spec.run_id, spec=spec, result=result) for spec, result in finished if result is not None]
    return b"".join(msgspec.json.encode(each) + b"\n" for each in (head, *lines))


def portable(command: str) -> str:
    """A command without where things lie on this machine and how many processes it may use, for all arms.

    >>> portable("rebatch study run hoffer-gap --store /here --jobs=2 --arm '+lr' --scale cpu")
    'rebatch study run hoffer-gap --scale cpu'
    """
    return _without(command, {"--store", "--data-dir", "--jobs", "--arm"})


def for_all_arms(command: str) -> str:
    """A command without the arms that it asks for: what runs the rest of its plan."""
    return _without(command, {"--arm"})


def _without(command: str, options: set[str]) -> str:
    """A command without `options`, each of which has a value."""
    kept: list[str] = []
    skip = False
    for argument in shlex.split(command):
        if not skip and argument.partition("=")[0] not in options:
            kept.append(argument)
        skip = not skip and argument in options
    return shlex.join(kept)


def read_runs(path: Path) -> Archive:
    """The plan and runs of a file.

    Raises:
        RequestError: the file is not one of ours, of a newer format, or damaged: nothing of it is used.
    """
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise RequestError(f"no file {path}; `rebatch study export DIR` writes such files") from None
    head = _head(path, lines)
    return Archive(head.plan, head.quantities, head.made_of, list(_runs(path, lines[1:])))


def unpack_runs(archive: Archive, store: Store) -> Imported:
    """Put the plan and the runs of `archive` into `store`; a plan or result that is there already stays."""
    done = Imported()
    for spec, result in archive.runs:
        present = store.run(spec).result()
        if present is None:
            store.begin(spec).finish(result)
            done.new += 1
        elif _numbers(present) == _numbers(result):
            done.known += 1
        else:
            done.other.append(spec)
    own = store.plan(archive.plan.name)
    done.other_plan = own is not None and msgspec.structs.replace(own, command=archive.plan.command) != archive.plan
    if own is None:
        store.save_plan(archive.plan)
    trusted = {spec.run_id for spec in (own or archive.plan).specs()} - {spec.run_id for spec in done.other}
    _merge_quantities(archive, store, trusted)
    return done


def _made_of(plan: Plan, store: Store) -> RunsBySeed:
    """What the store says; a store from before it said so made its numbers of all finished runs of a seed."""
    finished: RunsBySeed = {}
    for arm in plan.design.arms:
        for seed in store.results(plan, arm.name) if not arm.candidate else ():
            finished.setdefault(seed, []).append(plan.spec(arm, seed).run_id)
    measured = {seed for by_seed in store.quantities(plan).values() for seed in by_seed}
    guessed = {seed: sorted(set(ids)) for seed, ids in finished.items() if seed in measured}
    return guessed | store.quantities_made_of(plan)


def _head(path: Path, lines: list[bytes]) -> _Head:
    try:
        mark = decoded(lines[0] if lines else b"", _Mark)
    except msgspec.DecodeError:
        mark = None
    if mark is None or mark.kind != MARK:
        raise RequestError(f"{path} holds no runs of a study; `rebatch study export DIR` writes NAME.runs.jsonl")
    if mark.format != FORMAT:
        raise RequestError(f"{path} has format {mark.format}, this rebatch reads format {FORMAT}; use a newer rebatch")
    return _decode(path, 1, lines[0], _Head)


def _runs(path: Path, lines: list[bytes]) -> Iterator[tuple[RunSpec, Result]]:
    for number, line in enumerate(lines, start=2):
        found = _decode(path, number, line, _Line)
        if found.run_id != found.spec.run_id:
            raise RequestError(
                f"{path}, line {number}: run {found.run_id!r} does not match its spec, which is run "
                f"{found.spec.run_id!r}; {_AGAIN}"
            )
        yield found.spec, found.result


_AGAIN = "nothing was imported; export it again from its store"


def _decode(path: Path, number: int, line: bytes, kind: type[T]) -> T:
    try:
        return decoded(line, kind)
    except msgspec.DecodeError as error:
        raise RequestError(f"{path}, line {number} is damaged: {error}; {_AGAIN}") from None


def _numbers(result: Result) -> Result:
    """The result without what may differ between two computations of the same run."""
    return msgspec.structs.replace(result, seconds=0.0, environment={})


def _merge_quantities(archive: Archive, store: Store, trusted: set[str]) -> None:
    """Seed by seed the numbers of the file join those of the store; of two of one name, those of more runs stay.

    Only those made of `trusted` runs: the plan's, with the result that the store has too.
    """
    numbers, made_of = store.quantities(archive.plan), store.quantities_made_of(archive.plan)
    for seed, theirs in archive.made_of.items():
        if not set(theirs) <= trusted:
            continue
        ours = made_of.get(seed, [])
        for name, by_seed in archive.quantities.items():
            if seed in by_seed and (len(theirs) > len(ours) or seed not in numbers.get(name, {})):
                numbers.setdefault(name, {})[seed] = by_seed[seed]
        made_of[seed] = sorted({*ours, *theirs})
    store.save_quantities(archive.plan, numbers, made_of)
