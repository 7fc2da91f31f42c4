"""What a transferred recipe costs against the one it came from: steps, examples, epochs."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import msgspec

from rebatch.batching import examples_seen, total_steps
from rebatch.bend import BEND
from rebatch.interval import Interval
from rebatch.knee import Knee
from rebatch.recipe import Epochs, Examples, Recipe, Steps


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
    """A share of a run's examples with one batch size and one critical batch size."""

    share: float
    batch_size: float
    critical: Interval


def expected(batch_size: int, new: int, critical: Interval) -> Expected:
    """Steps and examples to the same loss, from the critical batch size and its bounds.

    Args:
        critical: B_c = E_min / S_min, in examples; the noise scale may stand for it.

    >>> known = Interval(300.0, 100.0, 900.0)
    >>> round(expected(100, 400, known).examples_factor.estimate, 3)
    1.673
    """
    return expected_along([Stage(1.0, batch_size, critical)], new / batch_size)


def expected_along(stages: Sequence[Stage], kappa: float) -> Expected:
    """The same of a run whose critical batch size drifts, or whose batch grows: all its batches kappa times as large.

    Each stage makes the same progress with its own factor on examples, so that with shares w_i and batch sizes B_i

        E'/E = sum_i w_i (E'/E)_i / sum_i w_i,    S'/S = sum_i (w_i/B_i) (S'/S)_i / sum_i w_i/B_i.

    Bounds are those of all stages at once: too wide rather than too narrow where stages err apart.
    """
    per_step = [stage._replace(share=stage.share / stage.batch_size) for stage in stages]
    return Expected(_mean_factor(per_step, kappa, 1.0 / kappa), _mean_factor(stages, kappa, 1.0))


def _mean_factor(stages: Sequence[Stage], kappa: float, unit: float) -> Interval:
    """The mean of the stages' factors on examples, times `unit`."""

    def mean(end: str) -> float:
        each = (s.share * examples_factor(s.batch_size, kappa * s.batch_size, getattr(s.critical, end)) for s in stages)
        return unit * math.fsum(each) / math.fsum(stage.share for stage in stages)

    estimate, *bounds = (mean(end) for end in ("estimate", "low", "high"))
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


def stages(recipe: Recipe, course: Sequence[tuple[float, Interval]]) -> list[Stage]:
    """A run of `recipe`, cut where its batch size changes and where its critical batch size does.

    Args:
        course: shares of the run's examples, which add up to 1, with the critical batch size in each.

    >>> from rebatch.recipe import Sgd
    >>> grows = Recipe(batch_size=8, optimizer=Sgd(lr=0.1), budget=Epochs(4), batch_schedule=((0.5, 4.0),))
    >>> found = stages(grows, [(0.75, Interval(9, 9, 9)), (0.25, Interval(5, 5, 5))])
    >>> [(stage.share, stage.batch_size, stage.critical.estimate) for stage in found]
    [(0.5, 8, 9), (0.25, 32, 9), (0.25, 32, 5)]
    """
    ends = list(accumulate(share for share, _ in course))[:-1]
    cuts = sorted({0.0, *(start for start, _ in recipe.batch_schedule), *ends, 1.0})
    return [
        Stage(stop - start, recipe.batch_size_at(start), course[bisect_right(ends, start)][1])
        for start, stop in pairwise(cuts)
    ]


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
