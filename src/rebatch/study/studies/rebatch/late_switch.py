"""`late-switch`: where along a run does a small batch matter, early or late?

Two batch sizes share a run, and all runs see equally many examples: large first and small last, or small first and
large last, at three moments of the switch, beside runs of one size. A batch that grows in place of a falling rate
(Smith et al., 2018) is small first; local SGD after a large batch (Lin et al., 2020) is small last, and so is the late
phase of `close-gap`. Half and half, both orders make as many steps: they cost the same.
"""

from rebatch.batch_growth import lasting_budget
from rebatch.recipe import Recipe, Sgd
from rebatch.reduction import with_loss_reduction
from rebatch.schedule import MultiStep, PiecewiseConstant, lr_factor
from rebatch.study.claims import AllOf, Claim, Greater, Test
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.studies.hoffer_2017.common import LARGE, MARGIN, SMALL, is_digits, large_batch, seeds_of, shortened
from rebatch.tasks.task import Task

# The parts of the budget's examples after which the size changes.
SWITCHES = (0.25, 0.5, 0.75)
# Every arm's rate drops as in the recipe of digits.
DROPS = MultiStep(milestones=(0.5, 0.75), factor=0.1)
# Digits are trained in full at every scale, the rest as far as there is time.
SHARES: dict[Scale, float] = {"quick": 0.02, "cpu": 0.2, "paper": 1.0}


def large_first(switch: float) -> str:
    """The name of an arm."""
    return f"large_first:{switch:g}"


def small_first(switch: float) -> str:
    """The name of an arm."""
    return f"small_first:{switch:g}"


def resized(recipe: Recipe, batch_size: int) -> Recipe:
    """At another batch size from the start, the rate by `rate_times`."""
    rate = recipe.optimizer.lr * rate_times(recipe, batch_size / recipe.batch_size)
    return recipe.replace(batch_size=batch_size).with_lr(rate)


def rate_times(recipe: Recipe, kappa: float) -> float:
    """The linear rule, which keeps lr / B and so the noise of SGD's path; the square root for other optimizers."""
    return kappa if isinstance(recipe.optimizer, Sgd) else kappa**0.5


def switched(recipe: Recipe, batch_size: int, switch: float) -> Recipe:
    """From `switch` on with batches of `batch_size`, the rate by the same rule beside the drops."""
    kappa = batch_size / recipe.batch_size
    factors = {
        start: lr_factor(DROPS, start) * (rate_times(recipe, kappa) if start >= switch else 1.0)
        for start in sorted({*DROPS.milestones, switch})
    }
    shape = PiecewiseConstant(points=tuple(factors.items()))
    return recipe.replace(schedule=shape, batch_schedule=((switch, kappa),))


def late_switch_design(task: Task, scale: Scale) -> Design:
    """Each size alone, and both orders at every switch; batch norm sees small batches everywhere."""
    share = 1.0 if is_digits(task) else SHARES[scale]
    small = with_loss_reduction(task.recipe, "mean")
    small = small.replace(
        schedule=DROPS,
        averaging=None,
        ghost_batch_size=small.batch_size if small.batch_size > 1 else None,
        budget=shortened(lasting_budget(small), share),
    )
    large = resized(small, large_batch(task))
    arms = [Arm(name=SMALL, recipe=small), Arm(name=LARGE, recipe=large)]
    for switch in SWITCHES:
        arms.append(Arm(name=large_first(switch), recipe=switched(large, small.batch_size, switch)))
        arms.append(Arm(name=small_first(switch), recipe=switched(small, large.batch_size, switch)))
    return Design(arms=tuple(arms), claims=_claims(), seeds=seeds_of(task, scale), gap=(SMALL, LARGE))


def _claims() -> tuple[Claim, ...]:
    def claim(id_: str, statement: str, test: Test) -> Claim:
        why = f"Margin {MARGIN} points: nobody would retune for less. As many seeds as the time of a scale allows."
        return Claim(id=id_, statement=statement, source="rebatch", test=test, expected=None, why=why)

    def closes(arm: str) -> Test:
        # Where there is no gap, none is closed.
        return AllOf((Greater(arm, SMALL, -MARGIN), Greater(SMALL, LARGE)))

    half, last_quarter = SWITCHES[1:]
    return (
        claim("L1", "Small batches in the second half alone close the gap", closes(large_first(half))),
        claim("L2", "Small batches in the first half alone close the gap", closes(small_first(half))),
        claim(
            "L3",
            "At the same cost, half a run in each size, large first is better than small first",
            Greater(large_first(half), small_first(half), MARGIN),
        ),
        claim("L4", "Small batches in the last quarter alone close the gap", closes(large_first(last_quarter))),
    )


LATE_SWITCH = Study(
    name="late-switch",
    title="Large first or small first: where along a run does a small batch matter?",
    source="rebatch: closing the gap, early or late",
    design=late_switch_design,
)
