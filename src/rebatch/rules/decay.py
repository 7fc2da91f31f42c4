"""Weight decay at another batch size: the weights remember as many examples as before.

Decoupled decay makes the weights an average of past steps, in which one weighs (1 - lr lam)^s after s steps (Wang and
Aitchison, 2024, arXiv 2405.13698). The same memory in examples asks for 1 - lr' lam' = (1 - lr lam)^kappa. So where lr
grows by kappa lam stays, where it grows by sqrt(kappa) so does lam, and where it stays lam grows by kappa.
"""

import math
from typing import assert_never

import msgspec

from rebatch.errors import RequestError
from rebatch.recipe import Adagrad, AdamW, Lamb, Lars, Lion, Muon, Recipe, RmsProp, Sgd
from rebatch.rules.move import Move


def same_memory(recipe: Recipe, move: Move) -> Recipe:
    """Weight decay lam' with 1 - lr' lam' = (1 - lr lam)^kappa; for SGD lam' = lam kappa lr/lr', its limit.

    SGD's decay is part of the gradient and so of the momentum buffer, where only the limit of small lr lam has a
    meaning; what it does to the path is clear for weights before a norm, whose size it controls, and a plain L2 penalty
    for others.

    Raises:
        RequestError: an adaptive optimizer with coupled decay, which its divisor turns into something else; a decay
            that leaves nothing of the weights.
    """
    tuned = move.tuned.optimizer
    if tuned.weight_decay == 0.0 or move.kappa == 1:
        return recipe
    match tuned:
        case Sgd(lr=lr, weight_decay=decay):
            # A gradient that is summed over the batch has grown by kappa, and the recipe's decay with it.
            grown = recipe.optimizer.weight_decay / decay
            scale = move.kappa * lr / (recipe.optimizer.lr * grown)
            if math.isclose(scale, 1.0, rel_tol=1e-12):
                return recipe
            if (product := recipe.optimizer.lr * recipe.optimizer.weight_decay * scale) >= 1.0:
                raise RequestError(
                    f"same_memory gives a step that keeps nothing of the weights: optimizer.lr x weight_decay would be "
                    f"{product:.3g}; take a smaller batch, or leave the rule out"
                )
            return _with_decay(recipe, recipe.optimizer.weight_decay * scale)
        case (
            AdamW(lr=lr, weight_decay=decay)
            | Lion(lr=lr, weight_decay=decay)
            | Lamb(lr=lr, weight_decay=decay)
            | Muon(lr=lr, weight_decay=decay)
        ):
            if lr * decay >= 1.0:
                raise RequestError(
                    f"same_memory needs optimizer.lr x optimizer.weight_decay below 1, got {lr:g} x {decay:g}: such a "
                    "step keeps nothing of the weights; check weight_decay"
                )
            return _with_decay(recipe, -math.expm1(move.kappa * math.log1p(-lr * decay)) / recipe.optimizer.lr)
        case RmsProp() | Adagrad() | Lars():
            raise RequestError(
                f"same_memory needs decoupled weight decay, or SGD; optimizer.type is "
                f"{tuned.__struct_config__.tag!r}, which divides its decay by the gradient's size: take adamw, set "
                "weight_decay to 0, or leave the rule out"
            )
        case _:
            assert_never(tuned)


def decay_why(_: Move) -> str:
    """Of `same_memory`."""
    return "as much decay for each example as before: what follows from the new learning rate"


def _with_decay(recipe: Recipe, weight_decay: float) -> Recipe:
    return recipe.replace(optimizer=msgspec.structs.replace(recipe.optimizer, weight_decay=weight_decay))
