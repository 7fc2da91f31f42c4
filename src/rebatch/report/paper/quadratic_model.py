"""`quadratic-model`: steps, examples and time to the target over the batch, with momentum and without."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rebatch.report.paper.canvas import MARKERS, QUIET, band, color, interval_words, notes, panels
from rebatch.report.paper.material import Course, Material
from rebatch.study.studies.mini_batches.quadratic_model import (
    EXACT,
    HARDWARE_BATCHES,
    MOMENTUM,
    SGD,
    SIZES,
    hyperbola,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.5))
SHOWN = SIZES[::2]
BELOW_NAMES = 0.78  # of the axes: names stand above


def course(material: Material, kind: str, name: str) -> Course | None:
    """`steps` or `examples` at all batch sizes that have run; `None` where none has."""
    return material.course({size: f"{kind}:{name}:{size}" for size in SIZES})


def times(steps: Course, hardware_batch: int) -> list[float]:
    """Time to the target over that of the best batch size, where a step takes a + b B."""
    seen = [each * (hardware_batch + size) for size, each in zip(steps.sizes, steps.estimates, strict=True)]
    return [each / min(seen) for each in seen]


def figure(material: Material) -> "Figure | None":
    """Steps with the hyperbola through both ends, examples, and time for three machines."""
    steps = {name: found for name in MOMENTUM if (found := course(material, "steps", name)) is not None}
    examples = {name: found for name in MOMENTUM if (found := course(material, "examples", name)) is not None}
    if not steps:
        return None
    whole, ((left, middle, right),) = panels(1, 3, 11.4, 4.4, material.title)
    for at, (name, found) in enumerate(steps.items()):
        _draw(left, found, at, _named(name, found))
        _draw_hyperbola(left, material, name, at)
    for at, (name, found) in enumerate(examples.items()):
        critical = material.quantity(f"critical:{name}")
        words = "" if critical is None else f": B_crit {interval_words(critical, ',.0f')}"
        _draw(middle, found, at, f"momentum {MOMENTUM[name]:g}{words}")
        if critical is not None:
            middle.axvline(critical.estimate, color=color(at), linestyle=DOTTED, linewidth=1.2, ymax=BELOW_NAMES)
    if SGD in steps:
        _draw_times(right, material, steps[SGD])
    left.set(title="steps", ylabel="steps to the target (log scale)")
    middle.set(title="examples", ylabel="examples to the target (log scale)")
    right.set(title="time of plain SGD, a step takes a + b B", ylabel="time over the best batch's (log scale)")
    for axes in (left, middle, right):
        _scale(axes)
    notes(
        whole,
        "Means over n starts, 95 % bands (thinner than the lines); the best rate at each batch size. Left, dashed: "
        "S_min (1 + B_crit/B) through both ends; dotted:\nthe exact gradient. Middle, dotted: B_crit. "
        "Right, dotted: sqrt(B_crit a/b).",
    )
    return whole


def _named(name: str, found: Course) -> str:
    return f"momentum {MOMENTUM[name]:g} (n = {found.n})"


def _draw(axes: "Axes", found: Course, at: int, label: str) -> None:
    band(axes, found.sizes, found.means, color(at))
    axes.plot(found.sizes, found.estimates, marker=MARKERS[at], markersize=4.5, color=color(at), label=label)


def _draw_hyperbola(axes: "Axes", material: Material, name: str, at: int) -> None:
    least, critical = material.quantity(f"steps:{name}:{EXACT}"), material.quantity(f"critical:{name}")
    if least is None or critical is None:
        return
    line = [hyperbola(least.estimate, critical.estimate, size) for size in SIZES]
    axes.plot(SIZES, line, color=QUIET, linestyle=DASHED, linewidth=1.0)
    axes.axhline(least.estimate, color=color(at), linestyle=DOTTED, linewidth=1.2)
    place = (SIZES[0], least.estimate)
    axes.annotate(f"{least.estimate:,.0f} steps", place, va="bottom", fontsize=8, color=color(at))


def _draw_times(axes: "Axes", material: Material, steps: Course) -> None:
    critical = material.quantity(f"critical:{SGD}")
    for at, batch in enumerate(HARDWARE_BATCHES):
        line = times(steps, batch)
        axes.plot(steps.sizes, line, marker=MARKERS[at], markersize=4.5, color=color(at + 2), label=f"a/b = {batch:,}")
        if critical is not None:
            best = (critical.estimate * batch) ** 0.5
            axes.axvline(best, color=color(at + 2), linestyle=DOTTED, linewidth=1.2, ymax=BELOW_NAMES)


def _scale(axes: "Axes", shown: Sequence[int] = SHOWN) -> None:
    axes.set(xscale="log", yscale="log", xlabel="batch size B (log scale)")
    axes.set_xticks(shown, [f"{size:,}" if size < 10**6 else "2²⁰" for size in shown])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.22)  # room for the names
    axes.legend(loc="upper center")
