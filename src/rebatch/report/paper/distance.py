"""`hoffer-distance`: weight distance over log steps with both laws, and the paper's Figure 2 beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rebatch.fits import Fit, log_curve, log_law, power_curve, power_law_on_distance
from rebatch.report.paper.canvas import MARKERS, band, color, interval_words, notes, panels, plain_ticks
from rebatch.report.paper.material import Material, Published
from rebatch.report.series import Curve, column_curve
from rebatch.study.studies.hoffer_2017.distance import AFTER, BEFORE, COLUMNS, FITTED_FROM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMS = {BEFORE: "as they are", AFTER: "rate and ghosts adapted"}
WEIGHTS = {"": "all weights", ":first": "first layer"}
# How the panels of the published figure begin: a is before, b is after.
PANELS = {BEFORE: "a", AFTER: "b"}
LEAST = 5  # points that a fit needs, as in the study
SHOWN = 20  # points of a curve that are drawn; the fits are made of all


@dataclass(frozen=True, kw_only=True)
class DistanceCurve:
    """Mean weight distance of one batch size, and both laws fitted to it from step `start` on."""

    batch_size: int
    steps: tuple[float, ...]
    curve: Curve | None
    distances: tuple[float, ...]
    start: float
    log: Fit | None
    power: Fit | None

    def fitted_steps(self) -> NDArray[np.float64]:
        """Steps at which the fits are drawn."""
        return np.geomspace(self.start, self.steps[-1], 18)

    def shown(self) -> list[int]:
        """Places of the points that are drawn: all, or as evenly spaced in log t as they come."""
        if len(self.steps) <= SHOWN:
            return list(range(len(self.steps)))
        wanted = np.geomspace(self.steps[0], self.steps[-1], SHOWN)
        return sorted({int(np.abs(np.log(np.divide(self.steps, step))).argmin()) for step in wanted})


def curves(material: Material, form: str, suffix: str) -> list[DistanceCurve]:
    """Our curves of one form (before, after) and one set of weights, by batch size."""
    found = []
    for arm in material.arms:
        if not arm.name.startswith(f"{form}:"):
            continue
        curve = column_curve(arm, COLUMNS[suffix], examples=material.plan.examples)
        if curve.n:
            distances = [mean.estimate for mean in curve.means]
            found.append(_fitted(arm.recipe.batch_size, curve.steps, distances, curve))
    return sorted(found, key=lambda each: each.batch_size)


def published_curves(published: Sequence[Published], form: str) -> list[DistanceCurve]:
    """The published curves of one form, by batch size, with the same fits."""
    chosen = sorted((c for c in published if c.panel.startswith(PANELS[form])), key=lambda each: each.batch_size)
    return [_fitted(each.batch_size, each.steps, each.distances, None) for each in chosen]


def _fitted(size: int, steps: Sequence[float], distances: Sequence[float], curve: Curve | None) -> DistanceCurve:
    start = max(2.0, FITTED_FROM * steps[-1])
    chosen = [(step, value) for step, value in zip(steps, distances, strict=True) if step >= start and value > 0]
    x, y = [step for step, _ in chosen], [value for _, value in chosen]
    enough = len(chosen) >= LEAST
    return DistanceCurve(
        batch_size=size,
        steps=tuple(steps),
        curve=curve,
        distances=tuple(distances),
        start=start,
        log=log_law(x, y) if enough else None,
        power=power_law_on_distance(x, y) if enough else None,
    )


def figure(material: Material) -> "Figure | None":
    """A row before and a row after; a column per set of weights, and one of the published curves where given."""
    columns = list(WEIGHTS)
    ours = {(form, suffix): curves(material, form, suffix) for form in FORMS for suffix in columns}
    if not any(ours.values()):
        return None
    extra = 1 if material.published else 0
    found, grid = panels(2, len(columns) + extra, 3.6 * (len(columns) + extra), 6.6, material.title)
    for row, form in enumerate(FORMS):
        for column, suffix in enumerate(columns):
            axes = grid[row][column]
            _draw(axes, ours[form, suffix])
            axes.set_title(f"{FORMS[form]}, {WEIGHTS[suffix]}{_law(material, f'{form}{suffix}')}")
        if extra:
            _draw(grid[row][-1], published_curves(material.published, form))
            grid[row][-1].set_title(f"{FORMS[form]}, published\n(read off Figure 2)")
        grid[row][0].set_ylabel("weight distance ‖w(t) - w(0)‖")
    for axes in grid[-1]:
        axes.set_xlabel("optimizer steps t (log scale)")
    runs = sorted({each.curve.n for each in (one for many in ours.values() for one in many) if each.curve})
    notes(
        found,
        f"Marks: mean over n = {', '.join(map(str, runs))} seeds, band: its 95 % interval. Solid: a + s ln t, dashed: "
        f"c t^p,\nboth fitted on d from {100 * FITTED_FROM:g} % of the steps on. Numbers: AIC of the power law less "
        "that of the logarithm,\nmean over batch sizes; positive favors the logarithm.",
    )
    return found


def _law(material: Material, label: str) -> str:
    ahead = material.quantity(f"log_over_power:{label}")
    return "\n" if ahead is None else f"\nAIC difference {interval_words(ahead)}"


def _draw(axes: "Axes", drawn: Sequence[DistanceCurve]) -> None:
    for place, each in enumerate(drawn):
        paint = color(place)
        places = each.shown()
        x = [each.steps[i] for i in places]
        if each.curve:
            band(axes, x, [each.curve.means[i] for i in places], paint, least=0.0)
        axes.plot(
            x,
            [each.distances[i] for i in places],
            marker=MARKERS[place % len(MARKERS)],
            markersize=2.6,
            linestyle="none",
            color=paint,
            label=f"batch {each.batch_size:,}",
        )
        t = each.fitted_steps()
        if each.log is not None and each.power is not None:
            axes.plot(t[[0, -1]], log_curve(each.log.coefficients, t[[0, -1]]), color=paint, linewidth=1.1)
            axes.plot(t, power_curve(each.power.coefficients, t), color=paint, linewidth=1.1, linestyle=(0, (4, 2)))
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    plain_ticks(axes.xaxis)
    axes.legend(loc="upper left", markerscale=1.8, handletextpad=0.3, borderaxespad=0.2, fontsize=8)
