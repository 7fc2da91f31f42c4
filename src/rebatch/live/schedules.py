"""The schedule of a recipe that a torch scheduler follows, read off its rates in every step of the run.

A scheduler of torch is a function of how often it was stepped, a schedule one of progress. So its curve over the whole
run is written down, factor by factor, and the schedule is the first that gives these factors in all steps.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial

from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler

from rebatch.errors import RequestError
from rebatch.live.numbers import base_lr
from rebatch.optimizers import growing_factor, scheduled_factor
from rebatch.schedule import (
    Constant,
    Cosine,
    Linear,
    MultiStep,
    PiecewiseConstant,
    PiecewiseLinear,
    Schedule,
    lr_factor,
)

# Factors that differ by less are one. A warm-up from so little of the rate is one from zero.
ROUNDING, NOTHING = 1e-9, 0.01

_WAY_OUT = "pass what it does as schedule=... instead"


# A rate that stands still after so short a part of the run, or after one epoch of so many, is misread, and so is one
# that is as good as nothing for half of the run.
SOON, MANY_EPOCHS, NO_RATE = 0.01, 10, 1e-6


def schedule_of(scheduler: LRScheduler, total: int, steps_per_call: int = 1, epoch: int = 0) -> Schedule:
    """The schedule that `scheduler` follows over `total` steps, stepped after every `steps_per_call` of them.

    `epoch` is the number of steps of an epoch, where it is known. A linear warm-up that starts at no more than a
    hundredth of the rate is read as one from zero; all else is exact.

    Raises:
        RequestError: a scheduler whose curve is not known in advance, or that no schedule of a recipe follows, or one
            that was read as stepped after every step and has done all it does within an epoch.
    """
    ours = _ours(scheduler)
    if ours is not None:
        schedule, made_for = ours
        if made_for != total:
            raise RequestError(f"the scheduler was built for {made_for} steps, and the budget has {total}; {_WAY_OUT}")
        return schedule
    curves = {
        tuple(factor_at(scheduler, call, group) for call in range((total - 1) // steps_per_call + 1))
        for group, numbers in enumerate(scheduler.optimizer.param_groups)
        if base_lr(numbers) > 0
    }
    if len(curves) > 1:
        raise RequestError(
            f"{type(scheduler).__name__} moves the groups' rates apart, and a recipe has one; {_WAY_OUT}"
        )
    (calls,) = curves
    curve = [calls[step // steps_per_call] for step in range(total)]
    if steps_per_call == 1:
        _refuse_too_soon(curve, epoch, type(scheduler).__name__)
    found = fitted(curve)
    if found is None:
        raise RequestError(
            f"no schedule of a recipe follows {type(scheduler).__name__} over {total} steps; is it stepped after every "
            "epoch (stepped='epoch'), is the budget right, does the loader drop a partial last batch "
            f"(last_batch='drop')? Else {_WAY_OUT}"
        )
    return found


def _refuse_too_soon(curve: Sequence[float], epoch: int, name: str) -> None:
    """A rate that falls at the very beginning and stays there: counted in epochs, most likely, and read in steps."""
    total = len(curve)
    last = next((step for step in range(total - 1, 0, -1) if abs(curve[step] - curve[step - 1]) > ROUNDING), 0)
    soon = max(SOON * total, epoch if total >= MANY_EPOCHS * epoch else 0)
    stands = 0 < last < soon and curve[-1] < 1.0
    if stands or max(curve[total // 2 :]) < NO_RATE:
        where = f"at {curve[last]:.3g} of its start from step {last}" if stands else "as good as 0 from half"
        raise RequestError(
            f"{name}, stepped after every step, would leave the rate {where} of {total} on; if scheduler.step() is "
            f"called after every epoch say stepped='epoch', else {_WAY_OUT}"
        )


def fitted(curve: Sequence[float]) -> Schedule | None:
    """The first schedule that has the factors of `curve` in its steps, None where none has.

    >>> fitted([1.0, 0.75, 0.5, 0.25])
    Linear(warmup=0.0)
    """
    warmup = _warmup(curve)
    return next((schedule for schedule in _candidates(curve, warmup) if _follows(schedule, curve, warmup)), None)


def factor_at(scheduler: LRScheduler, call: int, group: int) -> float:
    """The factor on the base rate of a group after `call` calls of `scheduler.step()`, by torch's closed forms."""
    match scheduler:
        case torch_schedulers.SequentialLR():
            starts = [0, *scheduler._milestones]
            part = bisect_right(scheduler._milestones, call)
            return factor_at(scheduler._schedulers[part], call - starts[part], group)
        case torch_schedulers.LambdaLR():
            return float(scheduler.lr_lambdas[group](call))
        case torch_schedulers.MultiStepLR():
            return float(scheduler.gamma ** bisect_right(sorted(scheduler.milestones.elements()), call))
        case torch_schedulers.StepLR():
            return float(scheduler.gamma ** (call // scheduler.step_size))
        case torch_schedulers.ExponentialLR():
            return float(scheduler.gamma**call)
        case torch_schedulers.ConstantLR():
            return float(scheduler.factor if call < scheduler.total_iters else 1.0)
        case torch_schedulers.LinearLR():
            done = min(call / scheduler.total_iters, 1.0)
            return float(scheduler.start_factor + (scheduler.end_factor - scheduler.start_factor) * done)
        case torch_schedulers.PolynomialLR():
            return float((1.0 - min(call / scheduler.total_iters, 1.0)) ** scheduler.power)
        case torch_schedulers.CosineAnnealingLR():
            final = float(scheduler.eta_min / scheduler.base_lrs[group])
            return final + (1.0 - final) * (1.0 + math.cos(math.pi * call / scheduler.T_max)) / 2.0
        case _:
            raise RequestError(
                f"{type(scheduler).__name__} cannot be read: its curve over the run is not known here; {_WAY_OUT}, and "
                "the rate that was tuned as lr=..."
            )


def _ours(scheduler: LRScheduler) -> tuple[Schedule, int] | None:
    """(schedule, steps of the run) of a scheduler that `build_scheduler` made."""
    if not isinstance(scheduler, torch_schedulers.LambdaLR):
        return None
    function = scheduler.lr_lambdas[0]
    if isinstance(function, partial) and function.func is growing_factor:
        raise RequestError(
            "the scheduler goes with a batch_schedule, and an optimizer has one batch size; keep the recipe"
        )
    if isinstance(function, partial) and function.func is scheduled_factor:
        schedule, total, _ = function.args
        return schedule, total
    return None


def _warmup(curve: Sequence[float]) -> int:
    """The step that ends a rise from nothing; 0 where there is none."""
    if curve[0] > NOTHING:
        return 0
    return next((step for step in range(len(curve) - 1) if curve[step + 1] <= curve[step]), 0)


def _candidates(curve: Sequence[float], warmup: int) -> Iterator[Schedule]:
    total, rise = len(curve), warmup / len(curve)
    yield Constant(warmup=rise)
    jumps = [step for step in range(warmup + 1, total) if abs(curve[step] - curve[step - 1]) > ROUNDING]
    milestones = tuple(step / total for step in jumps)
    few = 0 < len(jumps) <= total / 2  # else it is a curve, and no stairs
    if few and curve[jumps[0]] < 1.0:
        yield MultiStep(milestones=milestones, factor=curve[jumps[0]], warmup=rise)
    yield Linear(warmup=rise)
    if 0.0 <= (final := _final(curve, warmup)) < math.inf:
        yield Cosine(final=final, warmup=rise)
    yield from sorted(_by_points(curve, warmup, jumps if few else []), key=lambda schedule: len(schedule.points))


def _by_points(
    curve: Sequence[float], warmup: int, jumps: Sequence[int]
) -> Iterator[PiecewiseConstant | PiecewiseLinear]:
    """Stairs and straight lines, where they need fewer points than half of the steps."""
    total = len(curve)
    if jumps:
        stairs = tuple((step / total, curve[step]) for step in jumps)
        start = (0.0, 1.0 if warmup else curve[0])
        yield PiecewiseConstant(points=(start, *stairs), warmup=warmup / total)
    corners = [step for step in range(1, total - 1) if abs(_bend(curve, step)) > ROUNDING]
    if len(corners) <= total / 2:
        ends = sorted({0, *corners, total - 1})
        yield PiecewiseLinear(points=tuple((step / total, curve[step]) for step in ends))


def _final(curve: Sequence[float], warmup: int) -> float:
    """Where a cosine that is at the last factor in the last step would end."""
    left = len(curve) - warmup
    still = (1.0 + math.cos(math.pi * (left - 1) / left)) / 2.0
    return round((curve[-1] - still) / (1.0 - still), 12) if still < 1.0 else math.inf


def _bend(curve: Sequence[float], step: int) -> float:
    return curve[step + 1] - 2.0 * curve[step] + curve[step - 1]


def _follows(schedule: Schedule, curve: Sequence[float], warmup: int) -> bool:
    return all(
        abs(lr_factor(schedule, step / len(curve)) - factor) <= (NOTHING if step < warmup else ROUNDING)
        for step, factor in enumerate(curve)
    )
