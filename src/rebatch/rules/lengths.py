"""How long training lasts at another batch size."""

from rebatch.batching import total_steps
from rebatch.recipe import Recipe, Steps
from rebatch.rules.move import Move


def same_epochs(recipe: Recipe, move: Move) -> Recipe:
    """Train on the same number of examples: a budget in steps shrinks by kappa, others stay as they are."""
    if not isinstance(recipe.budget, Steps):
        return recipe
    return recipe.replace(budget=Steps(max(1, round(recipe.budget.steps / move.kappa))))


def same_steps(recipe: Recipe, move: Move) -> Recipe:
    """Train for the same number of steps: regime adaptation (Hoffer et al., 2017), kappa times the examples.

    Raises:
        RequestError: the budget is not in steps and N is not known.
    """
    if isinstance(move.tuned.budget, Steps) or move.kappa == 1:
        return recipe
    return recipe.replace(budget=Steps(total_steps(move.tuned, move.require_examples("same_steps"))))
