"""`hoffer-landscape` (Appendix B): is the loss around the start a random field with alpha = 2, or just smooth? (H11)"""

from collections.abc import Mapping

from rebatch.study.claims import Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import Landscape
from rebatch.study.records import SeedRuns
from rebatch.study.studies.hoffer_2017.common import claim, seeds_of
from rebatch.tasks.task import Task

FULL, BATCH = "full_batch", "mini_batch"
RANGES = ((0.0, 1.0), (1.0, 10.0), (10.0, 100.0))
LABELS = tuple(f"{low:g}-{high:g}" for low, high in RANGES)


def landscape_design(task: Task, scale: Scale) -> Design:
    """The loss of many examples, and that of fresh mini-batches, around weights as they are drawn."""
    draws = {"quick": 100, "cpu": 1000, "paper": 1000}[scale]
    size = task.recipe.batch_size
    arms = (
        Arm(name=FULL, recipe=task.recipe, probe=Landscape(draws=draws, ranges=RANGES)),
        Arm(name=BATCH, recipe=task.recipe, probe=Landscape(draws=draws, ranges=RANGES, batch_size=size)),
    )
    why = (
        "Each seed is a net of its own. Any smooth loss has std(z) = z |grad L| / sqrt(D) to first order, with no free "
        "number: if that line explains the spread within a quarter, linearity is no evidence for a random field."
    )
    claims = (
        claim(
            "H11",
            "The spread of the loss grows linearly with the distance, so that alpha is 2 (within 0.2)",
            Quantity(f"alpha:{LABELS[1]}", low=1.8, high=2.2),
            expected=2.0,
            why=why,
        ),
        claim(
            "H11-taylor",
            "The first-order Taylor line alone explains the spread at the paper's distances",
            Quantity(f"taylor_ratio:{LABELS[1]}", low=0.75, high=1.25, unit="x the line"),
            why=why,
        ),
        claim(
            "H11-near",
            "So it does near the start",
            Quantity(f"taylor_ratio:{LABELS[0]}", low=0.75, high=1.25, unit="x the line"),
            why=why,
        ),
        claim(
            "H11-far",
            "alpha stays 2 ten times further out, as it would in the random field of the model",
            Quantity(f"alpha:{LABELS[2]}", low=1.8, high=2.2),
            expected=2.0,
            why=why,
        ),
    )
    return Design(arms=arms, claims=claims, seeds=seeds_of(task, scale))


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Exponents, ratios to the Taylor line and slopes of the full loss; of mini-batches under a name of their own."""
    return {
        (name if arm == FULL else f"{BATCH}:{name}"): value
        for arm, run in runs.items()
        for name, value in run.metrics.items()
    }


LANDSCAPE = Study(
    name="hoffer-landscape",
    title="Is the loss around the start a random field, or just smooth?",
    source="Hoffer, Hubara, Soudry 2017, Appendix B",
    design=landscape_design,
    quantities=quantities,
)
