"""`page-batch`: loss and accuracy by epoch of the small batch over the large one, with the rate; noise; ghost sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import band, color, notes, panels, plain_ticks, whiskers
from rebatch.report.paper.material import Material
from rebatch.report.series import Curve, arm_accuracy, column_curve
from rebatch.study.studies.page_2018.batch import LARGE, LATE, SMALL, ghost_arm
from rebatch.study.studies.page_2018.common import mean_lr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = (SMALL, LARGE)


@dataclass(frozen=True, kw_only=True)
class Ghosts:
    """Test accuracy with ghosts of one size; the largest is the whole batch."""

    size: int
    mean: Interval
    seeds: tuple[float, ...]


def course(material: Material, name: str, column: str) -> Curve | None:
    """A column of an arm's rows by examples seen; None where no run has it."""
    arm = material.arm(name)
    found = column_curve(arm, column, examples=material.plan.examples) if arm else None
    return found if found is not None and found.n else None


def rates(material: Material, name: str) -> dict[int, float]:
    """The learning rate on the mean loss by examples seen, of the first run that has rows."""
    arm, lr = material.arm(name), course(material, name, "lr")
    if arm is None or lr is None:
        return {}
    unit = mean_lr(arm.recipe) / arm.recipe.optimizer.lr
    return {seen: unit * mean.estimate for seen, mean in zip(lr.examples, lr.means, strict=True)}


def ghosts(material: Material) -> list[Ghosts]:
    """Every ghost size that has an accuracy."""
    prefix = ghost_arm(0).removesuffix("0")
    found = []
    for arm in material.arms:
        size = arm.name.removeprefix(prefix)
        accuracy = arm_accuracy(arm)
        if arm.name.startswith(prefix) and size.isdecimal() and accuracy.mean is not None:
            seeds = tuple(run.accuracy for run in accuracy.points)
            found.append(Ghosts(size=int(size), mean=accuracy.mean, seeds=seeds))
    return sorted(found, key=lambda each: each.size)


def late_run(material: Material, name: str, column: str) -> list[tuple[float, float]]:
    """(epochs, value) of an arm's first run, over the part that the noise is read from: a mean would hide it."""
    arm = material.arm(name)
    run = next((run for run in arm.runs if not run.diverged), None) if arm else None
    found = [(row["epoch"], row[column]) for row in run.rows if column in row] if run else []
    return [(epoch, value) for epoch, value in found if epoch >= LATE * found[-1][0]]


def noises(material: Material) -> Mapping[str, Interval]:
    """Mean noise over seeds by what it is of."""
    names = [f"noise:{name}{how}" for name in SHOWN for how in ("", ", recomputed")]
    known = {name: material.quantity(name) for name in names}
    return {name.removeprefix("noise:"): each for name, each in known.items() if each is not None}


def figure(material: Material) -> "Figure | None":
    """Four panels: losses, late accuracies, learning rates, ghost sizes."""
    losses, train = (
        {name: course(material, name, f"{kind}_loss") for name in SHOWN} for kind in ("validation", "train")
    )
    if not any(losses.values()) and not ghosts(material):
        return None
    whole, ((top_left, top_right), (left, right)) = panels(2, 2, 9.4, 7.2, material.title)
    for place, name in enumerate(SHOWN):
        _line(top_left, losses[name], place, material, name)
        _line(top_left, train[name], place, material, "_", dashed=True)
        for column, style in (("validation_accuracy", "-"), ("recomputed_accuracy", (0, (4, 2)))):
            points = late_run(material, name, column)
            axes_points = [list(values) for values in zip(*points, strict=True)] or [[], []]
            top_right.plot(*axes_points, color=color(place), linestyle=style)
        rate = rates(material, name)
        left.plot([seen / material.plan.examples for seen in rate], list(rate.values()), color=color(place))
    top_left.set(yscale="log", xlabel="epochs", ylabel="loss (nats)", title="validation (line) and training (dashed)")
    known = [each for each in (*losses.values(), *train.values()) if each is not None]
    shown = [mean.estimate for each in known for mean in each.means if mean.estimate > 0.0]
    if shown:  # not what bands reach down to
        top_left.set_ylim(0.7 * min(shown), 1.4 * max(shown))
    plain_ticks(top_left.yaxis)
    top_right.set(xlabel="epochs", ylabel="validation accuracy (%), one run")
    top_right.set_title("statistics of batch norm: running (line), recomputed (dashed)")
    left.set(xlabel="epochs", ylabel="learning rate, on the mean loss", title="learning rate")
    _draw_ghosts(right, ghosts(material))
    counts = sorted({each.n for each in losses.values() if each is not None})
    notes(
        whole,
        f"Lines: mean over n = {' or '.join(map(str, counts))} seeds; bands and bars: its 95 % interval.\n"
        f"{_noise_words(noises(material))}",
        top_left,
    )
    return whole


def _noise_words(found: Mapping[str, Interval]) -> str:
    """What batch norm's recomputed statistics leave of the noise."""
    pairs = [(name, found.get(name), found.get(f"{name}, recomputed")) for name in SHOWN]
    words = [
        f"{name.partition(',')[0]} {running.estimate:.2g}, recomputed {recomputed.estimate:.2g}"
        for name, running, recomputed in pairs
        if running is not None and recomputed is not None
    ]
    return f"Noise of a run from one late epoch to the next, in points: {'; '.join(words)}." if words else ""


def _line(
    axes: "Axes", found: Curve | None, place: int, material: Material, label: str, *, dashed: bool = False
) -> None:
    if found is None:
        return
    x = [seen / material.plan.examples for seen in found.examples]
    style = (0, (4, 2)) if dashed else "-"
    if not dashed:
        band(axes, x, found.means, color(place), least=0.0)
    axes.plot(x, [mean.estimate for mean in found.means], color=color(place), linestyle=style, label=label)


def _draw_ghosts(axes: "Axes", found: list[Ghosts]) -> None:
    for each in found:
        whiskers(axes, each.mean, each.size, color(2), upright=True)
        axes.plot([1.1 * each.size] * len(each.seeds), each.seeds, "_", color=color(2), markersize=6, alpha=0.8)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="ghost size (the last is the whole batch)", ylabel="test accuracy (%)", title="ghosts")
    axes.set_xticks([each.size for each in found], [str(each.size) for each in found])
    axes.set_xticks([], minor=True)
