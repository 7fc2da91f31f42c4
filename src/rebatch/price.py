"""What a transferred recipe costs against the one it came from: steps, examples, epochs."""

import msgspec

from rebatch.batching import examples_seen, total_steps
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
