"""What every figure is made of: the plan, its summary, the finished runs with their rows, and published curves."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.report.series import ArmRecord, read_arms
from rebatch.report.summary import StudySummary
from rebatch.study.plan import Arm, Plan
from rebatch.study.store import Store

COLUMNS = ("panel", "batch", "iteration", "distance")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published curve, read off a figure: distances over steps of one batch size in one panel."""

    panel: str
    batch_size: int
    steps: tuple[float, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Course:
    """A quantity by batch size: means over `n` seeds."""

    n: int
    sizes: tuple[int, ...]
    means: tuple[Interval, ...]

    @property
    def estimates(self) -> list[float]:
        """The means themselves."""
        return [mean.estimate for mean in self.means]


@dataclass(frozen=True, kw_only=True)
class Material:
    """All that a figure may show of one study."""

    plan: Plan
    summary: StudySummary
    arms: tuple[ArmRecord, ...]
    published: tuple[Published, ...] = ()

    @property
    def title(self) -> str:
        """`hoffer-gap on digits/mlp, scale cpu`."""
        return f"{self.plan.study} on {self.plan.task}, scale {self.plan.scale}"

    def arm(self, name: str) -> ArmRecord | None:
        """The arm called `name`, if the study has it."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def planned(self, name: str) -> Arm:
        """The arm of the plan called `name`."""
        return next(arm for arm in self.plan.design.arms if arm.name == name)

    def quantity(self, name: str) -> Interval | None:
        """A quantity's mean over seeds with its 95 % interval."""
        found = next((each for each in self.summary.quantities if each.name == name), None)
        return None if found is None else Interval(found.mean, found.low, found.high)

    def course(self, names: Mapping[int, str]) -> Course | None:
        """The quantities of these names, by batch size, those that are there; `None` where none is."""
        known = {each.name: each for each in self.summary.quantities}
        found = {size: known[name] for size, name in names.items() if name in known}
        if not found:
            return None
        means = tuple(Interval(each.mean, each.low, each.high) for each in found.values())
        return Course(n=max(len(each.values) for each in found.values()), sizes=tuple(found), means=means)


def gather(plan: Plan, store: Store, summary: StudySummary, published: tuple[Published, ...] = ()) -> Material:
    """Read what the figures of `plan` need from its store."""
    return Material(plan=plan, summary=summary, arms=tuple(read_arms(plan, store)), published=published)


def read_published(path: Path) -> tuple[Published, ...]:
    """Published curves from a CSV file with the columns panel, batch, iteration and distance; `#` starts a comment.

    Raises:
        RequestError: no such file, a column is missing, or a number is none.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    except OSError as error:
        raise RequestError(f"--published {path} cannot be read: {error.strerror}") from None
    rows = list(csv.DictReader(lines))
    if lacking := [name for name in COLUMNS if not rows or rows[0].get(name) is None]:
        raise RequestError(f"--published {path} has no column {lacking[0]!r}; it needs {', '.join(COLUMNS)}")
    curves: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number, row in enumerate(rows, start=1):
        try:
            place = row["panel"], int(row["batch"])
            curves.setdefault(place, []).append((float(row["iteration"]), float(row["distance"])))
        except (TypeError, ValueError):
            raise RequestError(f"--published {path}, row {number} is no curve's point: {list(row.values())}") from None
    return tuple(
        Published(panel=panel, batch_size=size, steps=steps, distances=distances)
        for (panel, size), points in curves.items()
        for steps, distances in [tuple(zip(*sorted(points), strict=True))]
    )
