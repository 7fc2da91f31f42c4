"""Runs over learning rates and batch sizes: reading their table, and the best rate of each batch size, with its doubt.

One batch size's losses over the logarithm of the rate are a valley with a noisy floor, gentle below the best rate and
steep above it. The best rate is the vertex of the parabola by least squares through the lowest loss and up to three
neighbors on either side: with one neighbor it follows the noise. The steeper side moves all vertices alike,
so little of that reaches the ratio of two rates.
"""

import csv
import math
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rebatch.errors import RequestError, did_you_mean
from rebatch.interval import Interval

Array = NDArray[np.float64]
Edge = Literal["lowest", "highest"]

# Neighbors on either side of the lowest loss. On the 17 groups of the Step-Law table the best rate of a batch size that
# was left out is predicted within .137 (ln) with 2, .115 with 3, .121 with 4.
REACH = 3
# A rate whose loss rises so many times as high as any on the other side of the lowest is beyond the valley.
CLIFF = 32.0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training run; a loss that is not finite is a run that diverged, and counts as the worst."""

    lr: float
    batch_size: float
    loss: float
    group: str = ""
    seed: str = ""

    def __post_init__(self) -> None:
        for name in ("lr", "batch_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise RequestError(f"{name} must be positive and finite, got {getattr(self, name):g}")


class Sweep(msgspec.Struct, frozen=True):
    """Runs of one task over learning rates and batch sizes, or of several, told apart by `group`."""

    runs: tuple[Run, ...]

    def groups(self) -> dict[str, "Sweep"]:
        """One sweep for each group, by name."""
        ordered = sorted(self.runs, key=lambda run: run.group)
        return {name: Sweep(tuple(runs)) for name, runs in groupby(ordered, key=lambda run: run.group)}


class BestRate(msgspec.Struct, frozen=True, kw_only=True):
    """The best rate at one batch size.

    Attributes:
        lr: the parabola's vertex; the end itself where the lowest loss lies at an end of the rates tried.
        log_error: standard error of ln lr; inf at an end.
        edge: at which end of the rates tried the lowest loss lies: the best rate may lie beyond.
        loss: the lowest mean loss.
        rates: how many rates were tried.
    """

    batch_size: float
    lr: float
    log_error: float
    edge: Edge | None
    loss: float
    rates: int

    def interval(self, level: float = 0.9) -> Interval:
        """The rate with its interval; open on the side on which the best may lie beyond the rates tried."""
        from scipy.special import ndtri

        if self.edge is not None:
            low, high = (0.0, self.lr) if self.edge == "lowest" else (self.lr, math.inf)
            return Interval(self.lr, low, high)
        reach = float(ndtri(0.5 + level / 2.0)) * self.log_error
        return Interval(self.lr, self.lr * math.exp(-reach), self.lr * math.exp(reach))


def read_sweep(path: Path, columns: Mapping[str, str] | None = None) -> Sweep:
    """Read a table of runs, a CSV file with a header.

    Args:
        path: the file.
        columns: what the file calls `lr`, `batch_size`, `loss`, `group` or `seed`, where it differs, such as
            {"batch_size": "batch_tokens"}. `group` and `seed` may be absent, other columns are ignored. A loss may be
            nan or inf: a run that diverged.

    Raises:
        RequestError: one line that names the file, the line, the column and what is wrong.
    """
    names = {name: name for name in ("lr", "batch_size", "loss", "group", "seed")} | dict(columns or {})
    if unknown := set(names) - set(Run.__struct_fields__):
        first = min(unknown)
        raise RequestError(f"a sweep has no {first!r}{did_you_mean(first, Run.__struct_fields__)}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if not reader.fieldnames:
                raise RequestError("the file is empty; it needs a header with lr, batch_size and loss")
            present = _present(names, reader.fieldnames or (), set(columns or {}))
            runs = tuple(_run(row, present, reader.line_num) for row in reader)
    except OSError as error:
        raise RequestError(f"cannot read the sweep {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise RequestError(f"{path} is not a text file of comma-separated values in UTF-8") from None
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    if not runs:
        raise RequestError(f"{path}: the table has no runs, only a header")
    return Sweep(runs)


def best_rates(sweep: Sweep) -> list[BestRate]:
    """The best rate of each batch size, by rising batch size; batch sizes with fewer than 3 rates are left out.

    `log_error` comes from how the losses scatter around the parabolas, pooled over batch sizes, and is at most what
    a best rate anywhere between the vertex's neighbors would have.

    Raises:
        RequestError: several groups; no batch size with three rates and a finite loss.
    """
    curves = _curves(sweep)
    valleys = [_Valley.of(size, rates, losses) for size, (rates, losses) in sorted(curves.items())]
    freedom = sum(valley.freedom for valley in valleys)
    variance = sum(valley.rss for valley in valleys) / freedom if freedom else math.inf
    return [valley.best(variance) for valley in valleys]


class _Valley(msgspec.Struct, frozen=True, kw_only=True):
    """A batch size's curve around its lowest loss: x = ln rate - ln `rates[lowest]`, and the parabola over x.

    `gradient` is that of the vertex with respect to the losses in the window, `room` the distance of its neighbors.
    """

    batch_size: float
    rates: Array
    lowest: int
    loss: float
    vertex: float = 0.0
    squared_gradient: float = math.inf
    room: float = 0.0
    rss: float = 0.0
    freedom: int = 0

    @classmethod
    def of(cls, size: float, rates: Array, losses: Array) -> "_Valley":
        lowest = int(losses.argmin())
        valley = cls(batch_size=size, rates=rates, lowest=lowest, loss=float(losses[lowest]))
        if lowest in (0, len(rates) - 1):
            return valley
        window = _window(losses, lowest)
        x, y = np.log(rates / rates[lowest]), losses
        if not _opens(x[window], y[window]):
            window = slice(lowest - 1, lowest + 2)
        left, right = float(x[lowest - 1]), float(x[lowest + 1])
        room = right - left
        if not _opens(x[window], y[window]):
            return msgspec.structs.replace(valley, room=room)
        design = np.vander(x[window], 3)
        inverse = np.linalg.pinv(design)
        a, b, c = inverse @ y[window]
        gradient = -inverse[1] / (2.0 * a) + b * inverse[0] / (2.0 * a**2)
        return msgspec.structs.replace(
            valley,
            vertex=float(np.clip(-b / (2.0 * a), left, right)),
            squared_gradient=float(gradient @ gradient),
            room=room,
            rss=float(((y[window] - design @ (a, b, c)) ** 2).sum()),
            freedom=len(x[window]) - 3,
        )

    def best(self, variance: float) -> BestRate:
        """With the losses' variance; a rate that could lie anywhere between its neighbors has error room/sqrt(12)."""
        ends: dict[int, Edge] = {0: "lowest", len(self.rates) - 1: "highest"}
        edge = ends.get(self.lowest)
        most = self.room / math.sqrt(12.0)
        error = math.inf if edge else min(most, math.sqrt(variance * self.squared_gradient) if variance else 0.0)
        return BestRate(
            batch_size=self.batch_size,
            lr=float(self.rates[self.lowest]) * math.exp(self.vertex),
            log_error=error,
            edge=edge,
            loss=self.loss,
            rates=len(self.rates),
        )


def _window(losses: Array, lowest: int) -> slice:
    """The lowest loss and up to `REACH` neighbors on either side that lie in the valley."""
    height = losses - losses[lowest]
    left, right = height[max(0, lowest - REACH) : lowest][::-1], height[lowest + 1 : lowest + 1 + REACH]
    return slice(lowest - _inside(left, right), lowest + _inside(right, left) + 1)


def _inside(side: Array, other: Array) -> int:
    """How many neighbors on one side lie in the valley, going outward."""
    count = 0
    while count < len(side) and side[count] <= CLIFF * other.max():
        count += 1
    return count


def _opens(x: Array, y: Array) -> bool:
    return len(x) >= 3 and bool(np.isfinite(y).all() and np.polyfit(x, y, 2)[0] > 0.0)


def _curves(sweep: Sweep) -> dict[float, tuple[Array, Array]]:
    """By batch size: rising rates and the mean loss at each, where there are at least three rates."""
    if len(names := sorted({run.group for run in sweep.runs})) > 1:
        raise RequestError(
            f"a knee belongs to one task, and the sweep has {len(names)} groups ({', '.join(names[:3])}, ...); take one"
        )
    losses: dict[float, dict[float, list[float]]] = {}
    for run in sweep.runs:
        loss = run.loss if math.isfinite(run.loss) else math.inf
        losses.setdefault(run.batch_size, {}).setdefault(run.lr, []).append(loss)
    curves = {}
    for size, found in losses.items():
        rates = sorted(found)
        means = np.array([np.mean(found[lr]) for lr in rates])
        if len(rates) >= 3 and np.isfinite(means).any():
            curves[size] = (np.array(rates), means)
    if not curves:
        most = max((len(found) for found in losses.values()), default=0)
        raise RequestError(
            f"a best rate needs at least 3 learning rates at a batch size and a finite loss, got at most {most} rates; "
            "run more rates"
        )
    return curves


def _present(names: Mapping[str, str], header: Iterable[str], asked: set[str]) -> dict[str, str]:
    """The columns to read; `group` and `seed` may be missing unless they were asked for."""
    header = list(header)
    for name, column in names.items():
        if column not in header and (name in asked or name in ("lr", "batch_size", "loss")):
            raise RequestError(f"no column {column!r} for {name}{did_you_mean(column, header)}")
    return {name: column for name, column in names.items() if column in header}


def _run(row: Mapping[str, str], columns: Mapping[str, str], line: int) -> Run:
    values: dict[str, str | float] = {name: row[column] or "" for name, column in columns.items()}
    for name in ("lr", "batch_size", "loss"):
        try:
            values[name] = float(values[name])
        except ValueError:
            raise RequestError(f"line {line}: {columns[name]} must be a number, got {values[name]!r}") from None
    try:
        return Run(**values)  # type: ignore[arg-type]
    except RequestError as error:
        raise RequestError(f"line {line}: {error}") from None
