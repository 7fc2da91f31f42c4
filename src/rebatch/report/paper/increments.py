"""`hoffer-increments`: covariance and mean of one update over those of the small batch, under each rule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import QUIET, SHADE, color, notes, panels, plain_ticks, whiskers
from rebatch.report.paper.material import Material
from rebatch.study.claims import Quantity, comparisons, region
from rebatch.study.plan import Plan
from rebatch.study.studies.hoffer_2017.increments import PLACES, WITHIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {
    "trace_ratio": "trace of the covariance of an update",
    "mean_ratio": "length of the mean update",
}
AFTER = {0.0: "at the start", 1.0: "at the end"}


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One ratio to the small batch: mean over `n` seeds, and the regions that claims name."""

    arm: str
    place: float
    mean: Interval
    n: int
    claimed: tuple[tuple[float, float], ...]


def ratios(material: Material, kind: str) -> list[Ratio]:
    """The ratios of one kind, by arm and place; a place where a mean was not resolved is missing."""
    claimed = claimed_regions(material.plan)
    known = {each.name: each for each in material.summary.quantities}
    return [
        Ratio(
            arm=arm.name,
            place=place,
            mean=Interval(known[name].mean, known[name].low, known[name].high),
            n=len(known[name].values),
            claimed=tuple(claimed.get(name, ())),
        )
        for arm in material.arms
        for place in PLACES
        if (name := f"{kind}:{arm.name}@{place:g}") in known
    ]


def span(many: Sequence[Ratio]) -> tuple[float, float]:
    """The axis: all estimates, and intervals as far as they are positive and within five times the estimate."""
    ends = [1.0, *(each.mean.estimate for each in many)]
    for each in many:
        if math.isfinite(each.mean.low):
            ends += [max(each.mean.low, each.mean.estimate / 5), each.mean.high]
    return 0.8 * min(ends), 1.25 * max(ends)


def claimed_regions(plan: Plan) -> dict[str, list[tuple[float, float]]]:
    """The regions that claims name for a ratio.

    Of the mean's length, whose square may be estimated below zero, claims name differences: above and below the small
    batch's length by `WITHIN`, which for the ratio is this region.
    """
    tests = [part for claim in plan.design.claims for part in comparisons(claim.test) if isinstance(part, Quantity)]
    found: dict[str, list[tuple[float, float]]] = {}
    for test in tests:
        kind, _, place = test.name.partition(":")
        if kind == "mean_above":
            found.setdefault(f"mean_ratio:{place}", []).append((1 - WITHIN, 1 + WITHIN))
        else:
            found.setdefault(test.name, []).append(region(test))
    return found


def place_name(place: float) -> str:
    """Where in the reference run the weights were frozen.

    >>> place_name(0.0), place_name(0.1)
    ('at the start', 'after 10 % of the run')
    """
    return AFTER.get(place, f"after {100 * place:g} % of the run")


def figure(material: Material) -> "Figure | None":
    """A panel per kind of ratio, a row per arm and place."""
    found = {kind: ratios(material, kind) for kind in KINDS}
    if not any(found.values()):
        return None
    arms = list(dict.fromkeys(each.arm for many in found.values() for each in many))
    whole, (row,) = panels(1, 2, 9.4, 1.7 + 0.62 * len(arms), material.title)
    for (kind, many), axes in zip(found.items(), row, strict=True):
        _draw(axes, many, arms)
        axes.set(xlabel="times that of the small batch (log scale)", title=KINDS[kind])
    row[0].set_yticks(range(len(arms)), arms)
    row[1].set_yticks(range(len(arms)), [""] * len(arms))
    counts = sorted({each.n for many in found.values() for each in many})
    notes(
        whole,
        f"Marks: mean over n = {' or '.join(map(str, counts))} seeds, lines: its 95 % interval. Shaded: the ratios "
        "that a claim names. A mean that was not resolved has no ratio.",
        row[0],
    )
    return whole


def _draw(axes: "Axes", many: Sequence[Ratio], arms: Sequence[str]) -> None:
    axes.axvline(1.0, color=QUIET, linewidth=1.0)
    for each in many:
        at = arms.index(each.arm) + 0.25 * (PLACES.index(each.place) - 1)
        for low, high in each.claimed:
            if 0 < low < high < math.inf:
                axes.fill_betweenx([at - 0.12, at + 0.12], low, high, color=SHADE, alpha=0.15, linewidth=0)
        # An interval that reaches zero has no end on a logarithmic axis: it runs out of the panel.
        cut = Interval(each.mean.estimate, max(each.mean.low, 1e-6), each.mean.high)
        shown = cut if math.isfinite(each.mean.low) else each.mean
        whiskers(axes, shown, at, color(PLACES.index(each.place)), size=5)
    for place in PLACES:
        axes.plot([], [], "o", color=color(PLACES.index(place)), label=place_name(place))
    axes.set(xscale="log", xlim=span(many), ylim=(len(arms) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")
    plain_ticks(axes.xaxis)
