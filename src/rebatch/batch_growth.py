"""A batch that grows instead of a learning rate that falls (Smith et al., 2018, arXiv 1711.00489).

Where a schedule would multiply the rate by a < 1, SGD keeps the rate and divides the batch size by a: lr/B, and so the
noise, goes the same way. Adam-like optimizers, whose noise goes with lr/sqrt(B), multiply the rate by sqrt(a) and
divide the batch size by a (Seesaw, 2025, arXiv 2510.14717). What is saved are steps: the examples stay. Up to the
critical batch size that costs nothing; from there on the rate falls as it would have.
"""

import math
from itertools import pairwise

from rebatch.errors import RequestError
from rebatch.recipe import Budget, Examples, Recipe, Sgd, Steps
from rebatch.schedule import (
    Constant,
    Cosine,
    Feedback,
    Linear,
    MultiStep,
    PiecewiseConstant,
    PiecewiseLinear,
    Schedule,
    lr_factor,
)

# A smooth schedule becomes a staircase of batches, each twice the one before, and straight lines of so many pieces
# between two of them.
PIECES = 32
BISECTIONS = 60


def grow_batch(recipe: Recipe, *, most: int) -> Recipe:
    """The recipe with a batch that grows to at most `most` examples in place of its learning rate's decay.

    At progress t, with f(t) the rate's factor and g(t) the batch's, g = 1/f as far as `most` and whole stairs allow;
    the rate's factor becomes f g for SGD and f sqrt(g) for others.

    >>> from rebatch.recipe import Epochs
    >>> steps = MultiStep(milestones=(0.5, 0.75), factor=0.2)
    >>> tuned = Recipe(batch_size=64, optimizer=Sgd(lr=0.1), budget=Epochs(20), schedule=steps)
    >>> grown = grow_batch(tuned, most=1000)
    >>> grown.batch_sizes, grown.schedule.points  # 25 x 64 = 1,600 is more than 1,000, so the rate falls by the rest
    ((64, 320, 1000), ((0.5, 1.0), (0.75, 0.625)))

    Raises:
        RequestError: a schedule that does not fall, or that listens to the run; a recipe whose batch grows already.
    """
    if recipe.batch_schedule:
        raise RequestError("the recipe's batch_schedule is set: its batch grows already")
    if recipe.loss_reduction == "sum":
        raise RequestError(
            "a summed gradient grows with the batch, and its weight decay would have to: write the recipe for averaged "
            "losses first (--loss-reduction mean)"
        )
    if most <= recipe.batch_size:
        raise RequestError(f"the batch can only grow: most must be above batch_size {recipe.batch_size}, got {most}")
    jumps = _jumps(recipe.schedule)
    stairs = _stairs(recipe, most) if jumps is None else jumps
    limit = most / recipe.batch_size
    growth = [(start, max(1.0, min(1.0 / factor, limit)) if factor > 0.0 else limit) for start, factor in stairs]
    if jumps is None and limit < 2.0:
        raise RequestError(
            f"under a smooth schedule the batch grows by doublings, and none fits between {recipe.batch_size} and "
            f"{most}; allow {2 * recipe.batch_size} or more"
        )
    if not growth or max(g for _, g in growth) <= 1.0:
        kind = recipe.schedule.__struct_config__.tag
        raise RequestError(f"the batch grows where the learning rate falls, and schedule.type {kind!r} does not fall")
    shape = _pieces(recipe, growth) if jumps is None else _steps(recipe, stairs, growth)
    budget = lasting_budget(recipe)
    return recipe.replace(schedule=shape, batch_schedule=tuple(_merged(growth)), budget=budget, tuned=None)


def lasting_budget(recipe: Recipe) -> Budget:
    """The recipe's budget as one that says how far a run is while its batch changes: no steps, whose size changes."""
    budget = recipe.budget
    return Examples(budget.steps * recipe.batch_size) if isinstance(budget, Steps) else budget


def _jumps(schedule: Schedule) -> list[tuple[float, float]] | None:
    """(progress, factor) of a schedule that is constant between jumps; None for a smooth one."""
    match schedule:
        case MultiStep(milestones=milestones, factor=factor):
            return [(start, factor ** (place + 1)) for place, start in enumerate(milestones)]
        case PiecewiseConstant(points=points):
            return list(points)
        case Constant():
            return []
        case Cosine() | Linear() | PiecewiseLinear():
            return None
        case _:
            assert isinstance(schedule, Feedback)
            kind = schedule.__struct_config__.tag
            raise RequestError(f"a growing batch needs a schedule that is a function of progress, got {kind!r}")


def _stairs(recipe: Recipe, most: int) -> list[tuple[float, float]]:
    """Where a smooth schedule's factor has fallen to 1/2, 1/4, ..., as far as the batch may grow."""
    octaves = math.floor(math.log2(most / recipe.batch_size) + 1e-9)
    found = []
    for octave in range(1, octaves + 1):
        start = _reached(recipe.schedule, 2.0**-octave)
        if start is not None and start < 1.0:
            found.append((start, 2.0**-octave))
    return found


def _reached(schedule: Schedule, level: float) -> float | None:
    """The progress after the warm-up at which a falling factor comes down to `level`."""
    low, high = _peak(schedule), 1.0
    if lr_factor(schedule, high) > level or lr_factor(schedule, low) < level:
        return None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if lr_factor(schedule, middle) > level else (low, middle)
    return high


def _peak(schedule: Schedule) -> float:
    """From where on the rate may fall: the end of the warm-up, or the last of the highest points."""
    if not isinstance(schedule, PiecewiseLinear):
        return schedule.warmup
    highest = max(factor for _, factor in schedule.points)
    return max(schedule.warmup, *(at for at, factor in schedule.points if factor == highest))


def _rate(recipe: Recipe, factor: float, growth: float) -> float:
    return factor * (growth if isinstance(recipe.optimizer, Sgd) else math.sqrt(growth))


def _steps(recipe: Recipe, stairs: list[tuple[float, float]], growth: list[tuple[float, float]]) -> Schedule:
    rates = [(start, _rate(recipe, factor, g)) for (start, factor), (_, g) in zip(stairs, growth, strict=True)]
    if all(math.isclose(rate, 1.0, rel_tol=1e-12) for _, rate in rates):
        return Constant(warmup=recipe.schedule.warmup)
    return PiecewiseConstant(
        points=tuple((start, round(rate, 12)) for start, rate in rates), warmup=recipe.schedule.warmup
    )


def _pieces(recipe: Recipe, growth: list[tuple[float, float]]) -> PiecewiseLinear:
    """The smooth schedule times what the batch has grown by, with a steep line at each stair."""
    points = _rise(recipe.schedule)
    starts = [_peak(recipe.schedule), *(start for start, _ in growth), 1.0]
    for place, (low, high) in enumerate(pairwise(starts)):
        g = growth[place - 1][1] if place else 1.0
        for piece in range(PIECES + 1):
            at = low + (high - low) * piece / PIECES
            shift = 1e-9 if piece == PIECES and place < len(growth) else 0.0  # just before the next stair
            points.append((at - shift, _rate(recipe, lr_factor(recipe.schedule, at), g)))
    return PiecewiseLinear(points=tuple(points), warmup=recipe.schedule.warmup)


def _rise(schedule: Schedule) -> list[tuple[float, float]]:
    """The points of a piecewise schedule before its peak."""
    if not isinstance(schedule, PiecewiseLinear):
        return []
    return [(at, factor) for at, factor in schedule.points if at < _peak(schedule)]


def _merged(growth: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without stairs that change nothing, where `most` is reached."""
    found: list[tuple[float, float]] = []
    for start, factor in growth:
        before = found[-1][1] if found else 1.0
        if not math.isclose(factor, before, rel_tol=1e-12):
            found.append((start, factor))
    return found
