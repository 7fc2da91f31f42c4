"""`hoffer-regime`: validation error over steps. `hoffer-overfit`: validation loss and error over epochs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rebatch.report.paper.canvas import QUIET, curve, notes, panels, plain_ticks
from rebatch.report.paper.material import Material
from rebatch.report.series import ArmRecord, Curve, column_curve, error_curve
from rebatch.study.studies.hoffer_2017.overfit import LONG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATE = 0.75  # of the steps: the zoom, and what claim H4-curves speaks about


def error_curves(material: Material) -> list[Curve]:
    """Validation error of every arm that was evaluated."""
    plan = material.plan
    found = [
        error_curve(arm, examples=plan.examples, evaluations=plan.design.evaluations, chance=plan.chance)
        for arm in material.arms
    ]
    return [each for each in found if each.n]


def late_part(found: Curve, share: float = LATE) -> Curve:
    """The points of a curve in the last part of its steps.

    >>> from rebatch.statistics import Interval
    >>> means = tuple(Interval(float(y), 0.0, 9.0) for y in (5, 4, 3))
    >>> late_part(Curve(name="a", n=1, steps=(1, 80, 100), examples=(1, 80, 100), means=means)).steps
    (80, 100)
    """
    first = next(place for place, step in enumerate(found.steps) if step >= share * found.steps[-1])
    return Curve(
        name=found.name,
        n=found.n,
        steps=found.steps[first:],
        examples=found.examples[first:],
        means=found.means[first:],
    )


def lowest(found: Curve, reach: int = 2) -> int:
    """Where the curve has its minimum in means over 2 `reach` + 1 points: the least of noisy numbers says little."""
    values = [mean.estimate for mean in found.means]
    parts = [values[max(0, place - reach) : place + reach + 1] for place in range(len(values))]
    smooth = [sum(part) / len(part) for part in parts]
    return min(range(len(smooth)), key=smooth.__getitem__)


def regime_figure(material: Material) -> "Figure | None":
    """All steps on a logarithmic error axis, and the last quarter on a linear one."""
    found = error_curves(material)
    if not found:
        return None
    whole, ((left, right),) = panels(1, 2, 9.0, 4.3, material.title)
    for place, each in enumerate(found):
        label = f"{each.name} (n = {each.n})"
        curve(left, each, each.steps, place, label=label)
        late = late_part(each)
        curve(right, late, late.steps, place, label=label)
    left.set(yscale="log", xlabel="optimizer steps", ylabel="validation error (%), log scale", title="all steps")
    right.set(xlabel="optimizer steps", ylabel="validation error (%)", title="the last quarter")
    shown = [mean.estimate for each in found for mean in each.means if mean.estimate > 0]
    left.set_ylim(0.7 * min(shown), 1.4 * max(shown))
    right.set_ylim(bottom=0)
    plain_ticks(left.yaxis)
    notes(whole, "Lines: mean over n seeds; bands: the 95 % interval of the mean at each point alone.", left)
    return whole


def overfit_figure(material: Material) -> "Figure | None":
    """Validation loss and error of the long run, with the epoch where the loss is lowest."""
    arm = material.arm(LONG)
    found = _long_curves(material, arm) if arm else []
    if len(found) < 2 or not all(each.n for each in found):
        return None
    loss, error = found
    epochs = [seen / material.plan.examples for seen in loss.examples]
    turn = epochs[lowest(loss)]
    whole, ((left, right),) = panels(1, 2, 9.0, 3.9, material.title)
    for axes, each, name in ((left, loss, "validation loss (nats)"), (right, error, "validation error (%)")):
        x = [seen / material.plan.examples for seen in each.examples]
        curve(axes, each, x, 0, label=f"{LONG} (n = {each.n})")
        axes.axvline(turn, color=QUIET, linestyle=(0, (4, 2)), linewidth=1.2, label="lowest mean validation loss")
        axes.set(xscale="log", xlabel="epochs (log scale)", ylabel=name)
        plain_ticks(axes.xaxis)
    notes(whole, "Line: mean over n seeds; band: the 95 % interval of the mean at each point alone.", left)
    return whole


def _long_curves(material: Material, arm: ArmRecord) -> Sequence[Curve]:
    plan = material.plan
    loss = column_curve(arm, "validation_loss", examples=plan.examples)
    error = error_curve(arm, examples=plan.examples, evaluations=plan.design.evaluations, chance=plan.chance)
    return loss, error
