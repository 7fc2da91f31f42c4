"""The learning rate as a function of progress: which factor multiplies the base rate at i/T of the run?

Progress is read at i/T in step i = 0, 1, ..., T-1, so a run of any length follows the same curve, and a stretched
budget stretches its schedule. Warm-up and milestones are fractions of the budget.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from datetime import date, time
from functools import cache
from itertools import pairwise
from typing import Any, get_args

import msgspec

from rebatch.errors import RequestError


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
        if not self.points:
            raise RequestError("schedule.points needs at least one [progress, factor] pair, got none")
        _require_rising("schedule.points", [progress for progress, _ in self.points])
        for _, factor in self.points:
            _require_factor("schedule.points", factor)


Schedule = Constant | MultiStep | Cosine | Linear | PiecewiseLinear


def lr_factor(schedule: Schedule, progress: float) -> float:
    """The factor on the base learning rate at `progress`, a fraction of the budget in [0, 1].

    Warm-up multiplies the curve. Cosine and linear decay start where the warm-up ends; milestones and points lie where
    they say.

    >>> lr_factor(MultiStep(milestones=(0.5,), factor=0.1), 0.5)
    0.1
    >>> lr_factor(Linear(warmup=0.2), 0.1), lr_factor(Linear(warmup=0.2), 0.6)
    (0.5, 0.5)
    """
    if progress < schedule.warmup:
        return progress / schedule.warmup * _shape(schedule, progress)
    return _shape(schedule, progress)


def _shape(schedule: Schedule, progress: float) -> float:
    since_warmup = max(0.0, (progress - schedule.warmup) / (1.0 - schedule.warmup))
    match schedule:
        case Constant():
            return 1.0
        case MultiStep(milestones=milestones, factor=factor):
            return factor ** bisect_right(milestones, progress + _ROUNDING)
        case Cosine(final=final):
            return final + (1.0 - final) * (1.0 + math.cos(math.pi * since_warmup)) / 2.0
        case Linear():
            return 1.0 - since_warmup
        case PiecewiseLinear(points=points):
            return _interpolate(points, progress)


# Step i of T reads i/T; 0.6 of 50 epochs must fall on step 30/50 although 0.6 * 50 is not exactly 30 in binary.
_ROUNDING = 1e-12


def _interpolate(points: Sequence[tuple[float, float]], progress: float) -> float:
    after = bisect_right(points, progress, key=lambda point: point[0])
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[after - 1], points[after]
    return y0 + (y1 - y0) * (progress - x0) / (x1 - x0)


def _require_rising(field: str, fractions: Sequence[float]) -> None:
    if any(not 0.0 <= fraction <= 1.0 for fraction in fractions):
        raise RequestError(f"{field} are fractions of the budget, 0 to 1, got {list(fractions)}")
    if any(a >= b for a, b in pairwise(fractions)):
        raise RequestError(f"{field} must rise, got {list(fractions)}")


def _require_factor(field: str, factor: float) -> None:
    if not (factor >= 0.0 and math.isfinite(factor)):
        raise RequestError(f"{field} must be at least 0 and finite, got {factor}")


# What recipes and schedules share: every field has the type that it declares, from a file and from Python alike.

_CHOICES = {"last_batch": "'keep' or 'drop'", "loss_reduction": "'mean' or 'sum'", "betas": "two numbers"}
_KINDS = {"float": "a number", "int": "a whole number", "str": "a text", "bool": "true or false"}
_KINDS |= {"object": "a table", "array": "a list"}


def require_types(struct: msgspec.Struct, path: str) -> None:
    """Give each field the type it declares: an int becomes a float, a list a tuple, numpy's numbers Python's.

    Raises:
        RequestError: one line that names the field, which is part of `path`, its type and its value.
    """
    for name, kind in _declared(type(struct)):
        msgspec.structs.force_setattr(struct, name, typed(getattr(struct, name), kind, join(path, name)))


def typed(value: Any, kind: Any, path: str) -> Any:
    """`value` as `kind`, or one line that names it by `path`."""
    value = _builtin(value)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, RequestError):
            raise error.__cause__ from None
        if "Expected `object" in str(error):
            names = " or ".join(each.__name__ for each in get_args(kind)).replace("NoneType", "None")
            raise RequestError(f"{path} must be {names}, got {show_value(value)}") from None
        message, _, inner = str(error).partition(" - at `$")
        inner = inner.rstrip("`")
        raise RequestError(mismatch(message, path + inner, value_at(inner, value))) from None


def mismatch(message: str, path: str, value: object) -> str:
    """msgspec's complaint about a type, in our words."""
    kind = message.partition("`")[2].partition("`")[0].removesuffix(" | null")
    two = "two numbers" if "of length 2" in message else None
    limit = _CHOICES.get(path.split(".")[-1]) or two or _KINDS.get(kind)
    return f"{path} must be {limit}, got {show_value(value)}" if limit else f"{path}: {message}"


def value_at(path: str, value: Any) -> Any:
    """What lies at `path`, such as `optimizer.betas[0]`, in nested tables and lists."""
    for name in path.replace("[", ".").replace("]", "").split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list | tuple) and name.isdigit():
            value = value[int(name)]
    return value


def show_value(value: object) -> str:
    """A value as a recipe file spells it.

    >>> show_value([True, 0.1]), show_value("x")
    ('[true, 0.1]', "'x'")
    """
    if isinstance(value, bool | date | time):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {show_value(inner)}' for name, inner in value.items())}}}"
    return repr(value)


def join(path: str, name: str) -> str:
    """The path of a field: `optimizer`, `lr` -> `optimizer.lr`."""
    return f"{path}.{name}" if path else name


@cache
def _declared(kind: type[msgspec.Struct]) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in msgspec.structs.fields(kind)]


def _builtin(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's."""
    if isinstance(value, list | tuple):
        return [_builtin(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
