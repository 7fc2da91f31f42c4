"""The learning rate as a function of progress: which factor multiplies the base rate at i/T of the run?

Progress is read at i/T in step i = 0, 1, ..., T-1, so a run of any length follows the same curve, and a stretched
budget stretches its schedule. Warm-up and milestones are fractions of the budget. Two schedules listen to the run
instead (`Plateau`, `DistanceDrop`): their curve is `factor` to the power of the drops so far, which the loop counts.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from rebatch.errors import RequestError
from rebatch.fields import require_types

Metric = Literal["validation_loss", "validation_accuracy", "train_loss"]


class _Schedule(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """What every schedule has: a linear warm-up from zero over the first `warmup` of the budget, 0 <= warmup < 1."""

    warmup: float = 0.0

    def __post_init__(self) -> None:
        require_types(self, "schedule")
        if not 0.0 <= self.warmup < 1.0:
            raise RequestError(f"schedule.warmup is a fraction of the budget, 0 <= warmup < 1, got {self.warmup}")


class Constant(_Schedule, frozen=True, tag="constant"):
    """The base learning rate all along."""


class MultiStep(_Schedule, frozen=True, tag="multistep"):
    """The rate is multiplied by `factor` at each milestone (a fraction of the budget, rising)."""

    milestones: tuple[float, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.milestones:
            raise RequestError("schedule.milestones needs at least one, got []; for none use type 'constant'")
        _require_rising("schedule.milestones", self.milestones)
        _require_factor("schedule.factor", self.factor)


class PiecewiseConstant(_Schedule, frozen=True, tag="piecewise_constant"):
    """From each of `points` on, (progress, factor), the rate is the base rate times that factor; 1 before the first."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_points(self.points)


class Cosine(_Schedule, frozen=True, tag="cosine"):
    """Half a cosine from the end of the warm-up down to `final` times the base rate (Loshchilov and Hutter, 2017)."""

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_factor("schedule.final", self.final)


class Linear(_Schedule, frozen=True, tag="linear"):
    """A straight line from the end of the warm-up to zero at the end of the budget."""


class PiecewiseLinear(_Schedule, frozen=True, tag="piecewise_linear"):
    """Straight lines through `points`, each (progress, factor); constant before the first and after the last."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_points(self.points)


class Plateau(_Schedule, frozen=True, tag="plateau"):
    """The rate drops by `factor` when `metric` has not improved for `patience`, at most `drops` times.

    `patience` is a fraction of the budget. The metric is read where the run is evaluated, so a drop follows such a row.
    """

    patience: float
    factor: float = 0.1
    drops: int = 3
    metric: Metric = "validation_loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.patience < 1.0:
            raise RequestError(f"schedule.patience is a fraction of the budget, 0 < patience < 1, got {self.patience}")
        if self.drops < 1:
            raise RequestError(f"schedule.drops must be at least 1, got {self.drops}; for none use type 'constant'")
        _require_factor("schedule.factor", self.factor)


class DistanceDrop(_Schedule, frozen=True, tag="distance_drop"):
    """The rate drops by `factor` when ||w - w_0|| first reaches each of `distances` (rising), or at `latest`.

    Hoffer et al. (2017) propose to drop by weight distance instead of a validation plateau and give no rule; this is
    ours: the distances are those that the small batch had travelled at its own drops, so that a batch of any size has
    diffused as far before it settles. `latest` are fractions of the budget, one for each distance, for a run that
    never gets there. The distance is read before every tenth step, oftener in runs of under
    1,000: it costs a pass over the weights.
    """

    distances: tuple[float, ...]
    latest: tuple[float, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.distances or len(self.distances) != len(self.latest):
            counts = f"{len(self.distances)} and {len(self.latest)}"
            raise RequestError(
                f"schedule.distances and schedule.latest must be equally many, at least one, got {counts}"
            )
        if any(not 0.0 < distance < math.inf for distance in self.distances):
            raise RequestError(f"schedule.distances must be positive and finite, got {list(self.distances)}")
        if any(a >= b for a, b in pairwise(self.distances)):
            raise RequestError(f"schedule.distances must rise, got {list(self.distances)}")
        _require_rising("schedule.latest", self.latest)
        _require_factor("schedule.factor", self.factor)


Feedback = Plateau | DistanceDrop
"""Schedules that listen to the run."""

Schedule = Constant | MultiStep | PiecewiseConstant | Cosine | Linear | PiecewiseLinear | Plateau | DistanceDrop


def lr_factor(schedule: Schedule, progress: float, drops: int = 0) -> float:
    """The factor on the base learning rate at `progress`, a fraction of the budget in [0, 1].

    `drops` is how often a schedule that listens to the run has dropped the rate so far; others do not read it.
    Warm-up multiplies the curve. Cosine and linear decay start where the warm-up ends; milestones and points lie where
    they say.

    >>> lr_factor(MultiStep(milestones=(0.5,), factor=0.1), 0.5)
    0.1
    >>> lr_factor(Linear(warmup=0.2), 0.1), lr_factor(Linear(warmup=0.2), 0.6)
    (0.5, 0.5)
    """
    if progress < schedule.warmup:
        return progress / schedule.warmup * _shape(schedule, progress, drops)
    return _shape(schedule, progress, drops)


def _shape(schedule: Schedule, progress: float, drops: int) -> float:
    since_warmup = max(0.0, (progress - schedule.warmup) / (1.0 - schedule.warmup))
    match schedule:
        case Constant():
            return 1.0
        case MultiStep(milestones=milestones, factor=factor):
            return factor ** bisect_right(milestones, progress + ROUNDING)
        case PiecewiseConstant(points=points):
            passed = bisect_right(points, progress + ROUNDING, key=lambda point: point[0])
            return points[passed - 1][1] if passed else 1.0
        case Cosine(final=final):
            return final + (1.0 - final) * (1.0 + math.cos(math.pi * since_warmup)) / 2.0
        case Linear():
            return 1.0 - since_warmup
        case PiecewiseLinear(points=points):
            return _interpolate(points, progress)
        case Plateau(factor=factor) | DistanceDrop(factor=factor):
            return factor**drops


# Step i of T reads i/T; 0.6 of 50 epochs must fall on step 30/50 although 0.6 * 50 is not exactly 30 in binary.
ROUNDING = 1e-12


def _interpolate(points: Sequence[tuple[float, float]], progress: float) -> float:
    after = bisect_right(points, progress, key=lambda point: point[0])
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[after - 1], points[after]
    return y0 + (y1 - y0) * (progress - x0) / (x1 - x0)


def _require_points(points: Sequence[tuple[float, float]]) -> None:
    if not points:
        raise RequestError("schedule.points needs at least one [progress, factor] pair, got none")
    _require_rising("schedule.points", [progress for progress, _ in points])
    for _, factor in points:
        _require_factor("schedule.points", factor)


def _require_rising(field: str, fractions: Sequence[float]) -> None:
    if any(not 0.0 <= fraction <= 1.0 for fraction in fractions):
        raise RequestError(f"{field} are fractions of the budget, 0 to 1, got {list(fractions)}")
    if any(a >= b for a, b in pairwise(fractions)):
        raise RequestError(f"{field} must rise, got {list(fractions)}")


def _require_factor(field: str, factor: float) -> None:
    if not (factor >= 0.0 and math.isfinite(factor)):
        raise RequestError(f"{field} must be at least 0 and finite, got {factor}")
