"""`saddle-escape`: steps to leave saddles over the batch, and a well over Kramers' exponent and at one rate/batch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rebatch.escape import CURVATURE, kramers_exponent, kramers_steps, saddle_slope
from rebatch.interval import Interval
from rebatch.report.paper.canvas import (
    MARKERS,
    QUIET,
    band,
    color,
    interval_words,
    notes,
    panels,
    plain_ticks,
)
from rebatch.report.paper.material import Course, Material
from rebatch.study.studies.mini_batches.saddle_escape import (
    FULL,
    LINEAR,
    MOST,
    RANDOM,
    SADDLE_BATCHES,
    SADDLE_LR,
    SADDLE_NOISE,
    SADDLES,
    WELL,
    WELL_BATCHES,
    WELL_LR,
    WELL_NOISE,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"saddle": "x²/2 - y²/2 + y⁴/4", "sphere": "-Σ u⁴ on the sphere"}
DASHED = (0, (4, 2))


def steps(material: Material, surface: str, sizes: Sequence[int]) -> Course | None:
    """The steps to leave at those of `sizes` that have run; `None` where none has."""
    return material.course({size: f"steps:{surface}:{size}" for size in sizes})


def law(found: Course, slope: float) -> list[float]:
    """A line of the law's slope in ln B through the middle of the points."""
    logs = np.log(found.sizes)
    return [float(np.mean(found.estimates) + slope * at) for at in logs - logs.mean()]


def figure(material: Material) -> "Figure | None":
    """Saddles, the well at one rate, the well at one rate over batch."""
    saddles: dict[str, Course | None] = {surface: steps(material, surface, SADDLE_BATCHES) for surface in SADDLES}
    well, linear = (steps(material, WELL, sizes) for sizes in (WELL_BATCHES, tuple(LINEAR)))
    if well is None and linear is None and not any(saddles.values()):
        return None
    whole, ((left, middle, right),) = panels(1, 3, 11.4, 4.6, material.title)
    _draw_saddles(left, material, saddles)
    if well is not None:
        _draw_well(middle, material, well)
    _draw_examples(right, {"one rate": well, "rate ∝ B": linear})
    notes(
        whole,
        "Means over n seeds, bands: 95 % intervals. Left, dashed: slope 1/(2 ln(1 + lr c)) through the middle of the "
        f"points; lr {SADDLE_LR:g}, noise of one example's\ngradient {SADDLE_NOISE:g} in each coordinate. Middle and "
        f"right: lr {WELL_LR:g} unless scaled, noise {WELL_NOISE:g}; dashed: Kramers, with no free number.",
    )
    return whole


def _draw_saddles(axes: "Axes", material: Material, saddles: "Mapping[str, Course | None]") -> None:
    for at, (surface, found) in enumerate(saddles.items()):
        if found is None:
            continue
        fitted, slope = material.quantity(f"slope:{surface}"), saddle_slope(SADDLE_LR, CURVATURE[surface])
        fit = "" if fitted is None else f"\nslope {interval_words(fitted)}, law {slope:.3g}"
        _points(axes, found.sizes, found, at, f"{NAMES[surface]} (n = {found.n}){fit}")
        axes.plot(found.sizes, law(found, slope), color=color(at), linestyle=DASHED, linewidth=1.2)
    _draw_exact(axes, material)
    axes.set_xscale("log")
    axes.set_xticks(SADDLE_BATCHES, [f"{size:,}" for size in SADDLE_BATCHES])
    axes.minorticks_off()
    axes.set(xlabel="batch size B (log scale)", ylabel="steps to leave", title="saddles")
    axes.set_ylim(0, 1.45 * axes.get_ylim()[1])  # room for the names
    axes.legend(loc="upper left")


def _draw_exact(axes: "Axes", material: Material) -> None:
    """How long the exact gradient takes from a random start, and how many leave from the saddle itself."""
    for at, surface in enumerate(SADDLES):
        if (start := material.quantity(f"steps:{surface}:{RANDOM}")) is not None:
            axes.axhline(start.estimate, color=color(at), linestyle=(0, (1, 1.5)), linewidth=1.2)
            words, place = "exact gradient, random start", (SADDLE_BATCHES[-1], start.estimate)
            axes.annotate(words, place, ha="right", va="bottom", fontsize=8, color=color(at))
    left = [material.quantity(f"left:{surface}:{FULL}") for surface in SADDLES]
    if shares := [mean.estimate for mean in left if mean is not None]:
        words = f"exact gradient on it: {100 * max(shares):g} % leave in {MOST:,} steps"
        axes.annotate(words, (0.02, 0.02), xycoords="axes fraction", fontsize=8, color=QUIET)


def _draw_well(axes: "Axes", material: Material, found: Course) -> None:
    heights = [kramers_exponent(size, WELL_LR, WELL_NOISE) for size in found.sizes]
    fitted = material.quantity(f"slope:{WELL}")
    fit = "" if fitted is None else f"\nslope {interval_words(fitted)}, law 1"
    _points(axes, heights, found, 0, f"(y² - 1)²/4 (n = {found.n}){fit}")
    expected = [kramers_steps(size, WELL_LR, WELL_NOISE) for size in found.sizes]
    axes.plot(heights, expected, color=color(0), linestyle=DASHED, linewidth=1.2)
    axes.set(
        yscale="log", xlabel="2 B ΔL / (lr σ²)", ylabel="steps to leave (log scale)", title="a bad minimum, one rate"
    )
    axes.set_xticks(heights, [f"{height:g}\nB = {size}" for height, size in zip(heights, found.sizes, strict=True)])
    axes.set_ylim(top=4 * axes.get_ylim()[1])  # room for the names
    plain_ticks(axes.yaxis)
    axes.legend(loc="upper left")


def _draw_examples(axes: "Axes", many: "Mapping[str, Course | None]") -> None:
    for at, (name, found) in enumerate(many.items()):
        if found is None:
            continue
        scaled = [
            Interval(*(size * bound / 1000 for bound in (mean.estimate, mean.low, mean.high)))
            for size, mean in zip(found.sizes, found.means, strict=True)
        ]
        examples = Course(n=found.n, sizes=found.sizes, means=tuple(scaled))
        _points(axes, found.sizes, examples, at, f"{name} (n = {found.n})")
    axes.set(xscale="log", yscale="log", xlabel="batch size B (log scale)", title="the same: one rate, one rate/batch")
    axes.set_ylabel("thousand examples to leave (log scale)")
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.legend(loc="upper left")


def _points(axes: "Axes", x: Sequence[float], found: Course, at: int, label: str) -> None:
    band(axes, x, found.means, color(at))
    marker = MARKERS[at % len(MARKERS)]
    axes.plot(x, found.estimates, marker=marker, linestyle="none", markersize=5, color=color(at), label=label)
