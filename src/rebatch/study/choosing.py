"""Which of several candidates is best on the validation split? Fills in the arms of a plan that wait for the answer."""

from collections.abc import Collection
from statistics import fmean

import msgspec

from rebatch.study.plan import Arm, Plan
from rebatch.study.store import Store


def choose(plan: Plan, store: Store) -> Plan:
    """`plan` with the recipe of every waiting arm whose candidates have all run; others go on waiting."""
    arms = tuple(_chosen(arm, plan, store) for arm in plan.design.arms)
    return msgspec.structs.replace(plan, design=msgspec.structs.replace(plan.design, arms=arms))


def with_candidates(plan: Plan, names: Collection[str]) -> set[str]:
    """The named arms, and those that they are chosen from."""
    return {*names, *(other for arm in plan.design.arms if arm.name in names for other in arm.best_of)}


def validation_accuracy(arm: Arm, plan: Plan, store: Store) -> float | None:
    """Mean validation accuracy at the last step over an arm's seeds in percent, a diverged run at chance.

    None unless all of its runs have finished.
    """
    results = store.results(plan, arm.name)
    if len(results) < len(plan.seeds(arm)) or not results:
        return None
    found = [
        plan.chance if result.status == "diverged" else result.metrics.get("validation_accuracy")
        for result in results.values()
    ]
    known = [value for value in found if value is not None]
    return fmean(known) if len(known) == len(found) else None


def edge_of_grid(arm: Arm, plan: Plan) -> tuple[float, float] | None:
    """The smallest and the largest learning rate tried, where that of `arm` is either: the best may lie beyond.

    The grid are the candidates that differ from the chosen one in nothing but the rate.
    """
    candidates = {other.name: other.recipe for other in plan.design.arms if other.name in arm.best_of}
    if arm.chosen not in candidates:
        return None
    chosen = candidates[arm.chosen]
    rate = chosen.optimizer.lr
    grid = [recipe.optimizer.lr for recipe in candidates.values() if recipe.with_lr(rate) == chosen]
    low, high = min(grid), max(grid)
    return (low, high) if low < high and rate in (low, high) else None


def _chosen(arm: Arm, plan: Plan, store: Store) -> Arm:
    if not arm.best_of or arm.chosen:
        return arm
    candidates = {other.name: other for other in plan.design.arms if other.name in arm.best_of}
    scores = {name: validation_accuracy(candidates[name], plan, store) for name in arm.best_of}
    if any(score is None for score in scores.values()):
        return arm
    best = max(arm.best_of, key=lambda name: scores[name] or 0.0)
    return msgspec.structs.replace(arm, chosen=best, recipe=candidates[best].recipe)
