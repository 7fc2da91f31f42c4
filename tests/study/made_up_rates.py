"""What a run of `rate-sweep` would leave if the default's own curves held: parabolas in ln lr around them."""

import math

from rebatch.knee import Knee
from rebatch.rules.move import Facts, Move
from rebatch.rules.rates import ADAM_EXPONENT, gain_lr
from rebatch.study.carried_rates import TENTHS
from rebatch.study.plan import Arm, Plan
from rebatch.study.studies.rebatch.rate_sweep import Point, middle_lr
from rebatch.tasks import find_task

HEIGHT, LOWEST = 0.02, 0.1


def noise_scale(plan: Plan) -> float:
    """The geometric middle of the batch sizes."""
    sizes = [Point.of(arm.name).batch_size for arm in plan.design.arms]
    return math.sqrt(min(sizes) * max(sizes))


def best_lr(arm: Arm, plan: Plan) -> float:
    """Twice the middle one at the noise scale, from there along the gain (SGD) or the guessed knee (AdamW)."""
    point, noise = Point.of(arm.name), noise_scale(plan)
    top = 2.0 * middle_lr(point.optimizer, find_task(plan.task))
    if point.optimizer == "adamw":
        return top * Knee(batch_size=noise / 2, exponent=ADAM_EXPONENT).factor(noise, point.batch_size)
    start = arm.recipe.replace(batch_size=round(noise), ghost_batch_size=None).with_lr(top)
    move = Move(start, point.batch_size, plan.examples_of(arm), Facts(noise_scale=noise))
    return gain_lr(start, move).optimizer.lr


def rate_metrics(arm: Arm, plan: Plan) -> dict[str, float]:
    """A loss, the length of the run, and a noise scale that does not drift."""
    loss = LOWEST + HEIGHT * math.log(arm.recipe.optimizer.lr / best_lr(arm, plan)) ** 2
    tenths = [tenth / TENTHS for tenth in range(1, TENTHS + 1)]
    noise = {f"noise_trace@{tenth:g}": noise_scale(plan) for tenth in tenths}
    noise |= {f"noise_square@{tenth:g}": 1.0 for tenth in tenths}
    return {"validation_loss": loss, "step": plan.steps(arm), "chance_loss": math.log(10), **noise}
