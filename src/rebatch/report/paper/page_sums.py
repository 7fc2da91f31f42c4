"""`page-sums`: several small steps against one large one over the rate, and how far runs of two batch sizes part."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import band, color, notes, panels, plain_ticks
from rebatch.report.paper.material import Material
from rebatch.report.series import ArmRecord, geometric_interval
from rebatch.study.studies.page_2018.summed import COUPLED, FACTORS, OWN, SECOND, STEPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {STEPS: "running statistics, or none", COUPLED: "batch norm of each batch"}
FORMS = {OWN: "the recipe as it is", SECOND: "plain SGD, ghosts of the small batch"}
PAIRS = {"distance": "two batch sizes", "distance_orders": "two orders of the examples"}


@dataclass(frozen=True, kw_only=True)
class Course:
    """A positive number over something: geometric mean over `n` runs."""

    n: int
    x: tuple[float, ...]
    means: tuple[Interval, ...]


def course(arm: ArmRecord, x: str, y: str) -> Course | None:
    """Row by row over the runs that have all rows; `None` where none has a positive number to show."""
    tables = [[row for row in run.rows if row.get(y, 0.0) > 0.0] for run in arm.runs]
    rows = max(map(len, tables), default=0)
    whole = [table for table in tables if len(table) == rows]
    if not rows:
        return None
    return Course(
        n=len(whole),
        x=tuple(row[x] for row in whole[0]),
        means=tuple(geometric_interval([table[place][y] for table in whole]) for place in range(rows)),
    )


def figure(material: Material) -> "Figure | None":
    """A panel of single steps, and one of whole runs for each of their forms."""
    if not any(arm.runs for arm in material.arms):
        return None
    arms = {arm.name: arm for arm in material.arms}
    whole, ((first, *others),) = panels(1, 1 + len(FORMS), 11.4, 4.6, material.title)
    _draw_steps(first, material, arms)
    for (form, name), axes in zip(FORMS.items(), others, strict=True):
        counts = _draw_runs(axes, arms, form)
        axes.set(xscale="log", yscale="log", xlabel="epochs (log scale)", title=f"{name}\n{counts}")
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
    others[0].set_ylabel("distance between the weights (log scale)")
    notes(
        whole,
        "Left: distance between 4 steps and one on the same examples. Right: between runs from one start; solid: two "
        "batch sizes on the same examples,\ndashed: the small batch in two orders. Geometric means over seeds, bands: "
        "95 % intervals.",
        others[0],
    )
    return whole


def _draw_steps(axes: "Axes", material: Material, arms: dict[str, ArmRecord]) -> None:
    counts = set()
    for place, (name, words) in enumerate(NAMES.items()):
        found = course(arms[name], "step", "relative") if name in arms else None
        if found is None:
            continue
        counts.add(found.n)
        slope = material.quantity(f"slope:{name}")
        power = "" if slope is None else f"\npower {1 + round(slope.estimate - 1, 3):.3g}"
        _line(axes, found, place, "solid", f"{words}{power}")
    axes.set(xscale="log", yscale="log", xlabel="rate over the recipe's (log scale)")
    axes.set_ylabel("distance over the length of the step (log scale)")
    axes.set_xticks([10.0**power for power in range(-9, 1, 3)])
    axes.minorticks_off()
    axes.set_title(f"single steps\nover n = {', '.join(map(str, sorted(counts)))} nets")
    axes.legend(loc="lower right")


def _draw_runs(axes: "Axes", arms: dict[str, ArmRecord], form: str) -> str:
    counts = set()
    for place, label in enumerate(FACTORS):
        for column, line in zip(PAIRS, ("solid", "dashed"), strict=True):
            arm = arms.get(f"{form}:{label}")
            found = None if arm is None else course(arm, "epoch", column)
            if found is not None:
                counts.add(found.n)
                _line(axes, found, place, line, f"{label} of the rate: {PAIRS[column]}")
    return f"over n = {', '.join(map(str, sorted(counts)))} seeds" if counts else ""


def _line(axes: "Axes", found: Course, place: int, line: str, label: str) -> None:
    band(axes, found.x, found.means, color(place))
    axes.plot(found.x, [mean.estimate for mean in found.means], color=color(place), linestyle=line, label=label)
