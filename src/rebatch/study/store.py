"""Where runs live: a folder that any number of engines may share and that `kill -9` cannot damage.

store.json                    the format's number
plans/NAME.json               what a study planned
quantities/NAME.json          the numbers that its claims speak about, by name and seed, where it has such
           NAME.runs.json     which runs the numbers of each seed were made of
runs/RUN_ID/spec.json         what the run is; where it goes on from another, all of that one's spec too
            rows.jsonl        its rows, one line each, appended; not there where the run was imported
            checkpoint.pt     its state while it runs, if that takes over a minute
            error.txt         the traceback of its last failure, until it finishes
            result.json       its result: written last, whole; a run without it has not happened
            lock              held while a process works on it; the system frees it when the process dies
"""

import base64
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from rebatch.errors import RequestError, RunError
from rebatch.files import decoded, naming, write_whole
from rebatch.study.plan import Plan, RunSpec

FORMAT = 1

T = TypeVar("T")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished run left. Timing and environment stand beside the numbers and are never compared; `seconds` are
    those of the process that finished it, less than the whole where a run was resumed.

    `accuracy` is on the test set in percent, at the last step (chance where the run diverged; None for a probe that
    classifies nothing); `correct` holds which test examples were right, packed bits in base64, one for each token of a
    sequence. `metrics` are the numbers of the last row and what was measured after it.
    """

    status: Literal["done", "diverged"]
    steps: int
    accuracy: float | None = None
    metrics: Mapping[str, float | None] = {}
    test_loss: float | None = None
    correct: str = ""
    test_examples: int = 0
    tokens_per_example: int = 1
    seconds: float = 0.0
    environment: Mapping[str, Any] = {}

    def hits(self) -> NDArray[np.bool_] | NDArray[np.float64]:
        """Which test examples were right, shape (test_examples,); of sequences, which part of their tokens."""
        bits = np.frombuffer(base64.b64decode(self.correct), dtype=np.uint8)
        hits = np.unpackbits(bits, count=self.test_examples * self.tokens_per_example).astype(bool)
        return hits if self.tokens_per_example == 1 else hits.reshape(self.test_examples, -1).mean(axis=1)


def pack(hits: NDArray[np.bool_]) -> str:
    """`Result.correct` from a boolean array."""
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


Quantities = dict[str, dict[int, float]]
"""Numbers of a study by name and seed."""

RunsBySeed = dict[int, list[str]]
"""Ids of runs by seed."""


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint(self) -> Path:
        """Where the run's state is kept while it runs."""
        return self.path / "checkpoint.pt"

    def spec(self) -> RunSpec:
        """What the run is."""
        return _read(self.path / "spec.json", RunSpec)

    def result(self) -> Result | None:
        """The result, or `None` where the run has not finished."""
        path = self.path / "result.json"
        return _read(path, Result) if path.exists() else None

    def finish(self, result: Result) -> None:
        """Keep the result; the run is done with this."""
        write_whole(self.path / "result.json", msgspec.json.encode(result))
        for leftover in (self.checkpoint, self.path / "error.txt"):
            leftover.unlink(missing_ok=True)

    def keep_error(self, traceback: str) -> Path:
        """Keep the traceback of a failure until the run finishes; returns the file."""
        path = self.path / "error.txt"
        write_whole(path, traceback.encode())
        return path

    def rows(self) -> list[dict[str, float]]:
        """The rows written so far; a torn last line is left out."""
        path = self.path / "rows.jsonl"
        rows = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                rows.append(decoded(line, dict[str, float | None]))
            except msgspec.DecodeError:
                break
        return [{name: float("nan") if value is None else value for name, value in row.items()} for row in rows]

    @property
    def has_rows(self) -> bool:
        """Whether the rows are here, none at all included; a run that was imported came without them."""
        return (self.path / "rows.jsonl").exists()

    def keep_rows(self, steps: int) -> None:
        """Forget rows after `steps` steps: where a run resumes from."""
        self.begin_with([row for row in self.rows() if row["step"] <= steps])

    def begin_with(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Put `rows` in the place of all rows."""
        write_whole(self.path / "rows.jsonl", b"".join(_line(row) for row in rows))

    def append(self, row: Mapping[str, float]) -> None:
        """Add one row."""
        path = self.path / "rows.jsonl"
        with naming(path), path.open("ab") as file:
            file.write(_line(row))

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the run; gives `False` where another process holds it."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


class _Marker(msgspec.Struct):
    """What `store.json` holds."""

    format: Annotated[int, msgspec.Meta(ge=1)]


class Store:
    """A folder of plans and runs.

    Raises:
        RequestError: the folder is not a store, or one of a newer format, or cannot be written.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self.root = root
        marker = root / "store.json"
        if not marker.exists():
            if not create:
                makers = "`rebatch study run` and `rebatch train --store` make one"
                raise RequestError(f"{root} is not a store of runs (no store.json); {makers}")
            _create(root, marker)
        found = _format(marker)
        if found != FORMAT:
            raise RequestError(f"{root} has format {found}, this rebatch reads format {FORMAT}; use a newer rebatch")

    def run(self, spec: RunSpec) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self.root / "runs" / spec.run_id)

    def runs(self) -> list[RunFolder]:
        """The folders of all runs that began."""
        return [RunFolder(path.parent) for path in sorted((self.root / "runs").glob("*/spec.json"))]

    def begin(self, spec: RunSpec) -> RunFolder:
        """The folder of a run that is about to start, with its spec written down."""
        folder = self.run(spec)
        write_whole(folder.path / "spec.json", msgspec.json.encode(spec))
        return folder

    def save_plan(self, plan: Plan) -> None:
        """Keep a plan; the same study planned again replaces it, unless only the command is spelled differently."""
        earlier = self.plan(plan.name)
        if earlier is not None and msgspec.structs.replace(plan, command=earlier.command) == earlier:
            return  # a store that is complete is not written to, so it may be read-only
        write_whole(self.root / "plans" / f"{plan.name}.json", msgspec.json.encode(plan))

    def plan(self, name: str) -> Plan | None:
        """The plan called `name`, if the store has it."""
        path = self.root / "plans" / f"{name}.json"
        return _read(path, Plan) if path.exists() else None

    def plans(self) -> list[Plan]:
        """All plans, by name."""
        return [_read(path, Plan) for path in sorted((self.root / "plans").glob("*.json"))]

    def save_quantities(self, plan: Plan, quantities: Quantities, made_of: RunsBySeed | None = None) -> None:
        """Keep what a study's own function made of its runs, so that the store is judged without the study's code.

        `made_of` says of which runs each seed's numbers were made; they outlive the rows of those runs.
        """
        folder = self.root / "quantities"
        if quantities != self.quantities(plan):
            write_whole(folder / f"{plan.name}.json", msgspec.json.encode(quantities))
        if made_of is not None and made_of != self.quantities_made_of(plan):
            write_whole(folder / f"{plan.name}.runs.json", msgspec.json.encode(made_of))

    def quantities(self, plan: Plan) -> Quantities:
        """The named numbers of a study by seed; empty where it has none or they have not been computed."""
        path = self.root / "quantities" / f"{plan.name}.json"
        return _read(path, Quantities) if path.exists() else {}

    def quantities_made_of(self, plan: Plan) -> RunsBySeed:
        """The ids of the runs that each seed's named numbers were made of."""
        path = self.root / "quantities" / f"{plan.name}.runs.json"
        return _read(path, RunsBySeed) if path.exists() else {}

    def missing(self, plan: Plan, arms: Collection[str] | None = None) -> list[RunSpec]:
        """The runs of a plan, or of some of its arms, that have no result."""
        return [spec for spec in plan.specs(arms) if self.run(spec).result() is None]

    def results(self, plan: Plan, arm_name: str) -> dict[int, Result]:
        """Results of an arm's finished runs by seed."""
        arm = next(arm for arm in plan.design.arms if arm.name == arm_name)
        found = {seed: self.run(plan.spec(arm, seed)).result() for seed in plan.seeds(arm)}
        return {seed: result for seed, result in found.items() if result is not None}


def _create(root: Path, marker: Path) -> None:
    try:
        # A second engine may be making the same store right now: its half-written marker is nobody's other things.
        others = [found for found in root.glob("*") if not found.name.startswith(".store.json")]
        if others and not marker.exists():
            raise RequestError(f"{root} is a folder with other things in it, not a store of runs; name another folder")
        write_whole(marker, msgspec.json.encode({"format": FORMAT}))
    except (NotADirectoryError, FileExistsError):
        raise RequestError(f"{root} is a file, not a folder; name another place for the store") from None
    except OSError as error:
        raise RunError(f"cannot make a store in {root}: {os.strerror(error.errno or 0)}") from None


def _format(marker: Path) -> int:
    """The format's number; whatever else a newer rebatch may write beside it is ignored."""
    try:
        found = decoded(marker.read_bytes(), _Marker).format
    except msgspec.DecodeError as error:
        mend = f"""echo '{{"format": {FORMAT}}}' > {shlex.quote(str(marker))}"""
        raise RequestError(f"{marker} is damaged: {error}; if its folder is a store of runs, mend it: {mend}") from None
    return found


def _read(path: Path, kind: type[T]) -> T:
    try:
        return decoded(path.read_bytes(), kind)
    except msgspec.DecodeError as error:
        raise RequestError(
            f"cannot read {path}: {error}; delete it, and the command that made it makes it again"
        ) from None


def _line(row: Mapping[str, float]) -> bytes:
    return msgspec.json.encode(row) + b"\n"
