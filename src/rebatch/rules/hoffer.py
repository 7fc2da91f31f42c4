"""Rules of Hoffer, Hubara and Soudry (2017) beyond the square root and ghosts, and of the code that they released."""

import math

import msgspec

from rebatch.recipe import BIGBATCH, Recipe
from rebatch.rules.lengths import with_examples_times
from rebatch.rules.move import Move
from rebatch.rules.rates import scaled_lr


def sqrt_lr_from_256(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by sqrt(B_new / 256), whatever batch size it was tuned at.

    That is what the plain script released with Hoffer et al. (2017) does, and so its column +lr: x 4 for a batch of
    4,096, where `sqrt_lr` from 128 gives x 5.66. Its script with ghosts counts from the size of a ghost, as `sqrt_lr`
    with `ghost_batch` does.
    """
    return recipe if move.kappa == 1 else scaled_lr(recipe, factor_from_256(move), "sqrt_lr_from_256")


def stretched_epochs(recipe: Recipe, move: Move) -> Recipe:
    """Multiply the epochs by kappa, above 1 rounded up: regime adaptation as the paper's released code has it.

    Where a partial last batch is kept this is more than the same number of steps: 6 % more for batches of 4,096 of
    50,000 examples.
    """
    if move.kappa == 1:
        return recipe
    return with_examples_times(recipe, stretch(move))


def matching_noise(recipe: Recipe, move: Move) -> Recipe:
    """Noise on examples' losses instead of a larger learning rate: sigma^2 = kappa - 1 (Hoffer et al., 2017).

    A batch of kappa B examples with factors z ~ N(1, sigma^2) has gradient covariance about (1 + sigma^2) C / (kappa B)
    = C / B, where the mean gradient is small beside the noise, and the mean stays as it was. From a recipe that has
    such noise already, 1 + sigma^2 grows by kappa; where it would fall below 1 there is nothing left to take away.
    Clip the gradient: many of the factors are negative.
    """
    if move.kappa == 1:
        return recipe
    variance = move.kappa * (1 + move.tuned.noise.multiplicative**2) - 1
    noise = msgspec.structs.replace(recipe.noise, multiplicative=math.sqrt(max(0.0, variance)))
    return recipe.replace(noise=noise)


def authors_code(recipe: Recipe, move: Move) -> Recipe:
    """Repeat what the released code of Hoffer et al. (2017) does otherwise than their paper (`recipe.BIGBATCH`)."""
    return recipe if move.kappa == 1 else recipe.replace(defects=BIGBATCH)


def factor_from_256(move: Move) -> float:
    """Of `sqrt_lr_from_256`."""
    return math.sqrt(move.batch_size / 256)


def stretch(move: Move) -> float:
    """Of `stretched_epochs`."""
    return math.ceil(move.kappa) if move.kappa > 1 else move.kappa
