"""`hoffer-momentum-reset`: the dose and the response, and the columns of Table 1 in both forms."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import color, notes, panels, whiskers
from rebatch.report.paper.material import Material
from rebatch.report.series import arm_accuracy
from rebatch.study.studies.hoffer_2017.common import LARGE, LR, PUBLISHED, RA
from rebatch.study.studies.hoffer_2017.momentum_reset import COLUMNS, DOSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT = 8  # where a buffer that is kept stands on the axis of the dose, as in the study's slope
FORMS = {"": "the buffer is kept", "reset1:": "it is lost every epoch", "authors:": "all of the authors' defects"}
SHORT = {"small_batch": "small", "large_batch": "large", "+lr": "+lr", "+gbn": "+gbn", "+ra": "+ra"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """An arm's accuracy at a place of an axis."""

    at: float
    mean: Interval
    seeds: tuple[float, ...]


def dose_points(material: Material, name: str) -> list[Point]:
    """Accuracy of `name` over the epochs that its momentum buffer lives."""
    places = {KEPT: name, **{dose: f"reset{dose}:{name}" for dose in DOSES}}
    found = [_point(material, arm, float(dose)) for dose, arm in sorted(places.items())]
    return [point for point in found if point is not None]


def column_points(material: Material, form: str) -> list[Point]:
    """Accuracy of the columns of Table 1 in one form; `at` is the number of the column."""
    found = [_point(material, f"{form}{name}", float(place)) for place, name in enumerate((*COLUMNS, RA))]
    return [point for point in found if point is not None]


def column_label(name: str) -> str:
    """What a column of the table is called.

    >>> [column_label(name) for name in ("large_batch", "large_batch+lr+gbn")]
    ['large', '+gbn']
    """
    return SHORT.get(name) or f"+{name.rpartition('+')[2]}"


def figure(material: Material) -> "Figure | None":
    """Dose on the left, columns on the right."""
    doses = {name: dose_points(material, name) for name in (LARGE, LR)}
    columns = {form: column_points(material, form) for form in FORMS}
    if not any((*doses.values(), *columns.values())):
        return None
    whole, ((left, right),) = panels(1, 2, 9.4, 4.6, material.title)
    for place, (name, points) in enumerate(doses.items()):
        _draw(left, points, place + 3, name, 0.08 * (place - 0.5), line=True)
    for place, (form, points) in enumerate(columns.items()):
        _draw(right, points, place, FORMS[form], 0.22 * (place - 1), line=False)
    row = PUBLISHED.get(material.plan.task, {})
    if row:
        right.plot(range(len(row)), list(row.values()), "*", color="#CC79A7", markersize=10, label="published")
    left.set(xscale="log", xlabel="epochs that the momentum buffer lives", ylabel="test accuracy (%)")
    left.set_xticks([*sorted(DOSES), KEPT], [*map(str, sorted(DOSES)), "kept"], minor=False)
    left.set_xticks([], minor=True)
    left.set_title("dose and response")
    left.legend(loc="best")
    shown = (
        [*COLUMNS, RA]
        if any(point.at == len(COLUMNS) for many in columns.values() for point in many) or row
        else COLUMNS
    )
    right.set_xticks(range(len(shown)), [column_label(name) for name in shown])
    right.set(xlabel="column of Table 1", ylabel="test accuracy (%)", title="Table 1 in three forms")
    right.grid(visible=False, axis="x")
    for axes in (left, right):
        axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
    counts = sorted({len(point.seeds) for many in (*doses.values(), *columns.values()) for point in many})
    notes(
        whole,
        f"Marks: mean over n = {' or '.join(map(str, counts))} seeds, lines: its 95 % interval; ticks: every "
        "seed.\nArms share seeds: differences are known better than these intervals.",
        right,
        4,
    )
    return whole


def _point(material: Material, name: str, at: float) -> Point | None:
    arm = material.arm(name)
    found = arm_accuracy(arm) if arm else None
    if found is None or found.mean is None:
        return None
    return Point(at=at, mean=found.mean, seeds=tuple(run.accuracy for run in found.points))


def _draw(axes: "Axes", points: list[Point], place: int, label: str, shift: float, *, line: bool) -> None:
    paint = color(place)
    at = [point.at * (1 + shift) if line else point.at + shift for point in points]  # a shift on a log axis is a factor
    for x, point in zip(at, points, strict=True):
        whiskers(axes, point.mean, x, paint, upright=True, size=5.5)
        aside = 1.04 * x if line else x + 0.07
        axes.plot([aside] * len(point.seeds), point.seeds, "_", color=paint, markersize=5, alpha=0.8)
    axes.plot(at, [point.mean.estimate for point in points], "o-" if line else "o", color=paint, label=label)
