"""`hoffer-schedule`: when should the learning rate drop: late, on a plateau, or at a distance? (claims H16 and H17)"""

from collections.abc import Mapping

from rebatch.recipe import Recipe
from rebatch.schedule import Constant, DistanceDrop, MultiStep, Plateau
from rebatch.study.claims import AllOf, Claim, Greater
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.studies.hoffer_2017.common import (
    LARGE,
    MARGIN,
    OTHER_SEEDS,
    SMALL,
    claim,
    large_batch,
    seeds_of,
)
from rebatch.tasks.task import Task
from rebatch.transfer import transfer

# One drop by ten at a fraction of the budget: H16's 20, 40, 60 and 81 of 100 epochs.
DROPS = (0.2, 0.4, 0.6, 0.81)

# ||w - w_0|| of the small batch's reference run at its own milestones, mean over seeds 1000 to 1004, which no study
# uses: `examples/distances_at_drops.py`. Elsewhere the arm is left out: its user measures a small-batch run first.
DISTANCES: Mapping[str, tuple[float, ...]] = {"digits/mlp": (6.47, 6.49)}

# No improvement of the validation loss for so much of the budget.
PATIENCE = 0.1

MILESTONES, PLATEAU, DISTANCE = (f"{LARGE}+lr+gbn, {kind}" for kind in ("milestones", "plateau", "distance"))


def schedule_design(task: Task, scale: Scale) -> Design:
    """One drop at four moments (H16); the adapted large batch under milestones, plateau and distance (H17)."""
    size = large_batch(task)
    adapted = transfer(
        task.recipe, batch_size=size, rules=["sqrt_lr", "ghost_batch", "same_epochs"], examples=task.train
    ).recipe
    arms = [
        Arm(name=SMALL, recipe=task.recipe),
        *(Arm(name=_at(drop), recipe=_dropped(task.recipe, drop)) for drop in DROPS),
        Arm(name="never", recipe=task.recipe.replace(schedule=Constant())),
        Arm(name=MILESTONES, recipe=adapted),
        Arm(name=PLATEAU, recipe=adapted.replace(schedule=Plateau(patience=PATIENCE, drops=_drops(task.recipe)))),
    ]
    distances = DISTANCES.get(task.name)
    if distances is not None:
        milestones = _milestones(task.recipe)
        # At the latest half-way between a milestone and the end: a run that never gets that far still settles.
        latest = tuple((milestone + 1) / 2 for milestone in milestones)
        schedule = DistanceDrop(distances=distances, latest=latest, factor=0.1)
        arms.append(Arm(name=DISTANCE, recipe=adapted.replace(schedule=schedule)))
    return Design(arms=tuple(arms), claims=_claims(distances is not None), seeds=seeds_of(task, scale), gap=None)


def _claims(by_distance: bool) -> tuple[Claim, ...]:
    why = f"Margin {MARGIN} points: nobody would retune for less. Seeds: {OTHER_SEEDS}."
    late = claim(
        "H16",
        "Staying at the high rate pays after the drop: a drop at 81 % beats one at 20 %",
        Greater(_at(DROPS[-1]), _at(DROPS[0]), MARGIN),
        why=why,
    )
    if not by_distance:
        return (late,)
    return (
        late,
        claim(
            "H17",
            "Dropping at the small batch's distances beats milestones and a validation plateau",
            AllOf((Greater(DISTANCE, PLATEAU, MARGIN), Greater(DISTANCE, MILESTONES, MARGIN))),
            why=why,
        ),
        claim(
            "H17-as-good",
            "It does no worse than either",
            AllOf((Greater(DISTANCE, PLATEAU, -MARGIN), Greater(DISTANCE, MILESTONES, -MARGIN))),
            why=why,
        ),
    )


def _at(drop: float) -> str:
    return f"drop at {100 * drop:g} %"


def _dropped(recipe: Recipe, drop: float) -> Recipe:
    return recipe.replace(schedule=MultiStep(milestones=(drop,), factor=0.1))


def _milestones(recipe: Recipe) -> tuple[float, ...]:
    return recipe.schedule.milestones if isinstance(recipe.schedule, MultiStep) else ()


def _drops(recipe: Recipe) -> int:
    return max(1, len(_milestones(recipe)))


SCHEDULE = Study(
    name="hoffer-schedule",
    title="When should the learning rate drop: late, on a plateau, or at a distance?",
    source="Hoffer, Hubara, Soudry 2017, section 3",
    design=schedule_design,
)
