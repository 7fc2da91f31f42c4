"""`random-walk`: how far walkers get in random potentials over log t, and on a flat one over t; log-log."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rebatch.interval import Interval
from rebatch.report.paper.canvas import INK, band, color, interval_words, notes, panels, plain_ticks
from rebatch.report.paper.material import Material
from rebatch.report.series import ArmRecord, geometric_interval
from rebatch.study.probes import RandomWalk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STROKES = ((0, (4, 2)), (0, (1, 1.5)))  # dashed, dotted


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The distance, geometric mean over `n` seeds, at log times.

    `slope` is the exponent of the law: in log t or, on a flat potential, in t.
    """

    name: str
    n: int
    flat: bool
    slope: float
    log_times: tuple[float, ...]
    distances: tuple[Interval, ...]

    @property
    def clock(self) -> NDArray[np.float64]:
        """What the law is a power of: log t, or t."""
        times = np.array(self.log_times)
        return np.exp(times) if self.flat else times

    def law(self) -> NDArray[np.float64]:
        """A line of the law's slope through the middle of the points."""
        clock, distances = np.log(self.clock), np.log([mean.estimate for mean in self.distances])
        return np.asarray(np.exp(distances.mean() + self.slope * (clock - clock.mean())))


def walk(arm: ArmRecord, probe: RandomWalk) -> Walk | None:
    """The mean over the runs of an arm; `None` where no run has rows."""
    tables = [{row["log_time"]: row["distance"] for row in run.rows} for run in arm.runs if run.rows]
    if not tables:
        return None
    times = sorted(set.intersection(*map(set, tables)))
    return Walk(
        name=arm.name,
        n=len(tables),
        flat=probe.alpha is None,
        slope=0.5 if probe.alpha is None else 2.0 / probe.alpha,
        log_times=tuple(times),
        distances=tuple(geometric_interval([table[time] for table in tables]) for time in times),
    )


def figure(material: Material) -> "Figure | None":
    """Random potentials on the left, the flat one on the right."""
    probes = {arm.name: material.planned(arm.name).probe for arm in material.arms}
    found = [
        each
        for arm in material.arms
        if isinstance(probe := probes[arm.name], RandomWalk) and (each := walk(arm, probe)) is not None
    ]
    if not found:
        return None
    whole, ((left, right),) = panels(1, 2, 9.0, 4.2, material.title)
    for place, each in enumerate(found):
        axes = right if each.flat else left
        _draw(axes, each, place, material.quantity(f"exponent:{each.name}"))
    left.set(xlabel="ln t (log scale)", ylabel="root mean square distance (sites)", title="random potentials")
    right.set(xlabel="time t (steps)", ylabel="root mean square distance (sites)", title="flat potential")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left")
    plain_ticks(left.xaxis)
    plain_ticks(right.xaxis)
    left.set_ylim(top=12 * left.get_ylim()[1])  # room for the names
    notes(whole, "Marks: geometric mean over n seeds; bands: its 95 % interval. Dashed, dotted: the slope of the law.")
    return whole


def _draw(axes: "Axes", each: Walk, place: int, fitted: Interval | None) -> None:
    paint, clock = color(place), each.clock
    fit = f", exponent {interval_words(fitted)}" if fitted is not None and math.isfinite(fitted.estimate) else ""
    band(axes, clock, each.distances, paint)  # type: ignore[arg-type]
    estimates = [mean.estimate for mean in each.distances]
    axes.plot(clock, estimates, "o-", markersize=4, color=paint, label=f"{each.name} (n = {each.n}){fit}")
    axes.plot(
        clock, each.law(), color=INK, linewidth=0.9, linestyle=STROKES[place % 2], label=f"slope {each.slope:.3g}"
    )
