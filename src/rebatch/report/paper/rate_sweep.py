"""`rate-sweep` drawn: loss over the learning rate at every batch size, and where the rules take the middle one's."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rebatch.report.paper.canvas import QUIET, color, notes, panels, plain_ticks, whiskers
from rebatch.report.paper.material import Material
from rebatch.report.series import ArmRecord
from rebatch.study.carried_rates import NEAR, Curve, Trial, curves, landings
from rebatch.study.studies.rebatch.rate_sweep import OPTIMIZERS, Point, trial_of
from rebatch.tasks import find_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"sgd": "SGD, momentum .9", "adamw": "AdamW"}
DASHES = {"constant": (0, (1, 2)), "sqrt": (0, (4, 2)), "linear": (0, (6, 1, 1, 1)), "default": "solid"}


def figure(material: Material) -> "Figure | None":
    """A row for each optimizer: losses over the rate, best rates over the batch size."""
    by_optimizer = {optimizer: trials(material, optimizer) for optimizer in OPTIMIZERS}
    shown = {optimizer: found for optimizer, found in by_optimizer.items() if found}
    if not shown:
        return None
    whole, grid = panels(len(shown), 2, 9.4, 1.0 + 3.2 * len(shown), material.title)
    for (optimizer, found), (left, right) in zip(shown.items(), grid, strict=True):
        known = curves(found)
        _draw_losses(left, found, known)
        left.set_title(NAMES[optimizer])
        _draw_rates(right, found, material, optimizer, known)
    counts = len({run.seed for arm in material.arms for run in arm.runs})
    notes(
        whole,
        f"Means over n = {counts} seeds; a run worse than a guess counts as one. Marks: the lowest loss. Right: "
        "best rates, whiskers 95 %;\n"
        f"lines: where the rules take the middle one, the default by its noise scale; shaded: within {NEAR:g} of the "
        "best.",
        grid[0][0],
        6,
    )
    return whole


def trials(material: Material, optimizer: str) -> list[Trial]:
    """The finished runs of one optimizer."""
    chance_loss = math.log(find_task(material.plan.task).classes)
    return [
        trial_of(
            arm.name,
            {name: value for name, value in run.result.metrics.items() if value is not None},
            diverged=run.diverged,
            chance_loss=chance_loss,
        )
        for arm in material.arms
        if _optimizer_of(arm) == optimizer
        for run in arm.runs
    ]


def _optimizer_of(arm: ArmRecord) -> str:
    return Point.of(arm.name).optimizer


def _draw_losses(axes: "Axes", found: Sequence[Trial], known: dict[int, Curve]) -> None:
    for place, (size, curve) in enumerate(known.items()):
        rates = [math.exp(x) for x in curve.log_lr]
        axes.plot(rates, curve.losses, color=color(place), label=f"batch {size:,}")
        lowest = int(curve.losses.argmin())
        axes.plot([rates[lowest]], [curve.losses[lowest]], "o", color=color(place), markersize=5)
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="validation loss (nats)")
    axes.axhline(found[0].chance_loss, color=QUIET, linewidth=0.8, linestyle=":")
    for axis in (axes.xaxis, axes.yaxis):
        plain_ticks(axis)


def _draw_rates(
    axes: "Axes", found: Sequence[Trial], material: Material, optimizer: str, known: dict[int, Curve]
) -> None:
    sizes = list(known)
    for place, (size, curve) in enumerate(known.items()):
        whiskers(axes, curve.best.interval(0.95), size, color(place), upright=True)
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="best learning rate")
    if len(sizes) > 1:
        axes.fill_between(
            sizes,
            [known[size].best.lr / NEAR for size in sizes],
            [known[size].best.lr * NEAR for size in sizes],
            color=QUIET,
            alpha=0.12,
            linewidth=0,
        )
        middle = sizes[len(sizes) // 2]
        arm = next(arm for arm in material.plan.design.arms if Point.of(arm.name).optimizer == optimizer)
        carried = landings(found, arm.recipe, material.plan.examples_of(arm))
        for rule, dash in DASHES.items():
            line = {each.new: each.lr for each in carried if each.rule == rule and each.old == middle}
            line[middle] = known[middle].best.lr
            axes.plot(sorted(line), [line[size] for size in sorted(line)], color=QUIET, linestyle=dash, label=rule)
        axes.legend(loc="upper left")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    plain_ticks(axes.yaxis)
    axes.set_title("carried from the middle batch size")
