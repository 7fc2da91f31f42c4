"""What Page's studies of batch size and learning rate share: the task that he trained, and the linear rule."""

from rebatch.recipe import Recipe
from rebatch.transfer import transfer

# His numbers are expected here alone.
PUBLISHED_TASK = "cifar10/page-resnet18"

# The large batch over the small one: 512 over 128.
KAPPA = 4


def moved(recipe: Recipe, batch_size: int) -> Recipe:
    """The recipe at another batch size, its rate by the linear rule, for as many epochs."""
    return transfer(recipe, batch_size=batch_size, rules=("linear_lr", "same_epochs")).recipe


def mean_lr(recipe: Recipe) -> float:
    """The rate on the mean loss, also of a recipe that sums it."""
    return recipe.optimizer.lr * (recipe.batch_size if recipe.loss_reduction == "sum" else 1)


# Tasks whose net has no batch norm, and so nothing to say about it.
NO_BATCH_NORM = {"digits/mlp-plain"}
