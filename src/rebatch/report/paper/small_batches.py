"""`small-batches`: over the batch size accuracy, steps and seconds to the target; and curvature after two sizes."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import MARKERS, QUIET, band, color, notes, panels, plain_ticks, whiskers
from rebatch.report.paper.material import Course, Material
from rebatch.report.series import arm_accuracy, geometric_interval
from rebatch.study.studies.mini_batches.small_batch_arms import EPOCHS, FLAT, STEPS, TUNED_SMALL, course_arm, tuned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.5))
TUNED = "tuned"
COURSES = {
    EPOCHS: "equal epochs, rate ∝ B",
    STEPS: "equal updates, rate ∝ B",
    TUNED: "equal epochs, rate tuned",
}
# Accuracies below are told, not drawn: a diverged run is at chance.
FLOOR = 95.0
SPACE = 2.5  # how far below a drawn accuracy the panel goes on: room for what is told, and for names


def accuracies(material: Material, course: str) -> Course | None:
    """Test accuracy in percent; with a tuned rate the chosen small batch stands at its own size."""
    prefix = tuned(0).removesuffix("0") if course == TUNED else course_arm(course, 0).removesuffix("0")
    found: dict[int, tuple[int, Interval]] = {}
    for arm in material.arms:
        size = arm.recipe.batch_size
        if arm.name == f"{prefix}{size}" or (course == TUNED and arm.name == TUNED_SMALL):
            seen = arm_accuracy(arm)
            if seen.mean is not None:
                found[size] = (len(seen.points), seen.mean)
    return _over_sizes(found)


def over_sizes(material: Material, prefix: str) -> Course | None:
    """Geometric means of the positive quantities `prefix` and a batch size."""
    found = {
        int(size): (len(each.values), geometric_interval(list(each.values)))
        for each in material.summary.quantities
        if each.name.startswith(prefix) and (size := each.name.removeprefix(prefix)).isdecimal()
    }
    return _over_sizes(found)


def _over_sizes(found: Mapping[int, tuple[int, Interval]]) -> Course | None:
    if not found:
        return None
    counts, means = zip(*(found[size] for size in sorted(found)), strict=True)
    return Course(n=max(counts), sizes=tuple(sorted(found)), means=means)


def hyperbola(material: Material, sizes: Sequence[int]) -> list[float]:
    """S_min (1 + B_crit/B) by the geometric means of what was fitted for each seed; empty where nothing was."""
    least, critical = (middle(material, name) for name in ("least_steps", "critical_batch_size"))
    return [] if least is None or critical is None else [least * (1.0 + critical / size) for size in sizes]


def middle(material: Material, name: str) -> float | None:
    """The geometric mean of a positive quantity."""
    found = next((each for each in material.summary.quantities if each.name == name), None)
    return None if found is None else geometric_interval(list(found.values)).estimate


def curvatures(material: Material) -> dict[str, tuple[int, Interval]]:
    """Seeds and geometric mean of the top eigenvalue after each run, and of the rescaled weights', by what it is of."""
    known = {each.name: list(each.values) for each in material.summary.quantities}
    found = {
        f"B = {size}\nequal\n{words}": known[name]
        for budget, words in ((STEPS, "updates"), (EPOCHS, "epochs"))
        for size in FLAT
        if (name := f"top_eigenvalue:{budget}, batch {size}") in known
    }
    plain, moved = known.get(f"top_eigenvalue:{STEPS}, batch {FLAT[0]}"), known.get("rescaled_by")
    if plain is not None and moved is not None and len(plain) == len(moved):
        rescaled = [value * 2.0**octaves for value, octaves in zip(plain, moved, strict=True)]
        found[f"B = {FLAT[0]}\nrescaled"] = rescaled
    return {words: (len(values), geometric_interval(values)) for words, values in found.items()}


def figure(material: Material) -> "Figure | None":
    """Four panels; `None` where no run has left anything."""
    courses = {course: accuracies(material, course) for course in COURSES}
    steps, seconds = over_sizes(material, "steps:"), over_sizes(material, "seconds:")
    if steps is None and not any(courses.values()):
        return None
    whole, ((top_left, top_right), (left, right)) = panels(2, 2, 9.4, 7.6, material.title)
    _draw_accuracies(top_left, courses)
    if steps is not None:
        _draw_steps(top_right, material, steps)
    if seconds is not None:
        _draw_seconds(left, material, seconds)
    _draw_curvatures(right, curvatures(material))
    notes(
        whole,
        "Means over n seeds (of steps, seconds and eigenvalues geometric ones), bands and bars: 95 % intervals. The "
        "target is a validation loss, at a constant rate\nthat is tuned for each B; seconds are its steps times those "
        "of a step on the machine of the runs.",
    )
    return whole


def _draw_accuracies(axes: "Axes", courses: "Mapping[str, Course | None]") -> None:
    shown: list[float] = []
    for at, (course, found) in enumerate(courses.items()):
        if found is None:
            continue
        inside = [(size, mean) for size, mean in zip(found.sizes, found.means, strict=True) if mean.estimate >= FLOOR]
        sizes, means = [size for size, _ in inside], [mean for _, mean in inside]
        shown += [mean.estimate for mean in means]
        band(axes, sizes, means, color(at))
        values = [mean.estimate for mean in means]
        label = f"{COURSES[course]} (n = {found.n})"
        axes.plot(sizes, values, marker=MARKERS[at], markersize=4, color=color(at), label=label)
    low = min(shown, default=FLOOR) - SPACE
    axes.set_ylim(low, 100.0)
    for at, found in enumerate(courses.values()):
        for size, value in zip(found.sizes, found.estimates, strict=True) if found else ():
            if value < FLOOR:
                place = (size, low + (0.03 + 0.1 * at) * SPACE)
                axes.annotate(f"↓{value:.0f}", place, ha="center", fontsize=7.5, color=color(at))
    _sizes(axes, [size for found in courses.values() if found for size in found.sizes])
    axes.set(ylabel="test accuracy at the last step (%)", title="accuracy")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 0.16))


def _draw_steps(axes: "Axes", material: Material, found: Course) -> None:
    band(axes, found.sizes, found.means, color(0), least=0.0)
    axes.plot(found.sizes, found.estimates, "o", markersize=4.5, color=color(0), label=f"measured (n = {found.n})")
    fitted = hyperbola(material, found.sizes)
    if fitted:
        least, critical = (middle(material, name) or math.nan for name in ("least_steps", "critical_batch_size"))
        label = f"{least:.3g} (1 + {critical:.3g}/B)"
        axes.plot(found.sizes, fitted, color=color(0), linestyle=DASHED, linewidth=1.2, label=label)
        perfect = [least * critical / size for size in found.sizes]
        axes.plot(found.sizes, perfect, color=QUIET, linestyle=DOTTED, linewidth=1.2, label="equal examples")
    axes.set(yscale="log", ylabel="steps to the target (log scale)", title="steps")
    axes.set_ylim(bottom=0.5 * min(found.estimates))
    _sizes(axes, found.sizes)
    plain_ticks(axes.yaxis)
    axes.legend(loc="upper right")


def _draw_seconds(axes: "Axes", material: Material, found: Course) -> None:
    band(axes, found.sizes, found.means, color(1), least=0.0)
    axes.plot(found.sizes, found.estimates, "o-", markersize=4.5, color=color(1), label=f"measured (n = {found.n})")
    fastest = middle(material, "fastest")
    if fastest is not None:
        label = f"sqrt(a B_crit / b) = {fastest:.3g}"
        axes.axvline(fastest, color=QUIET, linestyle=DOTTED, linewidth=1.2, label=label)
    axes.set(yscale="log", ylabel="seconds to the target (log scale)", title="time")
    _sizes(axes, found.sizes)
    plain_ticks(axes.yaxis)
    axes.legend(loc="upper center")


def _draw_curvatures(axes: "Axes", found: Mapping[str, tuple[int, Interval]]) -> None:
    for at, (_, mean) in enumerate(found.values()):
        whiskers(axes, mean, at, color(2), upright=True)
    axes.set_xticks(range(len(found)), list(found), fontsize=8)
    axes.set_xlim(-0.5, len(found) - 0.5)
    counts = sorted({n for n, _ in found.values()})
    seeds = f", n = {' or '.join(map(str, counts))}" if counts else ""
    axes.set(ylabel="top eigenvalue (log scale)", title=f"curvature at the end, one rate{seeds}")
    if found:
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)


def _sizes(axes: "Axes", sizes: Sequence[int]) -> None:
    """Powers of two, every other one named where there are many."""
    known = sorted(set(sizes))
    axes.set_xscale("log", base=2)
    named = known if len(known) < 8 else known[::2]
    axes.set_xticks(named, [f"{size:,}" for size in named])
    axes.set_xticks([], minor=True)
    axes.set_xlim(known[0] / 1.4, 1.4 * known[-1])
    axes.set_xlabel("batch size B (log scale)")
