"""`page-directions`: what the loss changes along each line and across it, and the length of steps at rest."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import QUIET, SHADE, color, notes, panels, whiskers
from rebatch.report.paper.material import Material
from rebatch.study.studies.page_2018.directions import DOWN, FLAT, LINES, STEADY, UP, Direction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Line:
    """Changes of the validation loss in nats: across a direction, and along it by pair of factors."""

    direction: Direction
    across: Interval
    along: dict[tuple[float, float], Interval]


def lines(material: Material) -> list[Line]:
    """Those that the runs have numbers for."""
    found = []
    for each in LINES:
        across = material.quantity(f"across:{each.name}")
        along = {pair: material.quantity(f"change:{each.arm(pair)}") for pair in each.along}
        known = {pair: change for pair, change in along.items() if change is not None}
        if across is not None and len(known) == len(along):
            found.append(Line(each, across, known))
    return found


def figure(material: Material) -> "Figure | None":
    """A panel a direction, and one of ratios to the closed form."""
    shown, steps = lines(material), {name: material.quantity(f"ratio:{name}") for name in STEADY}
    ratios = {name: ratio for name, ratio in steps.items() if ratio is not None}
    if not shown and not ratios:
        return None
    whole, (row,) = panels(1, len(shown) + bool(ratios), 11.4, 3.2, material.title)
    for place, (axes, line) in enumerate(zip(row, shown, strict=False)):
        _draw_line(axes, line, names=place == 0)
    if ratios:
        _draw_ratios(row[-1], ratios)
    seeds = max((arm.n for arm in material.summary.arms), default=0)
    notes(
        whole,
        f"Change of the validation loss when two settings are {UP:g} or {DOWN:g} times as large. Along: what the title "
        f"names stays; across: it changes {UP / DOWN:g}-fold (mean of both ways).\nShaded: a quarter of across, what "
        "counts as flat. Right: root mean square of step over weight, measured over its closed form. Means and 95 % "
        f"intervals, n = {seeds}.",
    )
    return whole


def _draw_line(axes: "Axes", line: Line, *, names: bool) -> None:
    flat = FLAT * line.across.estimate
    if flat > 0:
        axes.axvspan(-flat, flat, color=SHADE, alpha=0.12, linewidth=0)
    axes.axvline(0.0, color=QUIET, linewidth=0.8)
    rows = {"across": line.across} | {f"along, lr x{pair[0]:g}": change for pair, change in line.along.items()}
    for place, interval in enumerate(rows.values()):
        whiskers(axes, interval, -place, color(place))
    axes.set_yticks([-place for place in range(len(rows))], list(rows) if names else [""] * len(rows))
    axes.set(title=line.direction.name, xlabel="nats", ylim=(0.6 - len(rows), 0.6))


def _draw_ratios(axes: "Axes", ratios: dict[str, Interval]) -> None:
    axes.axvline(1.0, color=QUIET, linewidth=0.8)
    for place, interval in enumerate(ratios.values()):
        whiskers(axes, interval, -place, color(3 + place))
    axes.set_yticks([-place for place in range(len(ratios))], list(ratios))
    axes.set(title="steps at rest", xlabel="x closed form", ylim=(0.6 - len(ratios), 0.6), xlim=(0.78, 1.27))
