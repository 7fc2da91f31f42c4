"""`page-forgetting` (F3): the course of half and of all data at both rates, and the loss of past batches by age."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rebatch.interval import Interval
from rebatch.report.paper.canvas import QUIET, band, color, interval_words, notes, panels
from rebatch.report.paper.material import Material
from rebatch.report.series import ArmRecord, column_curve
from rebatch.statistics import mean_interval
from rebatch.study.studies.page_2018.forgetting import FACTORS, HALF, LONGEST, WHOLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETS = {HALF: "half the data", WHOLE: "all data"}
COLUMNS = {"train_loss": "training", "validation_loss": "validation"}
DASHES = {"train_loss": (0, (4, 2)), "validation_loss": "solid"}

KINDS = {
    "replay": "as the run saw them",
    "fresh": "augmented anew",
    "plain": "not augmented",
    "batch_statistics": "batch norm as in training",
    "online": "when they were trained on",
}
# The losses that a replay is read against, by their dashes.
TEST, UNSEEN, COUPLED = "test set", "unseen, augmented", "unseen, batch norm as in training"
LEVELS = {TEST: "solid", UNSEEN: (0, (4, 2)), COUPLED: (0, (1, 2))}


@dataclass(frozen=True, kw_only=True)
class AgeCurve:
    """Mean loss of past batches over `n` runs, by their age in epochs."""

    n: int
    ages: tuple[float, ...]
    means: tuple[Interval, ...]


def age_curve(arm: ArmRecord, kind: str) -> AgeCurve | None:
    """One kind of replay over the bins that all finished runs have; `None` where there is none."""
    tables = [run.result.metrics for run in arm.runs if not run.diverged]
    names = [name for name in tables[0] if name.startswith(f"{kind}@")] if tables else []
    points = []
    for name in names:
        values = [value for table in tables if (value := table.get(name)) is not None]
        if len(values) == len(tables):
            points.append((float(name.partition("@")[2]), mean_interval(values)))
    if not points:
        return None
    ages, means = zip(*sorted(points, key=lambda point: point[0]), strict=True)
    return AgeCurve(n=len(tables), ages=ages, means=means)


def levels(arm: ArmRecord) -> dict[str, float]:
    """Mean loss of the test set, and of unseen examples augmented as those of a batch are."""
    runs = [run.result for run in arm.runs if not run.diverged]
    found = {
        TEST: [run.test_loss for run in runs],
        UNSEEN: [run.metrics.get("unseen_loss") for run in runs],
        COUPLED: [run.metrics.get("unseen_loss:batch_statistics") for run in runs],
    }
    known = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def figure(material: Material) -> "Figure | None":
    """A row per rate."""
    arms = {arm.name: arm for arm in material.arms if arm.runs}
    if not any(f"{WHOLE}:{label}" in arms for label in FACTORS):
        return None
    whole, grid = panels(len(FACTORS), 2, 9.4, 7.4, material.title)
    for (label, factor), (left, right) in zip(FACTORS.items(), grid, strict=True):
        for place, name in enumerate(SETS):
            if (arm := arms.get(f"{name}:{label}")) is not None:
                _draw_course(left, material, arm, place, SETS[name])
        left.set(xlabel="epochs of its own data", ylabel="loss (nats)", title=f"{factor:g} times the task's rate")
        left.set_ylim(bottom=0)
        if (arm := arms.get(f"{WHOLE}:{label}")) is not None:
            _draw_ages(right, arm)
        words = ", ".join(_numbers(material, f"{WHOLE}:{label}"))
        right.set(xlabel="epochs since the batch was trained on", title=f"{words} epochs" if words else "")
    grid[0][0].legend(loc="upper right")
    runs = sorted({len(arm.runs) for name, arm in arms.items() if name.startswith((HALF, WHOLE))})
    notes(
        whole,
        "Left, dashed: training loss; half the data are never augmented, all are where the task does. Right: batches "
        f"of the run on all data\nunder its final weights; an example is met again after an epoch. {LONGEST:g} epochs "
        f"stand for {LONGEST:g} or more. Without augmentation\nthe first three curves are one. Means over n = "
        f"{', '.join(map(str, runs))} seeds, bands: 95 % intervals.",
        grid[0][1],
        columns=4,
    )
    return whole


def _draw_course(axes: "Axes", material: Material, arm: ArmRecord, place: int, name: str) -> None:
    examples = material.plan.examples_of(material.planned(arm.name))
    for column, words in COLUMNS.items():
        found = column_curve(arm, column, examples=examples)
        if not found.n:
            continue
        epochs = [seen / examples for seen in found.examples]
        band(axes, epochs, found.means, color(place), least=0.0)
        values = [mean.estimate for mean in found.means]
        axes.plot(epochs, values, color=color(place), linestyle=DASHES[column], label=f"{name}: {words}")


def _draw_ages(axes: "Axes", arm: ArmRecord) -> None:
    for place, (kind, name) in enumerate(KINDS.items()):
        if (found := age_curve(arm, kind)) is None:
            continue
        values = [mean.estimate for mean in found.means]
        if kind == "replay":
            band(axes, found.ages, found.means, color(place), least=0.0)
        width = 2.2 if kind == "replay" else 1.1
        axes.plot(found.ages, values, color=color(place), linewidth=width, label=name)
    for name, level in levels(arm).items():
        axes.axhline(level, color=QUIET, linestyle=LEVELS[name], linewidth=1.1, label=name)


def _numbers(material: Material, arm: str) -> list[str]:
    """What was fitted, in words."""
    names = {"tau": "tau", "forgotten": "forgotten after"}
    found = {name: material.quantity(f"{name}:{arm}") for name in names}
    return [f"{names[name]} {interval_words(_cut(mean), '.2g')}" for name, mean in found.items() if mean is not None]


def _cut(mean: Interval) -> Interval:
    """The interval of a mean, no further than the numbers themselves go."""
    if not math.isfinite(mean.low):
        return mean
    return Interval(mean.estimate, max(mean.low, 0.0), min(mean.high, LONGEST))
