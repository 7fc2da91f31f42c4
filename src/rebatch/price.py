"""What a transferred recipe costs against the one it came from: steps, examples, epochs."""

import math
from collections.abc import Sequence

import msgspec

from rebatch.batching import examples_seen, total_steps
from rebatch.recipe import Epochs, Examples, Recipe, Steps
from rebatch.statistics import Interval


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
    """E'/E = (kappa B + B_c) / (B + B_c) and S'/S = E'/E / kappa (McCandlish et al., 2018, from equation 2.7).

    Args:
        critical: the critical batch size B_c, in examples; the noise scale may stand for it.

    >>> known = Interval(300.0, 100.0, 900.0)
    >>> expected(100, 400, known).examples_factor
    Interval(estimate=1.75, low=1.3, high=2.5)
    """
    factors = [examples_factor(batch_size, new, each) for each in (critical.estimate, critical.low, critical.high)]
    examples = Interval(factors[0], min(factors), max(factors))
    kappa = new / batch_size
    return Expected(Interval(*(each / kappa for each in msgspec.structs.astuple(examples))), examples)


def examples_factor(batch_size: float, new: float, critical: float) -> float:
    """E'/E for a critical batch size; far above it nothing more is paid than the batch is larger.

    >>> examples_factor(100, 400, 1e9) < 1.001, examples_factor(100, 400, 0.0)
    (True, 4.0)
    """
    return 1.0 if math.isinf(critical) else (new + critical) / (batch_size + critical)


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
            return epochs / recipe.batch_size, epochs
        case Steps(steps=steps):
            return steps, steps * recipe.batch_size
        case Examples(examples=examples):
            return examples / recipe.batch_size, examples
