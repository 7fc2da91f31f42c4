"""`hoffer-overfit`: validation loss rises while validation accuracy goes on improving (claim H18)."""

from collections.abc import Mapping
from statistics import fmean

from rebatch.schedule import Constant
from rebatch.study.claims import Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.records import SeedRuns
from rebatch.study.studies.hoffer_2017.common import OTHER_SEEDS, claim, seeds_of, shortened
from rebatch.tasks.task import Task

LONG = "small_batch+long"

# Times the reference budget at a constant rate: the talk shows 2,000 epochs of a net whose recipe has about 100.
LENGTHS: dict[Scale, float] = {"quick": 5, "cpu": 20, "paper": 20}


def overfit_design(task: Task, scale: Scale) -> Design:
    """The small batch at a constant learning rate, far beyond the end of its recipe."""
    length = LENGTHS[scale] if task.name == "digits/mlp" or scale == "paper" else 4
    long = task.recipe.replace(schedule=Constant(), budget=shortened(task.recipe.budget, length))
    arms = (Arm(name=LONG, recipe=long, note=f"{length:g} times the reference budget, constant learning rate"),)
    why = f"Both are differences whose sign is the claim. Seeds: {OTHER_SEEDS}."
    claims = (
        claim(
            "H18-loss",
            "Validation loss rises again: it ends above its minimum",
            Quantity("loss_rise", low=0.0, unit="nats"),
            expected=0.55 if task.name.startswith("cifar10") else None,
            why=why,
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
    """What happens after the minimum of the validation loss; ends are means over the last tenth of the evaluations."""
    if LONG not in runs:
        return {}
    loss, accuracy = (runs[LONG].column(f"validation_{name}") for name in ("loss", "accuracy"))
    tail = max(1, len(loss) // 10)
    # The least of many noisy numbers is too low, so the minimum is looked for in means over five evaluations.
    smooth = [fmean(value for _, value in loss[max(0, place - 2) : place + 3]) for place in range(len(loss))]
    lowest = min(range(len(loss)), key=smooth.__getitem__)
    ended = [sum(value for _, value in column[-tail:]) / tail for column in (loss, accuracy)]
    return {
        "loss_rise": ended[0] - smooth[lowest],
        "error_fall": ended[1] - accuracy[lowest][1],
        "minimum_at": loss[lowest][0] / loss[-1][0],
    }


OVERFIT = Study(
    name="hoffer-overfit",
    title="Does a rising validation loss mean that training should stop?",
    source="Hoffer, Hubara, Soudry 2017, talk, page 15",
    design=overfit_design,
    quantities=quantities,
)
