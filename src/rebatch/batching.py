"""How examples are cut: an epoch into steps, a batch into ghosts, ranks and micro-batches. Integers only."""

import math
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from rebatch.errors import RequestError
from rebatch.recipe import Epochs, Examples, LastBatch, Recipe, Steps
from rebatch.schedule import ROUNDING


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
    return examples // batch_size if last_batch == "drop" else math.ceil(examples / batch_size)


def total_steps(recipe: Recipe, examples: int) -> int:
    """Optimizer steps of the whole run on a training set of `examples`; at least 1."""
    if recipe.batch_schedule:
        return stretches(recipe, examples)[-1].stop
    match recipe.budget:
        case Steps(steps=steps):
            return steps
        case Examples(examples=budget):
            return max(1, round(budget / mean_batch_size(recipe, examples)))
        case Epochs(epochs=epochs):
            return max(1, round(epochs * steps_per_epoch(examples, recipe.batch_size, recipe.last_batch)))


def step_sizes(recipe: Recipe, examples: int) -> set[int]:
    """The numbers of examples that steps see."""
    if recipe.batch_schedule:
        found = stretches(recipe, examples)
        ends = {min(each.batch_size, examples - each.start(each.stop - 1)) for each in found}
        return ends | {each.batch_size for each in found if each.steps > 1}
    rest = examples % recipe.batch_size if recipe.last_batch == "keep" else 0
    return {recipe.batch_size, rest or recipe.batch_size}


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


def batch_bounds(step: int, examples: int, recipe: Recipe) -> tuple[int, int, int]:
    """Which examples step `step` sees: (epoch, start, stop), a slice of that epoch's order."""
    if recipe.batch_schedule:
        stretch = _stretch(step, examples, recipe)
        start = stretch.start(step)
        return stretch.epoch, start, min(start + stretch.batch_size, examples)
    epoch, position = divmod(step, steps_per_epoch(examples, recipe.batch_size, recipe.last_batch))
    start = position * recipe.batch_size
    return epoch, start, min(start + recipe.batch_size, examples)


def progress(step: int, examples: int, recipe: Recipe) -> float:
    """The part of the budget that lies before step `step`: of its steps, or with a batch schedule of its examples."""
    total = total_steps(recipe, examples)
    if not recipe.batch_schedule or step >= total:
        return min(step / total, 1.0)
    stretch = _stretch(step, examples, recipe)
    return _progress(recipe, examples, stretch.epoch, stretch.start(step), stretch.seen + stretch.taken(step))


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
def stretches(recipe: Recipe, examples: int) -> tuple[Stretch, ...]:
    """The run cut where an epoch ends or the batch size changes, for a recipe with a batch schedule.

    A batch size changes before the first step that starts at its progress or later; a partial last batch of an epoch is
    treated as ever, and a batch never reaches over the end of an epoch.
    """
    for size in recipe.batch_sizes:
        steps_per_epoch(examples, size, recipe.last_batch)
    found: list[Stretch] = []
    step = epoch = offset = seen = 0
    while (at := _progress(recipe, examples, epoch, offset, seen)) < 1.0 - ROUNDING:
        size, left = recipe.batch_size_at(at), examples - offset
        to_end = left // size if recipe.last_batch == "drop" else math.ceil(left / size)
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


def _stretch(step: int, examples: int, recipe: Recipe) -> Stretch:
    """The one that holds step `step`."""
    found = stretches(recipe, examples)
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


def ghost_sizes(examples: int, ghost_batch_size: int) -> list[int]:
    """Sizes of the contiguous ghosts of a batch of `examples` (Hoffer et al., 2017, Algorithm 1).

    A remainder is a ghost of its own; a remainder of one joins the ghost before it, since one example has no variance;
    a batch smaller than one ghost is one ghost.

    >>> ghost_sizes(10, 4), ghost_sizes(9, 4), ghost_sizes(3, 4)
    ([4, 4, 2], [4, 5], [3])
    """
    whole, rest = divmod(examples, ghost_batch_size)
    sizes = [ghost_batch_size] * whole
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def chunk_sizes(examples: int, chunks: int) -> list[int]:
    """Sizes of `chunks` contiguous ghosts as `torch.chunk` cuts them, which is what the paper's released code does.

    The last may be small, and there may be fewer; a last one of one example joins the ghost before it.

    >>> chunk_sizes(848, 32)[-2:], chunk_sizes(9, 4)
    ([27, 11], [3, 3, 3])
    """
    return ghost_sizes(examples, max(2, math.ceil(examples / chunks)))


def cut(sizes: list[int], parts: int) -> list[list[int]]:
    """Deal whole pieces, in order, to `parts` contiguous shares as even as whole pieces allow; some may be empty.

    >>> cut([4, 4, 4, 5], 3)
    [[4], [4, 4], [5]]
    """
    ends = [round(len(sizes) * part / parts) for part in range(parts + 1)]
    return [sizes[start:end] for start, end in pairwise(ends)]


def micro_batch_sizes(pieces: list[int], micro_batch_size: int) -> list[int]:
    """Join neighbouring pieces (ghosts, or single examples) into micro-batches of at most `micro_batch_size`.

    A piece is never split: one that is larger than `micro_batch_size` is a micro-batch of its own.

    >>> micro_batch_sizes([4, 4, 4, 5], 8)
    [8, 4, 5]
    """
    sizes: list[int] = []
    for piece in pieces:
        if sizes and sizes[-1] + piece <= micro_batch_size:
            sizes[-1] += piece
        else:
            sizes.append(piece)
    return sizes


def is_cut(recipe: Recipe, micro_batch_size: int | None, ranks: int) -> bool:
    """Whether some step of the run is computed in several pieces."""
    sizes = (micro_batch_size, recipe.piece_size)
    return ranks > 1 or any(size is not None and size < max(recipe.batch_sizes) for size in sizes)


def refuse_split_ghosts(micro_batch_size: int, ghost_batch_size: int) -> None:
    """A micro-batch holds whole ghosts.

    Raises:
        RequestError: `micro_batch_size` is not a positive multiple of `ghost_batch_size`.
    """
    if micro_batch_size < 1 or micro_batch_size % ghost_batch_size:
        raise RequestError(
            f"micro_batch_size must be a positive multiple of ghost_batch_size={ghost_batch_size}, got "
            f"{micro_batch_size}; try {max(ghost_batch_size, micro_batch_size - micro_batch_size % ghost_batch_size)}"
        )


def offsets(sizes: list[int]) -> list[tuple[int, int]]:
    """(start, stop) of consecutive pieces of the given sizes.

    >>> offsets([4, 5])
    [(0, 4), (4, 9)]
    """
    return list(pairwise(accumulate(sizes, initial=0)))


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


def examples_seen(step: int, examples: int, recipe: Recipe) -> int:
    """Examples that the first `step` steps of a run have seen, repeats counted."""
    if step == 0:
        return 0
    if recipe.batch_schedule:
        last = _stretch(step - 1, examples, recipe)
        return last.seen + min(last.start(step), examples) - last.offset
    epoch, _, stop = batch_bounds(step - 1, examples, recipe)
    return epoch * examples_per_epoch(recipe, examples) + stop
