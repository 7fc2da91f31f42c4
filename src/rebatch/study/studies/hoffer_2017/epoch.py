"""`hoffer-epoch`: are the mini-batch gradients of one epoch uncorrelated? (claim H26)"""

from collections.abc import Mapping

from rebatch.study.claims import AllOf, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import EpochCorrelation
from rebatch.study.records import SeedRuns
from rebatch.study.studies.hoffer_2017.common import LARGE, SMALL, claim, large_batch, seeds_of
from rebatch.tasks.task import Task

REPLACED = "large_batch, with replacement"

# A correlation under a hundredth would matter to nobody.
NEGLIGIBLE = 0.01


def epoch_design(task: Task, scale: Scale) -> Design:
    """Two batches of an epoch at frozen weights, small and large, and large ones drawn with replacement."""
    epochs = {"quick": 50, "cpu": 600, "paper": 1000}[scale]
    size = large_batch(task)
    within, replaced = EpochCorrelation(epochs=epochs), EpochCorrelation(epochs=epochs, replacement=True)
    large = task.recipe.replace(batch_size=size)
    arms = (
        Arm(name=SMALL, recipe=task.recipe, probe=within),
        Arm(name=LARGE, recipe=large, probe=within),
        Arm(name=REPLACED, recipe=large, probe=replaced),
    )
    exact = -size / (task.train - size)
    why = (
        f"A correlation within {NEGLIGIBLE} of zero would matter to nobody. The closed form, for gradients that do not "
        f"couple examples, is -M/(N - M), here {exact:.3f} for the large batch. Each seed is a net of its own."
    )
    claims = (
        claim(
            "H26",
            "Gradients of an epoch's batches are uncorrelated, for small and for large batches",
            AllOf(
                (
                    Quantity("correlation:large_batch", low=-NEGLIGIBLE, high=NEGLIGIBLE),
                    Quantity("correlation:small_batch", low=-NEGLIGIBLE, high=NEGLIGIBLE),
                )
            ),
            expected=0.0,
            why=why,
        ),
        claim(
            "H26-replacement",
            "With replacement they are uncorrelated",
            Quantity(f"correlation:{REPLACED}", low=-NEGLIGIBLE, high=NEGLIGIBLE),
            expected=0.0,
            why=why,
        ),
        claim(
            "H26-exact",
            "Within an epoch the correlation is -M/(N - M)",
            # The large batch's is arithmetic where two batches are all of the data; the small batch's can fail.
            AllOf(
                (
                    Quantity("off_exact:small_batch", low=-NEGLIGIBLE, high=NEGLIGIBLE),
                    Quantity("off_exact:large_batch", low=-NEGLIGIBLE, high=NEGLIGIBLE),
                )
            ),
            expected=0.0,
            why=why,
        ),
    )
    return Design(arms=arms, claims=claims, seeds=seeds_of(task, scale))


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """The correlation of two batches of an epoch, and how far it is from the closed form."""
    found: dict[str, float] = {}
    for name, run in runs.items():
        found[f"correlation:{name}"] = run.metrics["correlation"]
        found[f"off_exact:{name}"] = run.metrics["correlation"] - run.metrics["expected_correlation"]
    return found


EPOCH = Study(
    name="hoffer-epoch",
    title="Are the gradients of one epoch's batches uncorrelated?",
    source="Hoffer, Hubara, Soudry 2017, as told by its readers",
    design=epoch_design,
    quantities=quantities,
)
