"""What a transferred recipe costs against the one it came from: steps, examples, epochs."""

import math
from collections.abc import Sequence
from itertools import pairwise

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


def expected(batch_size: int, new: int, critical: Interval) -> Expected:
    """Steps and examples to the same loss, from the critical batch size and its bounds.

    Args:
        critical: B_c = E_min / S_min, in examples; the noise scale may stand for it.

    >>> known = Interval(300.0, 100.0, 900.0)
    >>> round(expected(100, 400, known).examples_factor.estimate, 3)
    1.673
    """
    factors = [examples_factor(batch_size, new, each) for each in (critical.estimate, critical.low, critical.high)]
    examples = Interval(factors[0], min(factors), max(factors))
    kappa = new / batch_size
    return Expected(Interval(*(each / kappa for each in msgspec.structs.astuple(examples))), examples)


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


def mean_examples_factor(batch_size: float, new: float, critical: Sequence[float]) -> float:
    """E'/E of a run whose critical batch size drifts, given at equal shares of its steps.

    Each share makes the same progress in S'/S of its own steps: the mean of the shares' factors.
    """
    return math.fsum(examples_factor(batch_size, new, each) for each in critical) / len(critical)


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
