"""What batch norm and clipping see at another batch size."""

from rebatch.errors import RequestError
from rebatch.recipe import Recipe
from rebatch.rules.move import Move


def ghost_batch(recipe: Recipe, move: Move) -> Recipe:
    """Normalize over ghosts of the batch size that was tuned (Hoffer et al., 2017); a ghost size already set stays."""
    if move.tuned.ghost_batch_size is not None or move.kappa <= 1:
        return recipe
    if move.tuned.batch_size < 2:
        raise RequestError(
            "ghost_batch needs a recipe tuned at batch size 2 or more, got 1: one example has no variance; leave it out"
        )
    return recipe.replace(ghost_batch_size=move.tuned.batch_size)
