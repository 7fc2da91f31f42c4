"""`hoffer-ghosts`: how must ghosts enter the running statistics, and what do ghosts cost? (claims H15 and H19)"""

from collections.abc import Mapping

from rebatch.study.claims import Greater, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import StepTime
from rebatch.study.records import SeedRuns
from rebatch.study.studies.hoffer_2017.common import MARGIN, OTHER_SEEDS, claim, large_batch, seeds_of
from rebatch.tasks.task import Task
from rebatch.transfer import transfer

MODES = ("sequential", "mean", "scaled", "printed")
TIMING = "time of a step"


def ghosts_design(task: Task, scale: Scale) -> Design:
    """The large batch with ghosts under each way to keep running statistics; and the time of a step."""
    recipe = transfer(
        task.recipe,
        batch_size=large_batch(task),
        rules=["sqrt_lr", "ghost_batch", "same_epochs"],
        examples=task.train,
    ).recipe
    arms = [Arm(name=mode, recipe=recipe.replace(ghost_running=mode), finals=("ghost_statistics",)) for mode in MODES]
    steps = StepTime() if scale != "quick" else StepTime(steps=8, repeats=5)
    arms.append(Arm(name=TIMING, recipe=recipe, probe=steps, seeds=1 if scale == "quick" else 5))
    why = f"Margin {MARGIN} points: nobody would care for less. Seeds: {OTHER_SEEDS}."
    claims = (
        claim(
            "H15",
            "One averaged step per batch, all ghosts weighing the same, is worse than one step per ghost",
            Greater("sequential", "mean", MARGIN),
            why=why,
        ),
        claim(
            "H15-test",
            "At test time the running statistics do better than those of the ghosts of the test batch",
            Quantity("running_over_ghosts", low=MARGIN, unit="points"),
            why=why,
        ),
        claim(
            "H15-printed",
            "The update as the paper prints it is worse than the corrected one",
            Greater("sequential", "printed", MARGIN),
            source="rebatch: Algorithm 1 of Hoffer et al. 2017, to the letter",
            why=why,
        ),
        claim(
            "H19",
            "Ghost batch norm costs no time: at most 5 % of a step",
            Quantity("step_time_ratio", high=1.05, unit="x plain batch norm"),
            expected=1.0,
            why="Medians of interleaved repeats in one process; a shared machine is noisy by a few percent.",
        ),
    )
    return Design(arms=tuple(arms), claims=claims, seeds=seeds_of(task, scale))


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Test accuracy with running statistics less that with each test ghost's own; the ratio of step times."""
    found: dict[str, float] = {}
    if "sequential" in runs and "ghost_statistics_accuracy" in runs["sequential"].metrics:
        metrics = runs["sequential"].metrics
        found["running_over_ghosts"] = metrics["test_accuracy"] - metrics["ghost_statistics_accuracy"]
    if TIMING in runs:
        found["step_time_ratio"] = runs[TIMING].metrics["ratio"]
    return found


GHOSTS = Study(
    name="hoffer-ghosts",
    title="How must ghosts enter the running statistics, and what do they cost?",
    source="Hoffer, Hubara, Soudry 2017, Algorithm 1",
    design=ghosts_design,
    quantities=quantities,
)
