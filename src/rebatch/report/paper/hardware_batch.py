"""`hardware-batch`: accuracy and time an example over the micro-batch, and a step's time over the batch."""

from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import MARKERS, QUIET, band, color, interval_words, notes, panels, plain_ticks
from rebatch.report.paper.material import Course, Material
from rebatch.study.studies.mini_batches.hardware_batch import BATCHES, GRID, LINE, MICRO_BATCHES, VGG, milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracies(material: Material, batch_size: int) -> Course | None:
    """Test accuracy by micro-batch size."""
    return material.course({size: f"accuracy:{size}:batch:{batch_size}" for size in MICRO_BATCHES})


def example_times(material: Material, batch_size: int) -> Course | None:
    """Microseconds of a step over its examples by micro-batch size."""
    sizes = [micro for size, micro in GRID if size == batch_size]
    found = material.course({micro: milliseconds(batch_size, micro) for micro in sizes})
    if found is None:
        return None
    scale = 1e3 / batch_size
    means = tuple(Interval(scale * mean.estimate, scale * mean.low, scale * mean.high) for mean in found.means)
    return Course(n=found.n, sizes=found.sizes, means=means)


def step_times(material: Material) -> Course | None:
    """Milliseconds of an uncut step by batch size."""
    return material.course({size: milliseconds(size, size) for size in LINE})


def figure(material: Material) -> "Figure | None":
    """Accuracies, times of the grid, and the line a + b B."""
    seen = {size: found for size in BATCHES if (found := accuracies(material, size)) is not None}
    timed = {size: found for size in BATCHES if (found := example_times(material, size)) is not None}
    line = step_times(material)
    if not seen and line is None:
        return None
    whole, ((left, middle, right),) = panels(1, 3, 11.4, 4.2, material.title)
    for axes, courses in ((left, seen), (middle, timed)):
        for at, (size, found) in enumerate(courses.items()):
            _draw(axes, found, at, f"batch {size} (n = {found.n})")
        axes.set(xscale="log", xlabel="micro-batch size (log scale)")
    left.set(title="what is learned", ylabel="test accuracy (%)")
    middle.set(title="what it takes", yscale="log", ylabel="microseconds an example (log scale)")
    if line is not None:
        _draw_line(right, material, line)
    right.set(title="an uncut step", xlabel="batch size B (log scale)", ylabel="milliseconds a step (log scale)")
    for axes in (left, middle, right):
        if axes.has_data():
            plain_ticks(axes.xaxis)
            axes.legend(loc="best")
    for axes in (middle, right):
        if axes.has_data():
            plain_ticks(axes.yaxis)
    notes(whole, _reading(material))
    return whole


def _draw(axes: "Axes", found: Course, at: int, label: str) -> None:
    band(axes, found.sizes, found.means, color(at))
    marker = MARKERS[at % len(MARKERS)]
    axes.plot(found.sizes, found.estimates, marker=marker, markersize=4.5, color=color(at), label=label)


def _draw_line(axes: "Axes", material: Material, found: Course) -> None:
    axes.set(xscale="log", yscale="log")
    _draw(axes, found, 0, f"measured (n = {found.n})")
    fixed, each = material.quantity("fixed"), material.quantity("per_example")
    if fixed is None or each is None:
        return
    batch = material.quantity("hardware_batch")
    words = "a + b B" if batch is None else f"a + b B, a/b = {interval_words(batch)}"
    line = [fixed.estimate + each.estimate * size for size in found.sizes]
    axes.plot(found.sizes, line, color=QUIET, linestyle=(0, (4, 2)), linewidth=1.2, label=words)


def _reading(material: Material) -> str:
    text = "Means over n seeds, bands: 95 % intervals. Left: float64. Times: of the process, medians over rounds."
    numbers, kept = material.quantity(f"numbers:{VGG}"), material.quantity(f"kept_megabytes:{VGG}")
    if numbers is None or kept is None:
        return text
    return f"{text}\nVGG-16 puts out {numbers.estimate:,.0f} numbers an image; torch keeps {kept.estimate:.1f} MB."
