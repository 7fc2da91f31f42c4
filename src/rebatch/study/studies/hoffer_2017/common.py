"""What the paper's studies share: the two batches of a task, its five arms, a part of a budget."""

from rebatch.recipe import Budget, Epochs, Examples, Recipe, Steps
from rebatch.tasks.task import Task
from rebatch.transfer import transfer

# The large batch of each task; elsewhere KAPPA times the batch of the reference recipe.
LARGE_BATCH = {"digits/mlp": 512, "mnist/f1": 4096, "fashion-mnist/f1": 4096}
KAPPA = 16

SMALL, LARGE, LR, GBN, RA = (
    "small_batch",
    "large_batch",
    "large_batch+lr",
    "large_batch+lr+gbn",
    "large_batch+lr+gbn+ra",
)

# The rules of each arm of Table 1 but the first.
RULES_OF = {
    LARGE: ("same_epochs",),
    LR: ("sqrt_lr", "same_epochs"),
    GBN: ("sqrt_lr", "ghost_batch", "same_epochs"),
    RA: ("sqrt_lr", "ghost_batch", "same_steps"),
}

# Percent points that matter: below this nobody would retune a recipe. H4 of the paper has it as -0.3.
MARGIN = 0.3

OTHER_SEEDS = "as many as the time of this scale allows; the smallest effect that they resolve stands by each verdict"


def large_batch(task: Task) -> int:
    """The large batch size of a task."""
    return LARGE_BATCH.get(task.name, KAPPA * task.recipe.batch_size)


def table_1(task: Task, small: Recipe) -> dict[str, Recipe]:
    """The five recipes of Table 1 by the name of their arm; `small` is the first."""
    size = large_batch(task)
    moved = {
        name: transfer(small, batch_size=size, rules=rules, examples=task.train).recipe
        for name, rules in RULES_OF.items()
    }
    return {SMALL: small, **moved}


def shortened(budget: Budget, factor: float) -> Budget:
    """`factor` times the budget, at least a step or an example."""
    match budget:
        case Epochs(epochs=epochs):
            return Epochs(epochs * factor)
        case Steps(steps=steps):
            return Steps(max(1, round(steps * factor)))
        case Examples(examples=examples):
            return Examples(max(1, round(examples * factor)))
