"""`hoffer-overfit`: validation loss rises while validation accuracy goes on improving (claim H18)."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from rebatch.schedule import Constant
from rebatch.study.claims import Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.records import SeedRuns
from rebatch.study.studies.hoffer_2017.common import OTHER_SEEDS, claim, is_digits, seeds_of, shortened
from rebatch.tasks.task import Task

LONG = "small_batch+long"

# By what share of the minimum the loss must rise; the talk shows .45 to 1.0.
RISE = 0.1

# Times the reference budget at a constant rate: the talk shows 2,000 epochs of a net whose recipe has about 100.
LENGTHS: dict[Scale, float] = {"quick": 5, "cpu": 20, "paper": 20}


def overfit_design(task: Task, scale: Scale) -> Design:
    """The small batch at a constant learning rate, far beyond the end of its recipe."""
    length = LENGTHS[scale] if is_digits(task) or scale == "paper" else 4
    long = task.recipe.replace(schedule=Constant(), budget=shortened(task.recipe.budget, length))
    arms = (Arm(name=LONG, recipe=long, note=f"{length:g} times the reference budget, constant learning rate"),)
    why = f"The sign of the difference is the claim. Seeds: {OTHER_SEEDS}."
    claims = (
        claim(
            "H18-loss",
            "Validation loss rises again: it ends more than a tenth above its minimum",
            Quantity("relative_loss_rise", low=RISE, unit="of the minimum"),
            expected=1.2 if task.name.startswith("cifar10/") else None,
            why=f"Less than a tenth is no rise that anyone would stop for. Seeds: {OTHER_SEEDS}.",
        ),
        claim(
            "H18",
            "Validation error goes on falling after the minimum of the loss: stopping there would cost accuracy",
            Quantity("error_fall", low=0.0, unit="points"),
            why=why,
        ),
    )
    return Design(arms=arms, claims=claims, seeds=seeds_of(task, scale, cpu=3), evaluations=50)


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """What happens after the minimum of the validation loss; ends are means over the last tenth of the evaluations.

    The least of many noisy numbers is too low. So every other evaluation says where the minimum is, in means over three
    of them, and those between say what loss and accuracy are there.
    """
    if LONG not in runs:
        return {}
    loss, accuracy = (runs[LONG].column(f"validation_{name}") for name in ("loss", "accuracy"))
    if len(loss) < 10:  # it diverged early
        return {}
    lowest = 2 * _place_of_minimum([value for _, value in loss[::2]])
    beside = [place for place in (lowest - 1, lowest + 1) if 0 <= place < len(loss)]
    tail = range(len(loss) - len(loss) // 10, len(loss))
    (least, ended), (then, at_the_end) = (
        [fmean(column[place][1] for place in places) for places in (beside, tail)] for column in (loss, accuracy)
    )
    return {
        "loss_rise": ended - least,
        "relative_loss_rise": ended / least - 1.0,
        "error_fall": at_the_end - then,
        "minimum_at": loss[lowest][0] / loss[-1][0],
    }


def _place_of_minimum(values: Sequence[float]) -> int:
    smooth = [fmean(values[max(0, place - 1) : place + 2]) for place in range(len(values))]
    return min(range(len(values)), key=smooth.__getitem__)


OVERFIT = Study(
    name="hoffer-overfit",
    title="Does a rising validation loss mean that training should stop?",
    source="Hoffer, Hubara, Soudry 2017, talk, page 15",
    design=overfit_design,
    quantities=quantities,
)
