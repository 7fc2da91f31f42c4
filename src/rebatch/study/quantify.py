"""From the finished runs of a study to the numbers that its claims speak about, seed by seed.

A run that was imported has a result and no rows. Where the study's function asks for those rows, or leaves out what it
would make of them, the numbers that were made of them elsewhere stay; everything else is made anew.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from rebatch.errors import RunError
from rebatch.study.plan import Plan, Study
from rebatch.study.records import FinishedRun, SeedRuns
from rebatch.study.store import Quantities, Result, RunsBySeed, Store
from rebatch.tasks.find import describe


@dataclass
class Quantified:
    """Numbers by name and seed, the ids of the runs that each seed's were made of, and seeds that lag behind.

    `stale`: seeds of which more runs have finished than their numbers were made of, and which cannot be made anew for
    lack of rows.
    """

    numbers: Quantities = field(default_factory=dict)
    made_of: RunsBySeed = field(default_factory=dict)
    stale: list[int] = field(default_factory=list)


def quantify(study: Study, plan: Plan, store: Store) -> Quantified:
    """What the study's `quantities` makes of each seed's runs: numbers by name and seed, those that are finite.

    Numbers that need rows which are not in the store stay as they are there, provided that all runs they were made of
    are still the plan's.

    Raises:
        RunError: the study's function failed; the runs are kept.
    """
    found = Quantified()
    if study.quantities is None:
        return found
    for seed, finished in _finished(plan, store).items():
        ids = sorted(plan.spec(plan_arm, seed).run_id for plan_arm in plan.design.arms if plan_arm.name in finished)
        runs = _seed_runs(plan, store, seed, finished)
        try:
            numbers = _measured(study, seed, runs)
            if not all(run.has_rows for run in runs.values()):
                numbers = _kept(plan, store, seed, ids)[0] | numbers
        except _RowsAbsentError:
            numbers, made_of = _kept(plan, store, seed, ids)
            found.stale += [seed] if made_of != ids else []
            ids = made_of
        for name, value in numbers.items():
            found.numbers.setdefault(name, {})[seed] = value
        if numbers:
            found.made_of[seed] = ids
    return found


def seed_runs(plan: Plan, store: Store) -> dict[int, SeedRuns]:
    """The finished runs of every seed by arm; candidates are not among them."""
    return {seed: _seed_runs(plan, store, seed, found) for seed, found in _finished(plan, store).items()}


class _RowsAbsentError(Exception):
    """A study's function asked for rows that are not in the store."""


class _AbsentRows(Sequence[Mapping[str, float]]):
    """Stands for the rows of an imported run: whoever looks at them learns that they are not here."""

    def __getitem__(self, _: Any) -> NoReturn:
        raise _RowsAbsentError

    def __len__(self) -> NoReturn:
        raise _RowsAbsentError


def _finished(plan: Plan, store: Store) -> dict[int, dict[str, Result]]:
    """Results by seed and arm."""
    found: dict[int, dict[str, Result]] = {}
    for arm in plan.design.arms:
        for seed, result in store.results(plan, arm.name).items() if not arm.candidate else ():
            found.setdefault(seed, {})[arm.name] = result
    return dict(sorted(found.items()))


def _seed_runs(plan: Plan, store: Store, seed: int, finished: Mapping[str, Result]) -> SeedRuns:
    runs = {}
    for arm in plan.design.arms:
        if (result := finished.get(arm.name)) is None:
            continue
        folder = store.run(plan.spec(arm, seed))
        runs[arm.name] = FinishedRun(
            recipe=arm.recipe,
            diverged=result.status == "diverged",
            metrics=_metrics(result),
            rows=folder.rows() if folder.has_rows else _AbsentRows(),
            has_rows=folder.has_rows,
        )
    return runs


def _metrics(result: Result) -> dict[str, float]:
    metrics = {name: math.nan if value is None else value for name, value in result.metrics.items()}
    test = {"test_accuracy": result.accuracy, "test_loss": result.test_loss}
    return metrics | {name: value for name, value in test.items() if value is not None}


def _measured(study: Study, seed: int, runs: SeedRuns) -> dict[str, float]:
    assert study.quantities is not None
    try:
        measured = study.quantities(runs)
    except _RowsAbsentError:
        raise
    except Exception as error:
        what = f"the quantities of study {study.name!r} failed on seed {seed}"
        raise RunError(f"{what}: {describe(error)}; the runs are kept") from error
    return {name: float(value) for name, value in measured.items() if math.isfinite(value)}


def _kept(plan: Plan, store: Store, seed: int, ids: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """The numbers of a seed that are in the store, and what they were made of; none where that was another run."""
    made_of = store.quantities_made_of(plan).get(seed, [])
    if not made_of or not set(made_of) <= set(ids):
        return {}, []
    return {name: by_seed[seed] for name, by_seed in store.quantities(plan).items() if seed in by_seed}, made_of
