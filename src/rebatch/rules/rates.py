"""Learning rates at another batch size."""

import math

from rebatch.errors import RequestError
from rebatch.recipe import Recipe
from rebatch.rules.move import Move


def linear_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by kappa (Krizhevsky, 2014; Goyal et al., 2017): right while steps stay small."""
    return scaled_lr(recipe, move.kappa, "linear_lr")


def sqrt_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by sqrt(kappa): keeps the covariance of one weight increment (Hoffer et al., 2017)."""
    return scaled_lr(recipe, math.sqrt(move.kappa), "sqrt_lr")


def exact_sqrt_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by sqrt(kappa (N - B_old) / (N - B_new)): the covariance rule on a finite data set.

    A batch of B drawn without replacement from N has gradient covariance (N - B) / (N - 1) C / B.

    Raises:
        RequestError: N is not known, or a batch is the whole training set, whose gradient has no noise.
    """
    return scaled_lr(recipe, exact_sqrt_factor(move), "exact_sqrt_lr")


def scaled_lr(recipe: Recipe, factor: float, rule: str) -> Recipe:
    lr = recipe.optimizer.lr * factor
    if not 0 < lr < math.inf:
        raise RequestError(
            f"{rule} gives no positive finite optimizer.lr: {recipe.optimizer.lr:g} x {factor:g} = {lr:g}; "
            "check optimizer.lr, or take a batch size nearer to the tuned one"
        )
    return recipe.with_lr(lr)


def exact_sqrt_factor(move: Move) -> float:
    examples = move.require_examples("exact_sqrt_lr")
    for size in (move.tuned.batch_size, move.batch_size):
        if size >= examples:
            raise RequestError(
                f"exact_sqrt_lr needs batches smaller than the training set of {examples} examples, got {size}: "
                "the full batch has no noise to match; use sqrt_lr"
            )
    return math.sqrt(move.kappa * (examples - move.tuned.batch_size) / (examples - move.batch_size))
