"""`hoffer-learning-rate`: is the square root the right rule for the learning rate, or the linear one? (claim H20)"""

import msgspec

from rebatch.recipe import Recipe
from rebatch.study.claims import Greater
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.studies.hoffer_2017.common import LARGE, MARGIN, OTHER_SEEDS, SMALL, claim, large_batch, seeds_of
from rebatch.tasks.task import Task
from rebatch.transfer import transfer

# Goyal et al. (2017) warm up over 5 of 90 epochs.
WARMUP = 5 / 90

LINEAR, SQRT = "large_batch+linear", "large_batch+sqrt"


def learning_rate_design(task: Task, scale: Scale) -> Design:
    """The large batch with the same rate, its square-root and its linear multiple, with and without a warm-up."""
    size = large_batch(task)

    def moved(*rules: str) -> Recipe:
        return transfer(task.recipe, batch_size=size, rules=(*rules, "same_epochs"), examples=task.train).recipe

    arms = [Arm(name=SMALL, recipe=task.recipe), Arm(name=LARGE, recipe=moved())]
    for name, rule in ((SQRT, "sqrt_lr"), (LINEAR, "linear_lr")):
        recipe = moved(rule)
        warm = recipe.replace(schedule=msgspec.structs.replace(recipe.schedule, warmup=WARMUP))
        arms += [Arm(name=name, recipe=recipe), Arm(name=f"{name}+warmup", recipe=warm)]
    why = f"Margin {MARGIN} points: nobody would retune for less. Seeds: {OTHER_SEEDS}."
    claims = (
        claim("H20", "The linear rule is worse than the square root", Greater(SQRT, LINEAR, MARGIN), why=why),
        claim(
            "H20-warmup",
            "With a warm-up too",
            Greater(f"{SQRT}+warmup", f"{LINEAR}+warmup", MARGIN),
            why=why,
        ),
    )
    return Design(arms=tuple(arms), claims=claims, seeds=seeds_of(task, scale), gap=(SMALL, LARGE))


LEARNING_RATE = Study(
    name="hoffer-learning-rate",
    title="Square root or linear: how does the learning rate follow the batch size?",
    source="Hoffer, Hubara, Soudry 2017, section 4, against Goyal et al. 2017",
    design=learning_rate_design,
)
