"""What batch norm and clipping see at another batch size."""

import math
from collections.abc import Sequence

from rebatch.recipe import Recipe
from rebatch.rules.move import Move


def ghost_batch(recipe: Recipe, move: Move) -> Recipe:
    """Normalize over ghosts of the batch size that was tuned (Hoffer et al., 2017); a ghost size already set stays.

    Where gradients of pieces were penalized, batch norm saw those. A recipe tuned at batch size 1 gets none: one
    example has no variance.
    """
    seen = min(*move.tuned.batch_sizes, move.tuned.piece_size or move.tuned.batch_size)
    if move.tuned.ghost_batch_size is not None or move.kappa <= 1 or seen < 2:
        return recipe
    return recipe.replace(ghost_batch_size=seen)


def noise_clip(recipe: Recipe, move: Move) -> Recipe:
    """The clipping threshold follows the gradient's size, E|g|^2 = |G|^2 (1 + B_n/B) (McCandlish et al., 2018).

    It stays where the noise scale is not known.
    """
    if recipe.max_grad_norm is None or move.facts.noise is None:
        return recipe
    return recipe.replace(max_grad_norm=recipe.max_grad_norm / math.sqrt(move.gain(move.facts.noise.estimate)))


def clip_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """A threshold that stays though the gradient's size does not."""
    if recipe.max_grad_norm is None or move.kappa == 1:
        return ()
    found = []
    if recipe.clip_steps is not None:
        found.append(f"clip_steps stays at {recipe.clip_steps} steps, which see {move.kappa:g} times the examples")
    if move.facts.noise is None:
        less = "binds less often" if move.kappa > 1 else "binds more often"
        does = "fixes the same length for a gradient of another" if recipe.clip_mode == "normalize" else less
        found.append(f"max_grad_norm stays, and {does} than before: a --noise-scale would say how to move it")
    return found
