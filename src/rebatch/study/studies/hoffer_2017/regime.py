"""`hoffer-regime` (Figure 3): with its regime adapted, does a large batch follow the small one step by step?"""

from collections.abc import Mapping
from statistics import fmean

from rebatch.study.claims import AllOf, Greater, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.records import FinishedRun, SeedRuns
from rebatch.study.studies.hoffer_2017.common import MARGIN, OTHER_SEEDS, SMALL, claim, large_batch, seeds_of
from rebatch.tasks.task import Task
from rebatch.transfer import transfer


def regime_design(task: Task, scale: Scale) -> Design:
    """The small batch against half the large one and the large one, both with rate, ghosts and steps adapted."""
    large = large_batch(task)
    sizes = (large // 2, large)
    arms = (
        Arm(name=SMALL, recipe=task.recipe),
        *(
            Arm(
                name=f"adapted:{size}",
                recipe=transfer(task.recipe, batch_size=size, rules=["hoffer"], examples=task.train).recipe,
                note=f"{size // task.recipe.batch_size} times the examples",
            )
            for size in sizes
        ),
    )
    half, whole = (f"adapted:{size}" for size in sizes)
    why = f"Margin {MARGIN} points: nobody would retune for less. Seeds: {OTHER_SEEDS}."
    claims = (
        claim(
            "H4-steps",
            "After as many steps the adapted large batches are not worse, at either size",
            AllOf((Greater(whole, SMALL, -MARGIN), Greater(half, SMALL, -MARGIN))),
            expected=0.5 if task.name == "cifar10/resnet44" else None,
            why=why,
        ),
        claim(
            "H4-curves",
            "Over the last quarter of the steps its validation error is not higher than the small batch's",
            Quantity("late_error_difference", high=MARGIN, unit="points"),
            why=why,
        ),
    )
    return Design(arms=arms, claims=claims, seeds=seeds_of(task, scale, cpu=2))


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Validation error of the large batch less that of the small one, averaged over the last quarter of the steps."""
    large = max((name for name in runs if name != SMALL), key=lambda name: int(name.split(":")[1]), default="")
    if SMALL not in runs or not large:
        return {}
    own, other = (_late_accuracy(runs[name]) for name in (SMALL, large))
    return {"late_error_difference": own - other}


def _late_accuracy(run: FinishedRun) -> float:
    """Mean validation accuracy over the last quarter of the steps; chance level, its test accuracy, if it diverged."""
    if run.diverged:
        return run.metrics["test_accuracy"]
    found = run.column("validation_accuracy")
    return fmean(accuracy for step, accuracy in found if step > 0.75 * found[-1][0])


REGIME = Study(
    name="hoffer-regime",
    title="Does an adapted large batch follow the small one step by step?",
    source="Hoffer, Hubara, Soudry 2017, Figure 3",
    design=regime_design,
    quantities=quantities,
)
