"""`page-sweep` (experiment A): where does the learning rate break training, where is it best, and what limits it?

Training and held-out loss over a learning-rate factor f, for subsets of n examples and several batch sizes B; the rate
is f * B/B_0 times the task's schedule, B_0 its own batch size. Two modes: equal epochs, and equal updates (as many as
the whole set takes), because small sets might want a higher rate for their few updates alone.

A rate is broken whose last epoch's training loss is not finite, above that of a guess, or over twice that at the next
smaller factor. The edge lies between the largest factor that holds and the smallest that does not; the best factor is
the vertex of a parabola in log2 f through the lowest validation loss and its neighbours. Test losses are only shown.

The source leaves open, and here it is so: the schedule is the task's, times f; the loss is that after the last step
(`best_over_last` says how far the best rate moves by the best of a run's evaluations instead); f = 1 at the larger
batch is B/B_0 times the rate, without the 10 % that the author's run at 512 adds (`optimum_shift_from_x1.1` counts
from there).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from rebatch.batching import steps_per_epoch, total_steps
from rebatch.recipe import Recipe, Steps
from rebatch.study.plan import Arm, Design, Scale, Study, TrainingSet
from rebatch.study.studies.hoffer_2017.common import shortened
from rebatch.study.studies.page_2018.common import KAPPA, PUBLISHED_TASK, moved
from rebatch.study.studies.page_2018.sweep_claims import sweep_claims
from rebatch.study.studies.page_2018.sweep_numbers import quantities
from rebatch.study.studies.page_2018.sweep_point import Point
from rebatch.tasks.task import Task

# Forgetting within an epoch is seen in at least so many steps (`measure.forgetting.LEAST_BATCHES`).
EPOCH_STEPS = 8

# Evaluations of a run: the last one chooses, the others are for `best_over_last`.
EVALUATIONS = 4

# The edge is refined by quarter octaves within the octave that the source names for its own task (f = 8 and f = 2 are
# the first that break).
REFINED: Mapping[int, tuple[float, float]] = {128: (4.0, 8.0), 512: (1.0, 2.0)}


@dataclass(frozen=True)
class _Size:
    """How much a scale runs.

    `budget` and `updates` are shares of the reference budget, with equal epochs and with equal updates; `parts` what
    the training set is divided by, `kappas` and `updates_kappas` batch sizes over the task's own in the two modes.
    """

    budget: float
    updates: float
    seeds: int
    lowest: float
    parts: tuple[int, ...]
    kappas: tuple[float, ...] = (1, KAPPA)
    updates_kappas: tuple[float, ...] = (1,)


# `cpu`: 12 epochs of 45,000 examples take `cifar10/proxy` 4 minutes of one core, and there are 4 hours of them.
_SIZES: dict[Scale, _Size] = {
    "quick": _Size(1 / 12, 1 / 12, seeds=2, lowest=0.5, parts=(4, 8, 16)),
    "cpu": _Size(2 / 3, 1 / 4, seeds=3, lowest=0.25, parts=(1, 4, 16)),
    "paper": _Size(
        1, 1, seeds=3, lowest=0.125, parts=(1, 2, 4, 8), kappas=(1 / 4, 1, KAPPA, 16), updates_kappas=(1, KAPPA)
    ),
}
_DIGITS: dict[Scale, _Size] = {
    "quick": _Size(1, 1, seeds=3, lowest=0.5, parts=(1, 2, 4)),
    "cpu": _Size(1, 1, seeds=20, lowest=0.25, parts=(1, 2, 4)),
    "paper": _Size(1, 1, seeds=20, lowest=0.25, parts=(1, 2, 4), kappas=(1 / 4, 1, KAPPA), updates_kappas=(1, KAPPA)),
}

# The largest factor at the task's own batch size; at others the factor of as large a rate, but at least the second.
_REACH = (16.0, 8.0)
_DIGITS_REACH = (64.0, 64.0)


def sweep_design(task: Task, scale: Scale) -> Design:
    """Every factor at every subset size and batch size, with equal epochs; fewer batch sizes with equal updates."""
    size = (_DIGITS if _is_digits(task) else _SIZES)[scale]
    sets = [task.train // part for part in size.parts]
    arms = [_arm(point, task, size) for point in _points(task, size, sets, scale)]
    shares = [size.budget, size.updates]
    if min(shares) < 1:
        whole = f"every arm {100 * shares[0]:.3g} % of the reference budget, with equal updates {100 * shares[1]:.3g} %"
        arms[0] = msgspec.structs.replace(arms[0], note=whole)
    return Design(
        arms=tuple(arms),
        claims=sweep_claims(task, sets, size.seeds, whole=size.budget == 1),
        seeds=size.seeds,
        evaluations=EVALUATIONS,
    )


def factors(batch_size: int, task: Task, lowest: float, *, refined: bool = False) -> list[float]:
    """The factors at a batch size, by octaves; around the published edge by quarter octaves.

    >>> from rebatch.tasks import TASKS
    >>> factors(512, TASKS["cifar10/page-resnet18"], 0.5, refined=True)
    [0.5, 1.0, 1.189, 1.414, 1.682, 2.0, 4.0, 8.0]
    """
    reach, least = _DIGITS_REACH if _is_digits(task) else _REACH
    highest = max(reach * task.recipe.batch_size / batch_size, least)
    octaves = {2.0**power for power in range(round(math.log2(lowest)), math.floor(math.log2(highest)) + 1)}
    low, high = REFINED.get(batch_size, (1.0, 1.0)) if refined else (1.0, 1.0)
    quarters = {round(low * 2 ** (quarter / 4), 3) for quarter in range(1, 4) if high > low}
    return sorted(octaves | quarters)


def _points(task: Task, size: _Size, sets: Sequence[int], scale: Scale) -> Iterator[Point]:
    refined = scale == "paper" and task.name == PUBLISHED_TASK
    for equal_updates, kappas in ((False, size.kappas), (True, size.updates_kappas)):
        for batch_size in (round(kappa * task.recipe.batch_size) for kappa in kappas):
            for examples in (count for count in sets if count >= batch_size):
                if equal_updates and examples == task.train and size.updates == size.budget:
                    continue  # one run for both modes
                for factor in factors(batch_size, task, size.lowest, refined=refined):
                    yield Point(equal_updates, batch_size, examples, factor)


def _arm(point: Point, task: Task, size: _Size) -> Arm:
    base = moved(task.recipe, point.batch_size)
    recipe = base.with_lr(base.optimizer.lr * point.factor)
    recipe = recipe.replace(budget=shortened(recipe.budget, size.updates if point.equal_updates else size.budget))
    if point.equal_updates:
        recipe = recipe.replace(budget=Steps(total_steps(recipe, task.train)))
    data = TrainingSet(examples=None if point.examples == task.train else point.examples)
    return Arm(name=point.name, recipe=recipe, finals=_finals(point, recipe, task, size), data=data)


def _finals(point: Point, recipe: Recipe, task: Task, size: _Size) -> tuple[str, ...]:
    """With equal epochs how soon a batch is forgotten, and on the largest set the curvature."""
    if point.equal_updates:
        return ("last_epoch",)
    seen = steps_per_epoch(point.examples, point.batch_size, recipe.last_batch) >= EPOCH_STEPS
    curved = point.examples == task.train // min(size.parts) and point.factor >= 1.0
    return ("last_epoch", *(["high_rate"] if seen else []), *(["peak_curvature"] if curved else []))


def _is_digits(task: Task) -> bool:
    return task.name.startswith("digits/")


SWEEP = Study(
    name="page-sweep",
    title="Where does the learning rate break training, where is it best, and what limits it?",
    source="Page 2018, How to train your ResNet 2: mini-batches, experiment A",
    design=sweep_design,
    quantities=quantities,
)
