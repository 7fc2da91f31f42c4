"""`page-sweep`: losses over the learning-rate factor, the broken zone, what limits each rate; edges and best rates.

A panel per mode and batch size over f; the losses of the whole set over the rate itself, where the edges of all batch
sizes should coincide; and by number of examples where training breaks, where it is best, and where its curvature says
that it would break.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.recipe import Recipe
from rebatch.report.paper.canvas import QUIET, color, interval_words, notes, panels, plain_ticks
from rebatch.report.paper.material import Material
from rebatch.report.series import RunRecord, geometric_interval
from rebatch.stability import Limit, limited_by
from rebatch.study.records import FinishedRun
from rebatch.study.studies.page_2018.common import mean_lr
from rebatch.study.studies.page_2018.sweep_numbers import Sweep, sweeps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3

# Losses are shown up to so many times that of a guess.
HIGHEST = 2.0

# How a point is marked by what limits its rate.
MARKS: Mapping[Limit, tuple[str, str]] = {
    "curvature": ("^", "curvature limits"),
    "forgetting": ("o", "forgetting limits"),
    "both": ("D", "both limit"),
    "neither": ("s", "neither limits"),
}

Key = tuple[bool, int, int]
"""Whether updates are equal, batch size, number of examples."""


@dataclass(frozen=True, kw_only=True)
class PointLosses:
    """Mean losses at one factor, over the seeds whose run did not diverge; `limit` is None where it was not looked at.

    `lr` is the rate on the mean loss.
    """

    factor: float
    lr: float
    train: float
    test: float
    limit: Limit | None


@dataclass(frozen=True, kw_only=True)
class Course:
    """A sweep over `n` seeds: its points, and the rates at which it breaks, is best, and should break by curvature.

    `bracket` is the smallest rate below and the largest above an edge of any seed; None where no seed has an edge.
    """

    key: Key
    n: int
    points: tuple[PointLosses, ...]
    edge: Interval | None
    bracket: tuple[float, float] | None
    optimum: Interval | None
    predicted: Interval | None

    @property
    def lr_at_1(self) -> float:
        """The rate at f = 1."""
        return self.points[0].lr / self.points[0].factor


def courses(material: Material) -> list[Course]:
    """Every sweep with finished runs, by mode, batch size and number of examples."""
    by_seed: dict[int, dict[str, FinishedRun]] = {}
    for arm in material.arms:
        for run in arm.runs:
            by_seed.setdefault(run.seed, {})[arm.name] = _finished(run, arm.recipe)
    found: dict[Key, list[Sweep]] = {}
    for runs in by_seed.values():
        for key, sweep in sweeps(runs).items():
            found.setdefault(key, []).append(sweep)
    return [_course(key, many) for key, many in sorted(found.items())]


def limit_at(factor: float, seeds: Sequence[Sweep]) -> Limit | None:
    """What limits the rate at a factor, as `rebatch measure limits` says it: by medians over seeds.

    The room is that to the largest factor that holds. None where forgetting was not looked at and curvature is far.
    """
    rooms = [sweep.edge.low / factor for sweep in seeds if factor in sweep.runs]
    runs = [sweep.runs[factor] for sweep in seeds if factor in sweep.runs]
    times = [time for run in runs if math.isfinite(time := run.metrics.get("forgotten_at_high_rate", math.nan))]
    found = limited_by(median(rooms), median(times) if times else math.nan)
    return found if times or found == "curvature" else None


def figure(material: Material) -> "Figure | None":
    """The panels in three columns."""
    found = courses(material)
    if not found:
        return None
    shown = sorted({course.key[:2] for course in found})
    rows = math.ceil((len(shown) + 3) / COLUMNS)
    whole, grid = panels(rows, COLUMNS, 10.2, 1.2 + 3.1 * rows, material.title)
    cells = [axes for row in grid for axes in row]
    sizes = sorted({course.key[2] for course in found}, reverse=True)
    for (equal_updates, batch_size), axes in zip(shown, cells, strict=False):
        chosen = [course for course in found if course.key[:2] == (equal_updates, batch_size)]
        _draw_losses(axes, chosen, sizes)
        axes.set_ylim(top=min(axes.get_ylim()[1], HIGHEST * math.log(100.0 / material.plan.chance)))
        axes.set_title(f"batch {batch_size:,}, equal {'updates' if equal_updates else 'epochs'}")
    _draw_over_rate(cells[len(shown)], [each for each in found if each.key[0] is False and each.key[2] == sizes[0]])
    _draw_edges(cells[len(shown) + 1], [each for each in found if not each.key[0]])
    _write_table(cells[len(shown) + 2], [each for each in found if not each.key[0]])
    for axes in cells[len(shown) + 3 :]:
        axes.set_visible(False)
    for axes in cells[: len(shown) + 1 : COLUMNS]:
        axes.set_ylabel("loss (nats)")
    _name(cells[0], sizes, {point.limit for course in found for point in course.points})
    counts = " or ".join(map(str, sorted({course.n for course in found})))
    notes(
        whole,
        f"Means over n = {counts} seeds; runs that diverged are left out. Solid: test loss after the last step; "
        "dashed: training loss of the last epoch.\nShaded: training breaks there, on the largest set. Marks: what "
        "limits the rate where the high rate ends; small dots: not looked at.",
        cells[0],
        4,
    )
    return whole


def _course(key: Key, seeds: Sequence[Sweep]) -> Course:
    factors = sorted({factor for sweep in seeds for factor in sweep.runs})
    points = tuple(_point(factor, seeds) for factor in factors)
    unit = points[0].lr / points[0].factor
    known = [sweep.edge for sweep in seeds if 0.0 < sweep.edge.estimate < math.inf]
    predicted = [sweep.predicted_edge(sweep.edge.low) for sweep in seeds]
    return Course(
        key=key,
        n=len(seeds),
        points=points,
        edge=_rates((each.estimate for each in known), unit),
        bracket=(unit * min(each.low for each in known), unit * max(each.high for each in known)) if known else None,
        optimum=_rates((sweep.optimum for sweep in seeds), unit),
        predicted=_rates(predicted, unit),
    )


def _rates(factors: Iterable[float], unit: float) -> Interval | None:
    values = [unit * factor for factor in factors if 0.0 < factor < math.inf]
    return geometric_interval(values) if values else None


def _point(factor: float, seeds: Sequence[Sweep]) -> PointLosses:
    runs = [sweep.runs[factor] for sweep in seeds if factor in sweep.runs]
    whole = [run for run in runs if not run.diverged]
    losses = [[run.metrics.get(name, math.nan) for run in whole] for name in ("last_epoch_loss", "test_loss")]
    train, test = (fmean(many) if many else math.nan for many in losses)
    return PointLosses(factor=factor, lr=mean_lr(runs[0].recipe), train=train, test=test, limit=limit_at(factor, seeds))


def _finished(run: RunRecord, recipe: Recipe) -> FinishedRun:
    metrics = {name: math.nan if value is None else value for name, value in run.result.metrics.items()}
    test = {} if run.result.test_loss is None else {"test_loss": run.result.test_loss}
    return FinishedRun(recipe=recipe, diverged=run.diverged, metrics=metrics | test, rows=run.rows)


def _draw_losses(axes: "Axes", chosen: Sequence[Course], sizes: Sequence[int]) -> None:
    for course in chosen:
        paint = color(sizes.index(course.key[2]))
        x = [point.factor for point in course.points]
        axes.plot(x, [point.train for point in course.points], color=paint, linestyle=(0, (4, 2)), linewidth=1.1)
        axes.plot(x, [point.test for point in course.points], color=paint)
        for point in course.points:
            mark, size = (".", 4.0) if point.limit is None else (MARKS[point.limit][0], 5.0)
            axes.plot([point.factor], [point.test], mark, color=paint, markersize=size)
    largest = max(chosen, key=lambda course: course.key[2])
    axes.set(xscale="log", yscale="log", xlabel="learning-rate factor f")
    if largest.edge is not None:
        _shade(axes, largest.edge.estimate / largest.lr_at_1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    plain_ticks(axes.yaxis)


def _draw_over_rate(axes: "Axes", chosen: Sequence[Course]) -> None:
    for place, course in enumerate(chosen):
        paint = color(place + 3)
        x = [point.lr for point in course.points]
        axes.plot(x, [point.train for point in course.points], color=paint, linestyle=(0, (4, 2)), linewidth=1.1)
        axes.plot(x, [point.test for point in course.points], color=paint, label=f"batch {course.key[1]:,}")
        if course.edge is not None:
            axes.axvline(course.edge.estimate, color=paint, linestyle=":", linewidth=1.4)
    axes.set(xscale="log", yscale="log", xlabel="learning rate, on the mean loss")
    axes.set_title("largest set; dotted: edges")
    axes.legend(loc="upper left")
    for axis in (axes.xaxis, axes.yaxis):
        plain_ticks(axis)


def _draw_edges(axes: "Axes", chosen: Sequence[Course]) -> None:
    sizes = sorted({course.key[1] for course in chosen})
    for course in chosen:
        place = sizes.index(course.key[1])
        at, paint = course.key[2] * 1.06 ** (place - (len(sizes) - 1) / 2), color(place + 3)
        if course.bracket is not None and course.edge is not None:
            axes.plot([at, at], course.bracket, color=paint, linewidth=1.0)
            axes.plot([at], [course.edge.estimate], "_", color=paint, markersize=10, markeredgewidth=2.2)
        if course.optimum is not None:
            axes.plot([at], [course.optimum.estimate], "o", color=paint, markersize=5)
        if course.predicted is not None:
            axes.plot([at], [course.predicted.estimate], "*", color=paint, markersize=9)
    for mark, name in (("_", "breaks (line: seeds' brackets)"), ("o", "best"), ("*", "breaks, by curvature")):
        axes.plot([], [], mark, color=QUIET, markeredgewidth=2.2 if mark == "_" else 1, label=name)
    axes.set(xscale="log", yscale="log", xlabel="training examples", ylabel="learning rate, on the mean loss")
    axes.set_title("edges and best rates")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.35)  # room for the names
    axes.legend(loc="upper left")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({course.key[2] for course in chosen}), minor=False)
    axes.xaxis.set_major_formatter("{x:,g}")
    plain_ticks(axes.yaxis)


def table(found: Sequence[Course]) -> list[tuple[str, str, str, str]]:
    """Batch size, examples, the factors between which seeds break, the best factor with its interval over seeds."""
    rows = [("batch", "examples", "breaks at f", "best f [95 %]")]
    for course in found:
        _, batch_size, examples = course.key
        unit = course.lr_at_1
        breaks = "-" if course.bracket is None else " to ".join(f"{end / unit:.3g}" for end in course.bracket)
        best = course.optimum and Interval(*(end / unit for end in _ends(course.optimum)))
        rows.append((f"{batch_size:,}", f"{examples:,}", breaks, interval_words(best, ".2g") if best else "-"))
    return rows


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.estimate, interval.low, interval.high


def _write_table(axes: "Axes", found: Sequence[Course]) -> None:
    axes.set_axis_off()
    rows = table(found)
    for line, row in enumerate(rows):
        for at, cell in zip((0.12, 0.34, 0.62, 1.0), row, strict=True):
            weight = "normal" if line else "bold"
            height = 0.97 - 0.9 * line / max(9, len(rows))
            axes.text(at, height, cell, ha="right", va="top", fontsize=8, fontweight=weight)


def _shade(axes: "Axes", start: float) -> None:
    low, high = axes.get_xlim()
    axes.axvspan(start, high, color=QUIET, alpha=0.12, linewidth=0)
    axes.set_xlim(low, high)


def _name(axes: "Axes", sizes: Sequence[int], limits: Collection[Limit | None]) -> None:
    """Names for the legend: sizes by color, limits by mark."""
    for place, size in enumerate(sizes):
        axes.plot([], [], color=color(place), label=f"{size:,} examples")
    for limit, (mark, name) in MARKS.items():
        if limit in limits:
            axes.plot([], [], mark, color=QUIET, markersize=5, label=name)
