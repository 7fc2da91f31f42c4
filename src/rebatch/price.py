"""What a transferred recipe costs against the one it came from: steps, examples, epochs."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeVar

import msgspec

from rebatch.batching import examples_seen, total_steps
from rebatch.bend import BEND
from rebatch.interval import Interval
from rebatch.knee import Knee
from rebatch.recipe import Epochs, Examples, Recipe, Steps

Value = TypeVar("Value")
# From which share of a run's examples on it has which batch size.
Sizes = Sequence[tuple[float, float]]


class Cost(msgspec.Struct, frozen=True):
    """What one run takes on a training set of known size."""

    steps: int
    examples: int
    epochs: float


class Price(msgspec.Struct, frozen=True):
    """New against old. `before` and `after` need the number of training examples; the factors do not."""

    before: Cost | None
    after: Cost | None
    steps_factor: float
    examples_factor: float


class Expected(msgspec.Struct, frozen=True):
    """What the same loss is expected to take at the new batch size, each at its best learning rate, against the old."""

    steps_factor: Interval
    examples_factor: Interval


class Stage(NamedTuple):
    """A share of a run's examples: its batch size, the new one, and the critical batch size there."""

    share: float
    batch_size: float
    new: float
    critical: Interval


def expected(batch_size: int, new: int, critical: Interval) -> Expected:
    """Steps and examples to the same loss, from the critical batch size and its bounds.

    Args:
        critical: B_c = E_min / S_min, in examples; the noise scale may stand for it.

    >>> known = Interval(300.0, 100.0, 900.0)
    >>> round(expected(100, 400, known).examples_factor.estimate, 3)
    1.673
    """
    return expected_along([Stage(1.0, batch_size, new, critical)])


def expected_along(run: Sequence[Stage]) -> Expected:
    """The same of a run whose critical batch size drifts, or whose batch grows.

    Each stage makes the same progress with its own factor on examples, so that with shares w_i of the examples, which
    add up to 1, and batch sizes B_i before and B_i' after

        E'/E = sum_i w_i (E'/E)_i,    S'/S = sum_i (w_i/B_i') (E'/E)_i / sum_i w_i/B_i.

    Bounds are those of all stages at once: too wide rather than too narrow where stages err apart.
    """
    shares = [stage.share for stage in run]
    before = math.fsum(stage.share / stage.batch_size for stage in run)
    return Expected(
        _sum_of_factors([stage.share / (stage.new * before) for stage in run], run), _sum_of_factors(shares, run)
    )


def _sum_of_factors(weights: Sequence[float], run: Sequence[Stage]) -> Interval:
    """Of the stages' factors on examples."""

    def total(end: str) -> float:
        factors = (examples_factor(stage.batch_size, stage.new, getattr(stage.critical, end)) for stage in run)
        return math.fsum(weight * factor for weight, factor in zip(weights, factors, strict=True))

    estimate, *bounds = (total(end) for end in ("estimate", "low", "high"))
    return Interval(estimate, min(estimate, *bounds), max(estimate, *bounds))


def examples_factor(batch_size: float, new: float, critical: float) -> float:
    """E'/E = kappa ((1 + (B_c/B')^p) / (1 + (B_c/B)^p))^(1/p): 1 far below B_c, kappa far above.

    >>> examples_factor(100, 400, 1e9) < 1.001, examples_factor(100, 400, 0.0)
    (True, 4.0)
    """
    kappa = new / batch_size
    return kappa if critical == 0.0 else kappa / steps_worth(critical).factor(batch_size, new)


def steps_worth(critical: float) -> Knee:
    """What a step of B examples is worth, up to a factor: it bends as a best rate does, with a = 1."""
    return Knee(batch_size=critical, exponent=1.0, bend=BEND)


def stages(before: Sizes, after: Sizes, course: Sequence[tuple[float, Interval]]) -> list[Stage]:
    """A run, cut where either batch size changes and where the critical batch size does.

    Args:
        course: shares of the run's examples, which add up to 1, with the critical batch size in each.

    >>> found = stages([(0.0, 8)], [(0.0, 8), (0.5, 32)], [(0.75, Interval(9, 9, 9)), (0.25, Interval(5, 5, 5))])
    >>> [(stage.share, stage.new, stage.critical.estimate) for stage in found]
    [(0.5, 8, 9), (0.25, 32, 9), (0.25, 32, 5)]
    """
    starts = [0.0, *accumulate(share for share, _ in course)][:-1]
    critical = [(start, each) for start, (_, each) in zip(starts, course, strict=True)]
    cuts = sorted({*starts, *(start for start, _ in (*before, *after)), 1.0})
    return [
        Stage(stop - start, _at(start, before), _at(start, after), _at(start, critical))
        for start, stop in pairwise(cuts)
    ]


def sizes(recipe: Recipe) -> list[tuple[float, float]]:
    """From which progress on a run has which batch size."""
    starts = [0.0, *(start for start, _ in recipe.batch_schedule)]
    return list(zip(starts, map(float, recipe.batch_sizes), strict=True))


def _at(progress: float, values: Sequence[tuple[float, Value]]) -> Value:
    """The last value that starts by then."""
    return values[bisect_right(values, progress, key=lambda each: each[0]) - 1][1]


def cost(recipe: Recipe, examples: int) -> Cost:
    """Steps, examples seen (partial batches counted as they are) and epochs of a run of `recipe` on N `examples`."""
    steps = total_steps(recipe, examples)
    seen = examples_seen(steps, examples, recipe)
    return Cost(steps=steps, examples=seen, epochs=seen / examples)


def price(before: Recipe, after: Recipe, examples: int | None) -> Price:
    """The cost of `after` against `before`; without the number of examples, factors only (partial batches ignored)."""
    if examples is None:
        (old_steps, old_seen), (new_steps, new_seen) = _nominal(before), _nominal(after)
        return Price(None, None, new_steps / old_steps, new_seen / old_seen)
    old, new = cost(before, examples), cost(after, examples)
    return Price(old, new, new.steps / old.steps, new.examples / old.examples)


def _nominal(recipe: Recipe) -> tuple[float, float]:
    """(steps, examples) of whole batches; in units of the training set's size where the budget is in epochs."""
    match recipe.budget:
        case Epochs(epochs=epochs):
            return epochs * _steps_each(recipe), epochs
        case Steps(steps=steps):
            return steps, steps * recipe.batch_size
        case Examples(examples=examples):
            return examples * _steps_each(recipe), examples


def _steps_each(recipe: Recipe) -> float:
    """Steps for each example: the mean of 1/B along the run."""
    ends = [0.0, *(start for start, _ in recipe.batch_schedule), 1.0]
    shares = (stop - start for start, stop in pairwise(ends))
    return math.fsum(share / size for share, size in zip(shares, recipe.batch_sizes, strict=True))
