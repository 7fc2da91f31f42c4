"""`gradient-error`: the error of a batch's gradient by its size, and cosines with the full gradient and each other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import INK, QUIET, band, color, notes, panels, plain_ticks, wrapped
from rebatch.report.paper.material import Material
from rebatch.report.series import geometric_interval
from rebatch.study.studies.mini_batches.gradient_error import (
    AGREE,
    END,
    HALF_SIGNAL,
    PLACES,
    SHARE,
    SHUFFLED,
    SIZES,
    START,
    TENTH,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {START: "at the start", TENTH: "after a tenth of the run", END: "at the end"}
SAMPLES = {"sample_cosine": "with that of all", "sample_agreement": "of two such samples"}
LABELS = {"": "true labels", f"{SHUFFLED}:": "shuffled labels"}
DASHED = (0, (4, 2))
PANEL_WIDTH = 3.8  # inches


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Root mean square error over |G| by batch size, geometric means over `n` seeds, and sqrt(B_n (1/B - 1/N))."""

    n: int
    sizes: tuple[int, ...]
    means: tuple[Interval, ...]
    formula: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Course:
    """A quantity along the run: means over `n` seeds by epoch."""

    n: int
    epochs: tuple[float, ...]
    means: tuple[Interval, ...]


def errors(material: Material, place: float) -> Errors | None:
    """What was measured at a place; `None` where nothing was."""
    seen = {size: values(material, f"relative_error:{size}@{place:g}") for size in SIZES}
    scales, examples = values(material, f"noise_scale@{place:g}"), material.plan.examples
    sizes = tuple(size for size, found in seen.items() if found)
    if not sizes or not scales:
        return None
    middle = geometric_interval(scales).estimate
    return Errors(
        n=len(seen[sizes[0]]),
        sizes=sizes,
        means=tuple(geometric_interval(seen[size]) for size in sizes),
        formula=tuple(math.sqrt(middle * (1.0 / size - 1.0 / examples)) for size in sizes),
    )


def course(material: Material, name: str, prefix: str = "") -> Course | None:
    """A quantity at all places that have it; `None` where none has."""
    found = [
        (epoch.estimate, mean, len(values(material, f"{prefix}{name}@{place:g}")))
        for place in PLACES
        if (epoch := material.quantity(f"{prefix}epoch@{place:g}")) is not None
        and (mean := material.quantity(f"{prefix}{name}@{place:g}")) is not None
    ]
    if not found:
        return None
    epochs, means, counts = zip(*found, strict=True)
    return Course(n=max(counts), epochs=epochs, means=means)


def values(material: Material, name: str) -> tuple[float, ...]:
    """A quantity by seed; empty where there is none."""
    found = next((each for each in material.summary.quantities if each.name == name), None)
    return () if found is None else tuple(found.values)


def figure(material: Material) -> "Figure | None":
    """The panels of which something was measured."""
    drawn = [panel for panel in PANELS if panel.is_there(material)]
    if not drawn:
        return None
    width = PANEL_WIDTH * len(drawn)
    whole, (row,) = panels(1, len(drawn), width, 4.6, material.title)
    for panel, axes in zip(drawn, row, strict=True):
        panel.draw(axes, material)
    notes(whole, "\n".join(line for panel in drawn for line in wrapped(panel.reading, width)))
    return whole


def _draw_errors(axes: "Axes", material: Material) -> None:
    for at, (place, name) in enumerate(NAMES.items()):
        if (found := errors(material, place)) is None:
            continue
        band(axes, found.sizes, found.means, color(at), least=0.0)
        seen = [mean.estimate for mean in found.means]
        axes.plot(found.sizes, seen, "o", markersize=4.5, color=color(at), label=f"{name} (n = {found.n})")
        axes.plot(found.sizes, found.formula, color=color(at), linestyle=DASHED, linewidth=1.2)
    axes.axhline(1.0, color=QUIET, linewidth=0.9)
    axes.set(xscale="log", yscale="log", xlabel="batch size B (log scale)")
    axes.set(ylabel="error over the full gradient's length (log scale)", title="error of a batch's gradient")
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.minorticks_off()
    axes.set_ylim(top=4 * axes.get_ylim()[1])  # room for the names
    plain_ticks(axes.yaxis)
    axes.legend(loc="upper right")


def _draw_samples(axes: "Axes", material: Material) -> None:
    epochs: Sequence[float] = ()
    for at, (name, words) in enumerate(SAMPLES.items()):
        found, formula = course(material, name), course(material, f"{name}_expected")
        if found is None or formula is None:
            continue
        epochs = found.epochs
        _line(axes, found, at, f"{words} (n = {found.n})")
        axes.plot(epochs, [mean.estimate for mean in formula.means], color=color(at), linestyle=DASHED, linewidth=1.2)
    axes.axhline(HALF_SIGNAL, color=QUIET, linewidth=0.9)
    if epochs:
        axes.annotate("B = B_n", (epochs[-1], HALF_SIGNAL), ha="right", va="bottom", fontsize=8, color=QUIET)
    _over_epochs(axes, epochs)
    count = round(SHARE * material.plan.examples)
    axes.set(ylabel="cosine of gradients", title=f"samples of {100 * SHARE:g} %: {count:,} examples")
    axes.legend(loc="upper left")


def _draw_labels(axes: "Axes", material: Material) -> None:
    epochs: Sequence[float] = ()
    for at, (prefix, words) in enumerate(LABELS.items()):
        if (found := course(material, "batch_agreement", prefix)) is not None:
            epochs = found.epochs
            _line(axes, found, at, f"{words} (n = {found.n})")
    axes.axhline(AGREE, color=QUIET, linewidth=0.9)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    _over_epochs(axes, epochs)
    size = material.arms[0].recipe.batch_size
    axes.set(ylabel="cosine of two batches' gradients", title=f"disjoint mini-batches of {size}")
    axes.legend(loc="upper left")


def _line(axes: "Axes", found: Course, at: int, label: str) -> None:
    band(axes, found.epochs, found.means, color(at))
    axes.plot(found.epochs, [mean.estimate for mean in found.means], "o-", markersize=4, color=color(at), label=label)


def _over_epochs(axes: "Axes", epochs: Sequence[float]) -> None:
    """Cosines over 0 and then powers: the axis is logarithmic from the first place after the start on."""
    later = [epoch for epoch in epochs if epoch > 0.0]
    if later:
        axes.set_xscale("symlog", linthresh=min(later), linscale=0.6)
        axes.set_xticks(epochs, [f"{epoch:.2g}" for epoch in epochs])
        axes.minorticks_off()
        axes.set_xlim(left=-0.1 * min(later))
    axes.set_xlabel("epochs (log scale after the first)")
    axes.set_yticks([0.2 * fifth for fifth in range(6)])
    axes.set_ylim(-0.1, 1.3)  # room for the names


@dataclass(frozen=True)
class _Panel:
    """What is drawn, how it is to be read, and whether there is something to draw."""

    draw: "Callable[[Axes, Material], None]"
    reading: str
    is_there: Callable[[Material], bool]


PANELS = (
    _Panel(
        _draw_errors,
        "Errors: root mean squares, geometric means over n seeds; dashed: the root of B_n (1/B - 1/N).",
        lambda material: any(errors(material, place) for place in NAMES),
    ),
    _Panel(
        _draw_samples,
        "Samples: mean cosines over n seeds, bands: 95 % intervals; dashed: 1/sqrt(1 + B_n/B) and 1/(1 + B_n/B).",
        lambda material: course(material, "sample_cosine") is not None,
    ),
    _Panel(
        _draw_labels,
        f"Mini-batches: likewise; under {AGREE:g}, the upper line, they do not agree.",
        lambda material: any(course(material, "batch_agreement", prefix) for prefix in LABELS),
    ),
)
