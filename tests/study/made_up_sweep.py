"""What a run of `page-sweep` would leave if the rate alone decided: broken above 10 times the task's, best at 1.5."""

import math

from rebatch.recipe import Sgd
from rebatch.stability import stable_lr_of
from rebatch.study.plan import Arm, Plan
from rebatch.study.studies.page_2018.common import mean_lr
from rebatch.study.studies.page_2018.sweep_point import Point
from rebatch.tasks import find_task

EDGE, BEST = 10.0, 1.5


def sweep_metrics(arm: Arm, plan: Plan) -> dict[str, float]:
    """Losses by the rate over the task's own, on the mean loss; the curvature is that of the edge."""
    point, optimizer = Point.of(arm.name), arm.recipe.optimizer
    assert isinstance(optimizer, Sgd)
    unit = mean_lr(find_task(plan.task).recipe)
    times = mean_lr(arm.recipe) / unit
    off = math.log2(times / BEST)
    found = {"validation_loss": 0.3 + 0.01 * off**2, "test_loss": 0.31 + 0.01 * off**2, "step": plan.steps(arm)}
    found |= {"last_epoch_loss": 3.0 if times > EDGE else 0.2, "chance_loss": math.log(10)}
    if "peak_curvature" in arm.finals:
        eigenvalue = stable_lr_of(optimizer, 1.0) / (EDGE * unit)
        found |= {"peak_eigenvalue": eigenvalue, "peak_lr": mean_lr(arm.recipe)}
    if "high_rate" in arm.finals:
        found["forgotten_at_high_rate"] = 0.4 if point.factor > 1 else 0.9
    return found
