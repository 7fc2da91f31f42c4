"""How a run is cut into epochs and steps, and where it stands; how a step is cut: `rebatch.cutting`. Integers only."""

import math
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import NamedTuple

from rebatch.errors import RequestError
from rebatch.recipe import Epochs, Examples, LastBatch, Recipe, Steps
from rebatch.schedule import ROUNDING


class Place(NamedTuple):
    """Where a run stands: steps taken, the epoch, where in its order of examples, examples seen with repeats."""

    step: int = 0
    epoch: int = 0
    offset: int = 0
    seen: int = 0


START = Place()
"""Where a run starts that does not go on from another's place."""


def steps_per_epoch(examples: int, batch_size: int, last_batch: LastBatch) -> int:
    """Optimizer steps in one pass over `examples`; a partial last batch counts where it is kept.

    >>> steps_per_epoch(1_297, 1_024, "keep"), steps_per_epoch(1_297, 1_024, "drop")
    (2, 1)
    """
    if batch_size > examples:
        raise RequestError(
            f"batch_size {batch_size} is larger than the training set of {examples} examples; "
            f"use a batch size of at most {examples}"
        )
    return _steps_in(examples, batch_size, last_batch)


def _steps_in(examples: int, batch_size: int, last_batch: LastBatch) -> int:
    return examples // batch_size if last_batch == "drop" else math.ceil(examples / batch_size)


def total_steps(recipe: Recipe, examples: int, start: Place = START) -> int:
    """Optimizer steps of the whole run on a training set of `examples`, those before `start` included; at least 1."""
    if recipe.batch_schedule:
        found = stretches(recipe, examples, start)
        return found[-1].stop if found else start.step
    whole = _budgeted_steps(recipe, examples)
    if start == START:
        return whole
    most = whole + steps_per_epoch(examples, recipe.batch_size, recipe.last_batch) + 1
    left = bisect_left(
        range(most), whole - ROUNDING, key=lambda steps: _clock(start.step + steps, examples, recipe, start)
    )
    return start.step + left


def _budgeted_steps(recipe: Recipe, examples: int) -> int:
    """Steps of a run with one batch size from its start to its end."""
    match recipe.budget:
        case Steps(steps=steps):
            return steps
        case Examples(examples=budget):
            return max(1, round(budget / mean_batch_size(recipe, examples)))
        case Epochs(epochs=epochs):
            return max(1, round(epochs * steps_per_epoch(examples, recipe.batch_size, recipe.last_batch)))


def step_sizes(recipe: Recipe, examples: int, start: Place = START) -> set[int]:
    """The numbers of examples that steps see."""
    if recipe.batch_schedule:
        found = stretches(recipe, examples, start)
        ends = {min(each.batch_size, examples - each.start(each.stop - 1)) for each in found}
        return ends | {each.batch_size for each in found if each.steps > 1}
    rests = {(examples - offset) % recipe.batch_size for offset in (0, start.offset)}
    return {recipe.batch_size} | (rests - {0} if recipe.last_batch == "keep" else set())


def steps_of_last_epoch(recipe: Recipe, examples: int) -> int:
    """As many as an epoch has, or with a batch schedule the one that the run ends in."""
    if not recipe.batch_schedule:
        return steps_per_epoch(examples, recipe.batch_size, recipe.last_batch)
    found = stretches(recipe, examples)
    return sum(each.steps for each in found if each.epoch == found[-1].epoch)


def examples_per_epoch(recipe: Recipe, examples: int) -> int:
    """Examples that one epoch sees: all of them, less the partial last batch where that is dropped."""
    return examples - (examples % recipe.batch_size if recipe.last_batch == "drop" else 0)


def mean_batch_size(recipe: Recipe, examples: int) -> float:
    """Examples per step, averaged over an epoch: less than `batch_size` where a partial last batch is kept."""
    return examples_per_epoch(recipe, examples) / steps_per_epoch(examples, recipe.batch_size, recipe.last_batch)


def batch_bounds(step: int, examples: int, recipe: Recipe, start: Place = START) -> tuple[int, int, int]:
    """Which examples step `step` sees: (epoch, start, stop), a slice of that epoch's order."""
    at = place(step, examples, recipe, start)
    size = _stretch(step, examples, recipe, start).batch_size if recipe.batch_schedule else recipe.batch_size
    return at.epoch, at.offset, min(at.offset + size, examples)


def place(step: int, examples: int, recipe: Recipe, start: Place = START) -> Place:
    """Where a run stands before step `step`. From `start` on, the rest of its epoch is cut as the epochs after it."""
    if recipe.batch_schedule:
        stretch = _stretch(step, examples, recipe, start)
        offset = min(stretch.start(step), examples)
        return Place(step, stretch.epoch, offset, stretch.seen + offset - stretch.offset)
    size, taken = recipe.batch_size, step - start.step
    per_epoch = steps_per_epoch(examples, size, recipe.last_batch)
    rest = _steps_in(examples - start.offset, size, recipe.last_batch) if start.offset else 0
    if taken < rest:
        return Place(step, start.epoch, start.offset + taken * size, start.seen + taken * size)
    epochs, position = divmod(taken - rest, per_epoch)
    in_rest = min(rest * size, examples - start.offset)
    seen = start.seen + in_rest + epochs * examples_per_epoch(recipe, examples) + position * size
    return Place(step, start.epoch + (start.offset > 0) + epochs, position * size, seen)


def progress(step: int, examples: int, recipe: Recipe, start: Place = START) -> float:
    """The part of the budget that lies before step `step`: of its steps, or with a batch schedule of its examples.

    From `start` on, steps are counted as in a run by `recipe` alone, whose place in the order of examples it has.
    """
    if not recipe.batch_schedule:
        return min(_clock(step, examples, recipe, start) / _budgeted_steps(recipe, examples), 1.0)
    if step >= total_steps(recipe, examples, start):
        return 1.0
    at = place(step, examples, recipe, start)
    return _progress(recipe, examples, at.epoch, at.offset, at.seen)


def _clock(step: int, examples: int, recipe: Recipe, start: Place) -> float:
    """The steps that a run by `recipe` alone takes to the place before step `step`; no whole number between two."""
    at, ahead = place(step, examples, recipe, start), 0.0
    if not isinstance(recipe.budget, Epochs):  # an epoch may have dropped more examples, or fewer, than ours do
        more = start.seen - start.epoch * examples_per_epoch(recipe, examples) - start.offset
        ahead = more / mean_batch_size(recipe, examples)
    per_epoch = steps_per_epoch(examples, recipe.batch_size, recipe.last_batch)
    return at.epoch * per_epoch + at.offset / recipe.batch_size + ahead


class Stretch(NamedTuple):
    """Steps of one batch size within one epoch.

    `first` is the number of the first of `steps` steps, which starts at `offset` of the epoch's order, `seen` examples
    into the run.
    """

    first: int
    steps: int
    epoch: int
    offset: int
    batch_size: int
    seen: int

    @property
    def stop(self) -> int:
        """The number of the step after its last."""
        return self.first + self.steps

    def taken(self, step: int) -> int:
        """Examples of this stretch before step `step` of the run."""
        return (step - self.first) * self.batch_size

    def start(self, step: int) -> int:
        """Where in the epoch's order step `step` of the run starts."""
        return self.offset + self.taken(step)


@lru_cache(maxsize=64)
def stretches(recipe: Recipe, examples: int, start: Place = START) -> tuple[Stretch, ...]:
    """The run from `start` on, cut where an epoch ends or the batch size changes, by a recipe with a batch schedule.

    A batch size changes before the first step that starts at its progress or later; a partial last batch of an epoch is
    treated as ever, and a batch never reaches over the end of an epoch.
    """
    for size in recipe.batch_sizes:
        steps_per_epoch(examples, size, recipe.last_batch)
    found: list[Stretch] = []
    step, epoch, offset, seen = start
    while (at := _progress(recipe, examples, epoch, offset, seen)) < 1.0 - ROUNDING:
        size, left = recipe.batch_size_at(at), examples - offset
        to_end = _steps_in(left, size, recipe.last_batch)
        if to_end == 0:  # the rest is dropped
            epoch, offset = epoch + 1, 0
            continue
        steps = min(to_end, _steps_to_change(recipe, examples, at, size))
        found.append(Stretch(step, steps, epoch, offset, size, seen))
        taken = min(steps * size, left)
        step, seen, offset = step + steps, seen + taken, offset + taken
        if offset == examples:
            epoch, offset = epoch + 1, 0
    return tuple(found)


def _stretch(step: int, examples: int, recipe: Recipe, start: Place) -> Stretch:
    """The one that holds step `step`, the last one after the run's end."""
    found = stretches(recipe, examples, start)
    return found[bisect_right(found, step, key=lambda stretch: stretch.first) - 1]


def _progress(recipe: Recipe, examples: int, epoch: int, offset: int, seen: int) -> float:
    """The part of the budget's examples before that place."""
    match recipe.budget:
        case Epochs(epochs=epochs):
            return (epoch + offset / examples) / epochs
        case Examples(examples=budget):
            return seen / budget
        case Steps():
            raise AssertionError("a recipe with a batch schedule has no budget in steps")


def _steps_to_change(recipe: Recipe, examples: int, at: float, size: int) -> int:
    """Steps of `size` examples from progress `at` until the batch size changes, or to the end; at least 1."""
    until = next((start for start, _ in recipe.batch_schedule if start > at + ROUNDING), 1.0)
    budget = recipe.budget
    assert not isinstance(budget, Steps)
    whole = budget.epochs * examples if isinstance(budget, Epochs) else budget.examples
    return max(1, math.ceil((until - at) * whole / size - 1e-9))


def measured_steps(total: int, evaluations: int) -> tuple[list[int], list[int]]:
    """At which numbers of finished steps a run is looked at: (log-spaced, evenly spaced), the last step in both.

    The log-spaced ones (about four an octave) are for cheap quantities such as the weight distance; the evenly spaced
    ones are for evaluation on the validation set.

    >>> measured_steps(8, 2)
    ([1, 2, 3, 4, 5, 6, 7, 8], [4, 8])
    """
    octaves = math.log2(total) if total > 1 else 0.0
    marks = math.ceil(4 * octaves)
    log_spaced = {min(total, round(2 ** (mark / 4))) for mark in range(marks + 1)} | {total}
    even = {max(1, round(total * part / evaluations)) for part in range(1, evaluations + 1)}
    return sorted(log_spaced), sorted(even)


def row_steps(recipe: Recipe, examples: int, evaluations: int, start: Place = START) -> tuple[list[int], list[int]]:
    """`measured_steps` of a run; from `start` on, where a run by `recipe` alone has them or at the next step's end."""
    marks = measured_steps(total_steps(recipe, examples), evaluations)
    if start == START:
        return marks
    steps = range(start.step, total_steps(recipe, examples, start) + 1)

    def reached(mark: int) -> int:
        goal = progress(mark, examples, recipe) - ROUNDING
        return start.step + bisect_left(steps, goal, key=lambda step: progress(step, examples, recipe, start))

    log_spaced, even = (sorted({reached(mark) for mark in each} - {start.step}) for each in marks)
    return log_spaced, even


def examples_seen(step: int, examples: int, recipe: Recipe, start: Place = START) -> int:
    """Examples that the first `step` steps of a run have seen, repeats counted."""
    return place(step, examples, recipe, start).seen
