"""The sweeps in a store: runs that differ in batch size, learning rate and seed alone."""

import math
from collections.abc import Iterator

import msgspec

from rebatch.errors import RequestError
from rebatch.plain import plain
from rebatch.recipe import Recipe
from rebatch.study.plan import Arm, Plan
from rebatch.study.store import Result, Store
from rebatch.sweeps import Run, Sweep

# A sweep over fewer batch sizes shows no knee.
LEAST_SIZES = 3
# Stands for all batch sizes: large enough for any ghosts, and for batches that shrink.
ANY_SIZE = 2**40


def stored_sweep(store: Store) -> Sweep:
    """The sweep of a store, by validation loss at the last step, a diverged run at inf.

    Runs belong together that share all of their recipe but batch size and learning rate. Budgets in epochs or examples
    are one; those in steps differ with the batch size, and so count as one too where examples are equal.

    Raises:
        RequestError: no such runs over three batch sizes, or several sets of them.
    """
    runs = [run for plan in store.plans() for run in _runs(plan, store)]
    sweeps = {name: sweep for name, sweep in Sweep(tuple(runs)).groups().items() if _sizes(sweep) >= LEAST_SIZES}
    if not sweeps:
        raise RequestError(
            f"{store.root} holds no sweep: runs over {LEAST_SIZES} or more batch sizes and several learning rates that "
            "share the rest of their recipe"
        )
    if len(sweeps) > 1:
        raise RequestError(
            f"{store.root} holds {len(sweeps)} sweeps, whose recipes differ in more than batch size and learning rate; "
            "give a table of one of them (rebatch study show DIR --json has the runs)"
        )
    return next(iter(sweeps.values()))


def _runs(plan: Plan, store: Store) -> Iterator[Run]:
    for arm in plan.design.arms:
        if arm.probe is not None or (arm.best_of and not arm.chosen):
            continue
        for seed, result in store.results(plan, arm.name).items():
            loss = _loss(result)
            if loss is not None:
                recipe = arm.recipe
                yield Run(
                    lr=recipe.optimizer.lr,
                    batch_size=recipe.batch_size,
                    loss=loss,
                    group=_rest(plan, arm, recipe),
                    seed=str(seed),
                )


def _loss(result: Result) -> float | None:
    return math.inf if result.status == "diverged" else result.metrics.get("validation_loss")


def _rest(plan: Plan, arm: Arm, recipe: Recipe) -> str:
    """What else a run is made of."""
    table = plain(recipe.with_lr(1.0).replace(batch_size=ANY_SIZE, tuned=None))
    budget = table["budget"]
    if "steps" in budget:
        table["budget"] = {"examples": budget["steps"] * recipe.batch_size}
    return msgspec.json.encode([plan.task, table, plain(arm.data), arm.task]).decode()


def _sizes(sweep: Sweep) -> int:
    return len({run.batch_size for run in sweep.runs})
