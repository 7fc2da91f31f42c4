"""A law of the knee, ln K = c + d ln D [+ n ln N], fitted to the tuned rates of groups, and tried on groups left out.

What `step_law.py` stands on. The pairs of a group share its runs, so groups, or all groups of one model size, are
left out as a whole; what is chosen (the bend) and calibrated (the interval) is so inside the groups that are left.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from rebatch.errors import RequestError
from rebatch.knee import Doubt, Knee

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

BENDS = (1.0, 2.0, 4.0, 8.0, math.inf)
# Leaving two out must leave something to fit.
FEWEST = 4
# Reference sizes: c is ln K there.
TOKENS, PARAMETERS = 2e10, 4e8
# Where the search for c starts, in ln from the middle batch size.
SHIFTS = (-0.5, 0.0, 0.5)
NORMAL_90 = 1.6448536269514722


@dataclass(frozen=True)
class Curve:
    """The runs of one group at one batch size that count: rising ln lr, their losses, and the tuned ln lr."""

    group: str
    parameters: float
    tokens: float
    batch_size: float
    log_lr: Array
    losses: Array
    tuned: float

    def regret(self, log_lr: float) -> float:
        """The loss at a rate, linear between runs and flat beyond them, above the lowest."""
        return float(np.interp(log_lr, self.log_lr, self.losses) - self.losses.min())


@dataclass(frozen=True)
class Pair:
    """Tuned at `old`, carried to `new`, both of one group."""

    old: Curve
    new: Curve

    @property
    def log_kappa(self) -> float:
        return math.log(self.new.batch_size / self.old.batch_size)


@dataclass(frozen=True)
class Law:
    """ln K = c + d ln(D / TOKENS) + n ln(N / PARAMETERS), with the curve's exponent and bend."""

    c: float
    d: float
    n: float
    exponent: float
    bend: float

    def knee(self, curve: Curve) -> Knee:
        log_knee = self.c + self.d * math.log(curve.tokens / TOKENS) + self.n * math.log(curve.parameters / PARAMETERS)
        return Knee(batch_size=math.exp(log_knee), exponent=self.exponent, bend=self.bend)

    def carry(self, pair: Pair) -> float:
        """ln of the rate at the new batch size."""
        knee = self.knee(pair.old)
        return pair.old.tuned + knee.log_rate(pair.new.batch_size) - knee.log_rate(pair.old.batch_size)


def read_curves(path: Path) -> list[Curve]:
    """The curves that count, of the groups that count: with 5 rates or more, an inner best, an upward parabola."""
    runs: dict[tuple[str, float, float, float], list[tuple[float, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                key = (row["group"], float(row["N"]), float(row["D"]), float(row["batch_tokens"]))
                runs.setdefault(key, []).append((math.log(float(row["lr"])), float(row["loss"])))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    except KeyError as error:
        raise RequestError(f"{path} needs the columns group, N, D, lr, batch_tokens, loss; it has no {error}") from None
    except (TypeError, ValueError) as error:
        raise RequestError(f"{path} holds something that is no positive number: {error}") from None
    curves = [curve for key, each in sorted(runs.items()) if (curve := _curve(*key, sorted(each)))]
    sizes = {name: sum(curve.group == name for curve in curves) for name in {curve.group for curve in curves}}
    curves = [curve for curve in curves if sizes[curve.group] >= 5]
    if (count := len({curve.group for curve in curves})) < FEWEST:
        limit = f"at least {FEWEST} that count (5 batch sizes each)"
        raise RequestError(f"{path}: leaving groups out needs {limit}, got {count}; give a table with more")
    return curves


def _curve(group: str, n: float, d: float, batch_size: float, runs: list[tuple[float, float]]) -> Curve | None:
    x, y = np.array(runs).T
    best = int(y.argmin())
    if len(x) < 5 or best in (0, len(x) - 1):
        return None
    a, b, _ = np.polyfit(x[best - 1 : best + 2] - x[best], y[best - 1 : best + 2], 2)
    return Curve(group, n, d, batch_size, x, y, float(x[best] - b / (2.0 * a))) if a > 0.0 else None


def pairs_of(curves: Sequence[Curve]) -> list[Pair]:
    """Ordered pairs of one group whose batch sizes are 2 or more apart."""
    pairs = (Pair(old, new) for old, new in product(curves, repeat=2) if old.group == new.group)
    return [pair for pair in pairs if abs(pair.log_kappa) >= math.log(2) - 1e-9]


def fit_law(curves: Sequence[Curve], bend: float, *, size: bool) -> Law:
    """Least squares of the tuned ln rates, each group at a height of its own; with `size` K depends on N too.

    For each K the best exponent is linear (variable projection), so only the law of K is searched.
    """
    b, y = np.log([curve.batch_size for curve in curves]), np.array([curve.tuned for curve in curves])
    d = np.log([curve.tokens / TOKENS for curve in curves])
    n = np.log([curve.parameters / PARAMETERS for curve in curves])
    center = _centering([curve.group for curve in curves])
    heights = center @ y

    def shape(law: Array) -> Array:
        x = law[0] + law[1] * d + (law[2] * n if size else 0.0) - b
        ramp: Array = np.maximum(0.0, x) if math.isinf(bend) else np.logaddexp(0.0, bend * x) / bend
        return np.asarray(-center @ ramp)

    def exponent(x: Array) -> float:
        return float(x @ heights / max(x @ x, 1e-12))

    def residuals(law: Array) -> Array:
        x = shape(law)
        return np.asarray(heights - exponent(x) * x)

    middle = float(np.median(b))
    starts = [[middle + shift, 0.5, 0.0][: 3 if size else 2] for shift in SHIFTS]
    found = min(
        (least_squares(residuals, law, diff_step=1e-2, method="lm") for law in starts),
        key=lambda each: float(each.cost),
    ).x
    return Law(float(found[0]), float(found[1]), float(found[2]) if size else 0.0, exponent(shape(found)), bend)


def _centering(groups: Sequence[str]) -> Array:
    """The matrix that takes each group's mean off."""
    names = np.array(groups)
    same = (names[:, None] == names).astype(np.float64)
    return np.asarray(np.eye(len(groups)) - same / same.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class LeftOut:
    """Each pair's rate by a law that has not seen its block, and the interval's half-width in ln, calibrated likewise.

    `laws` are the fits, one per block that was left out; `errors` are ln(tuned / carried).
    """

    log_lr: Array
    errors: Array
    half_widths: Array
    laws: list[Law]

    @property
    def covered(self) -> Mask:
        return np.abs(self.errors) <= self.half_widths


def leave_out(
    curves: Sequence[Curve],
    pairs: Sequence[Pair],
    block: Callable[[Curve], object],
    bends: Sequence[float],
    *,
    size: bool,
) -> LeftOut:
    """Leave one block out: on the others choose the bend, calibrate the interval (leaving out once more) and fit."""
    owner = np.array([str(block(pair.old)) for pair in pairs])
    distance = np.array([pair.log_kappa for pair in pairs])
    blocks = sorted(set(owner))

    @cache
    def fit(without: frozenset[str], bend: float) -> Law:
        return fit_law([curve for curve in curves if str(block(curve)) not in without], bend, size=size)

    def errors(of: str, law: Law) -> Array:
        return np.array([pair.new.tuned - law.carry(pair) for pair in pairs if str(block(pair.old)) == of])

    def inner_errors(out: str, bend: float) -> Array:
        """Of all pairs but those of `out`, each by a fit that has seen neither `out` nor its own block."""
        found = np.zeros(len(pairs))
        for other in blocks:
            if other != out:
                found[owner == other] = errors(other, fit(frozenset((out, other)), bend))
        return np.asarray(found[owner != out])

    missed, half, laws = np.zeros(len(pairs)), np.zeros(len(pairs)), []
    for out in blocks:
        inner = {bend: inner_errors(out, bend) for bend in bends}
        bend = min(bends, key=lambda each: float((inner[each] ** 2).mean()))
        doubt = calibrate(inner[bend], distance[owner != out])
        laws.append(fit(frozenset((out,)), bend))
        missed[owner == out] = errors(out, laws[-1])
        half[owner == out] = [NORMAL_90 * doubt.deviation(math.exp(each)) for each in distance[owner == out]]
    truth = np.array([pair.new.tuned for pair in pairs])
    return LeftOut(truth - missed, missed, half, laws)


def calibrate(errors: Array, log_kappas: Array) -> Doubt:
    """The doubt whose variance fits the squared errors best, scaled so that 1.645 s covers 90 % of them."""
    design = np.stack([np.ones(len(errors)), log_kappas**2], axis=1)
    squares, _ = nnls(design, errors**2)
    deviations = np.sqrt(design @ squares)
    scale = float(np.quantile(np.abs(errors) / deviations, 0.9)) / NORMAL_90
    tuned, exponent = scale * np.sqrt(squares)
    return Doubt(float(tuned), float(exponent))
