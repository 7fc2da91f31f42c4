"""`hoffer-updates`: are too few updates the cause of the gap, or is it the batch size itself? (claim H7)"""

from rebatch.batching import total_steps
from rebatch.recipe import Recipe, Steps
from rebatch.study.claims import Equivalent, Greater
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.studies.hoffer_2017.common import (
    LARGE,
    MARGIN,
    OTHER_SEEDS,
    RA,
    SMALL,
    claim,
    large_batch,
    seeds_of,
)
from rebatch.tasks.task import Task
from rebatch.transfer import transfer

FEW = "small_batch+few_steps"
RA_ALONE, RA_LR, RA_GBN = "large_batch+ra", "large_batch+lr+ra", "large_batch+gbn+ra"


def updates_design(task: Task, scale: Scale) -> Design:
    """The small batch cut to the large batch's steps; the large batch with the small one's steps, means taken apart."""
    size = large_batch(task)

    def moved(*rules: str) -> Recipe:
        return transfer(task.recipe, batch_size=size, rules=rules, examples=task.train).recipe

    large = moved("same_epochs")
    few = task.recipe.replace(budget=Steps(total_steps(large, task.train)))
    arms = (
        Arm(name=SMALL, recipe=task.recipe),
        Arm(name=LARGE, recipe=large),
        Arm(name=FEW, recipe=few, note="as many steps as the large batch, so far fewer examples"),
        Arm(name=RA_ALONE, recipe=moved("same_steps"), note="as many steps as the small batch, so more examples"),
        Arm(name=RA_LR, recipe=moved("sqrt_lr", "same_steps")),
        Arm(name=RA_GBN, recipe=moved("ghost_batch", "same_steps")),
        Arm(name=RA, recipe=moved("hoffer")),
    )
    why = f"Margin {MARGIN} points: nobody would retune for less. Seeds: {OTHER_SEEDS}."
    claims = (
        claim(
            "H7",
            "With as many updates the large batch does as well, learning rate and norm left alone",
            Greater(RA_ALONE, SMALL, -MARGIN),
            why=why,
        ),
        claim(
            "H7-few",
            "The small batch cut to the large batch's updates falls to the large batch's level",
            Equivalent(FEW, LARGE, MARGIN),
            why=why,
        ),
        claim(
            "H7-means",
            "With as many updates, learning rate and ghosts add nothing",
            Equivalent(RA, RA_ALONE, MARGIN),
            why=why,
        ),
    )
    return Design(arms=arms, claims=claims, seeds=seeds_of(task, scale, cpu=2, paper=5), gap=(SMALL, LARGE))


UPDATES = Study(
    name="hoffer-updates",
    title="Is the gap a matter of the number of updates?",
    source="Hoffer, Hubara, Soudry 2017, sections 2 and 5",
    design=updates_design,
)
