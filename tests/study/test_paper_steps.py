"""What the `paper` scale of every study asks for can be trained: one step of every recipe, on made images."""

import math

import msgspec
import pytest
import torch

from rebatch.data.augment import Flip, Normalize, PadCrop
from rebatch.data.sets import DataSet, Splits
from rebatch.execution import Execution
from rebatch.plain import plain
from rebatch.recipe import Recipe, Steps
from rebatch.study.plan import make_plan
from rebatch.study.studies import STUDIES
from rebatch.tasks import TASKS
from rebatch.training import train

# The batch stands for the large one, so that a step takes a blink; ghosts stay a part of it.
BATCH, GHOST = 8, 4

TASK = "cifar10/resnet44"


def made_images() -> Splits:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8)
    data = DataSet(images, torch.arange(BATCH) % 10)
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Splits(data, data, data, augmentations=(PadCrop(padding=4, fill=127), Flip()), normalize=normalize)


def one_step_of(recipe: Recipe) -> Recipe:
    ghost = GHOST if recipe.ghost_batch_size is not None else None
    # The rate is made the same, since arms that differ in it alone take the same step.
    penalty = recipe.gradient_penalty and msgspec.structs.replace(recipe.gradient_penalty, batch_size=GHOST)
    flat = recipe.as_tuned().with_lr(0.01).replace(batch_schedule=())
    cut = {"ghost_batch_size": ghost, "gradient_penalty": penalty}
    return flat.replace(batch_size=BATCH, budget=Steps(1), **cut)


@pytest.mark.parametrize("study", [name for name, study in STUDIES.items() if study.task != "simulation"])
def test_one_step_of_every_recipe_at_paper_scale(study: str) -> None:
    task = TASKS[TASK]
    plan = make_plan(STUDIES[study], task, "paper", execution=Execution())
    recipes = {str(plain(one_step_of(arm.recipe))): one_step_of(arm.recipe) for arm in plan.design.arms}
    for recipe in recipes.values():
        (row,) = train(task.model(), made_images(), recipe, seed=0, evaluations=1)
        assert row["step"] == 1
        assert math.isfinite(row["train_loss"])
