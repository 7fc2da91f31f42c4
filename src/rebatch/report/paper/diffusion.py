"""`hoffer-diffusion`: test accuracy over weight distance, colored by batch size."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import MARKERS, color, interval_words, notes, panels, plain_ticks
from rebatch.report.paper.material import Material
from rebatch.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 800  # points of single runs; with more of them only the arms' means are drawn


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The runs of one batch size: distance and accuracy of every run, and of every arm their means."""

    batch_size: int
    runs: tuple[tuple[float, float], ...]
    arms: tuple[tuple[float, Interval], ...]


def clouds(material: Material) -> list[Cloud]:
    """All runs that did not diverge, by batch size."""
    found: dict[int, list[list[tuple[float, float]]]] = {}
    for arm in material.arms:
        points = [
            (distance, run.accuracy)
            for run in arm.runs
            if not run.diverged and run.result.accuracy is not None
            if (distance := run.result.metrics.get("weight_distance")) is not None
        ]
        if points:
            found.setdefault(arm.recipe.batch_size, []).append(points)
    return [
        Cloud(
            batch_size=size,
            runs=tuple(point for points in arms for point in points),
            arms=tuple((_mean([x for x, _ in points]), mean_interval([y for _, y in points])) for points in arms),
        )
        for size, arms in sorted(found.items())
    ]


def figure(material: Material) -> "Figure | None":
    """One panel: single runs small, means over seeds large."""
    found = clouds(material)
    if not found:
        return None
    runs = sum(len(cloud.runs) for cloud in found)
    whole, ((axes,),) = panels(1, 1, 7.2, 4.8, material.title)
    for place, cloud in enumerate(found):
        paint, marker = color(place), MARKERS[place % len(MARKERS)]
        if runs <= MOST:
            one = [list(column) for column in zip(*cloud.runs, strict=True)]
            axes.plot(*one, marker=marker, markersize=2.5, color=paint, alpha=0.35, linestyle="none")
        for distance, mean in cloud.arms:
            if math.isfinite(mean.low):
                axes.plot([distance] * 2, [mean.low, mean.high], color=paint, linewidth=1.0, alpha=0.8)
        x = [distance for distance, _ in cloud.arms]
        y = [mean.estimate for _, mean in cloud.arms]
        label = f"batch {cloud.batch_size:,} ({len(cloud.runs)} runs)"
        axes.plot(x, y, marker=marker, markersize=6, color=paint, linestyle="none", label=label)
    axes.set(xscale="log", xlabel="weight distance at the last step (log scale)", ylabel="test accuracy (%)")
    axes.set_title(_said(material))
    axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
    plain_ticks(axes.xaxis)
    notes(
        whole,
        "Large marks: mean over seeds of one learning rate and length, line: its 95 % interval; small marks: single "
        "runs.\nDiverged runs are left out. " + f"{runs} runs in all.",
        axes,
    )
    return whole


def _said(material: Material) -> str:
    """What the regression says, per doubling of the batch size."""
    words = {"alone": "log_batch_alone", "at matched distance": "log_batch_given_distance"}
    means = {label: material.quantity(name) for label, name in words.items()}
    said = [f"{label} {interval_words(mean)}" for label, mean in means.items() if mean is not None]
    return f"points per doubling of the batch size:\n{', '.join(said)}" if said else ""


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
