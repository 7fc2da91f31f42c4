"""What the `rebatch measure` commands start from: a task's model and data, and a recipe."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rebatch.data.sets import Splits
from rebatch.recipe import Recipe
from rebatch.recipe_file import read_recipe
from rebatch.tasks import Task


@dataclass(frozen=True)
class ChosenRun:
    """A run that has not started."""

    name: str
    model: nn.Module
    data: Splits
    recipe: Recipe
    tokens_per_example: int


def chosen_run(task: str, recipe: Path | None, seed: int, threads: int | None, data_dir: Path | None) -> ChosenRun:
    """The task's fresh model and data, with the recipe of a file or the task's own."""
    import torch

    from rebatch.tasks import find_task

    if threads is not None:
        torch.set_num_threads(threads)
    found = find_task(task).sized(data_dir)
    data = found.data(seed, data_dir)
    return ChosenRun(found.name, found.model(seed, data), data, chosen_recipe(found, recipe), found.tokens_per_example)


def chosen_recipe(task: Task, recipe: Path | None) -> Recipe:
    """That of a file, or the task's own."""
    return task.recipe if recipe is None else read_recipe(recipe).as_tuned()
