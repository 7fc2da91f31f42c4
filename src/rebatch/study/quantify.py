"""From the finished runs of a study to the numbers that its claims speak about, seed by seed."""

import math

from rebatch.errors import RunError
from rebatch.study.plan import Plan, Study
from rebatch.study.records import FinishedRun, SeedRuns
from rebatch.study.store import Quantities, Store
from rebatch.tasks.find import describe


def quantify(study: Study, plan: Plan, store: Store) -> Quantities:
    """What the study's `quantities` makes of each seed's runs: numbers by name and seed, those that are finite.

    Raises:
        RunError: the study's function failed; the runs are kept.
    """
    if study.quantities is None:
        return {}
    found: Quantities = {}
    for seed, runs in seed_runs(plan, store).items():
        try:
            measured = study.quantities(runs)
        except Exception as error:
            what = f"the quantities of study {study.name!r} failed on seed {seed}"
            raise RunError(f"{what}: {describe(error)}; the runs are kept") from error
        for name, value in measured.items():
            if math.isfinite(value):
                found.setdefault(name, {})[seed] = float(value)
    return found


def seed_runs(plan: Plan, store: Store) -> dict[int, SeedRuns]:
    """The finished runs of every seed by arm; candidates are not among them."""
    found: dict[int, dict[str, FinishedRun]] = {}
    for arm in plan.design.arms:
        if arm.candidate:
            continue
        for seed, result in store.results(plan, arm.name).items():
            metrics = {name: math.nan if value is None else value for name, value in result.metrics.items()}
            if result.accuracy is not None:
                metrics["test_accuracy"] = result.accuracy
            found.setdefault(seed, {})[arm.name] = FinishedRun(
                recipe=arm.recipe,
                diverged=result.status == "diverged",
                metrics=metrics,
                rows=store.run(plan.spec(arm, seed)).rows(),
            )
    return dict(sorted(found.items()))
