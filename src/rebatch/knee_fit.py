"""Where is the knee of a sweep, and how high is the best rate at a batch size that it has not?

The curve of `rebatch.knee` through the best rates of a sweep's batch sizes, by weighted least squares on ln rate. Knee
and exponent are searched on a grid, the height is a weighted mean; intervals hold what an F test cannot tell from the
best fit (profile likelihood). SciPy is imported where it is first called: it takes longer to load than the rest.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from rebatch.bend import ramps
from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.knee import Knee
from rebatch.sweeps import BestRate, Sweep, best_rates

Array = NDArray[np.float64]

# The knee is searched this far beyond the batch sizes that were run.
BEYOND = 100.0
KNEES, EXPONENTS = 1_000, 25
# The scatter around the curve is seen with few degrees of freedom; what the best rates' own errors say of it weighs as
# much as this many more. With 4 the 90 % intervals of `predict` cover 88 % of the Step-Law table's best rates, each
# batch size predicted from the others of its group; with 1 they cover 90 %.
OWN_ERRORS = 1


class Shape(msgspec.Struct, frozen=True):
    """What is taken for granted of the curve: its bend, and the range of exponents (equal ends: a known one)."""

    exponents: tuple[float, float]
    bend: float

    def __post_init__(self) -> None:
        low, high = self.exponents
        if not 0.0 <= low <= high < math.inf:
            raise RequestError(f"exponents must be two numbers, 0 <= low <= high, got {low:g} and {high:g}")
        if not self.bend > 0.0:
            raise RequestError(f"bend must be positive, got {self.bend:g}")


# By optimizer. SGD: theory (`rebatch.knee.gain_knee`). AdamW: exponents seen go from .2 (Marek et al., 2025, arXiv
# 2507.07101) to .9 (Step Law); the bend is one that loses little where the knee is off.
SHAPES: dict[str, Shape] = {
    "sgd": Shape((1.0, 1.0), 1.0),
    "adamw": Shape((0.2, 1.0), 4.0),
}


class Prior(msgspec.Struct, frozen=True):
    """What is known of the knee beforehand: ln K is normal around ln `batch_size` with standard deviation `spread`."""

    batch_size: float
    spread: float

    def __post_init__(self) -> None:
        if not (0.0 < self.batch_size < math.inf and 0.0 < self.spread < math.inf):
            raise RequestError(
                f"prior must have a positive finite batch_size and spread, got {self.batch_size:g} and {self.spread:g}"
            )


class KneeFit(msgspec.Struct, frozen=True, kw_only=True):
    """A curve through a sweep's best rates.

    Attributes:
        knee: the best-fitting curve; give it to `Knee.factor` to transfer a rate.
        batch_size: K with its interval; `high` is inf where the sweep shows no knee, `low` 0 where the best rate does
            not rise.
        exponent: a with its interval, within the shape's range.
        lr: the rate far above the knee.
        scatter: standard deviation of ln rate around the curve, of one batch size.
        rates: the best rates that were fitted.
        left_out: those at an end of the rates tried, which were not.
    """

    knee: Knee
    batch_size: Interval
    exponent: Interval
    lr: float
    scatter: float
    rates: tuple[BestRate, ...]
    left_out: tuple[BestRate, ...]
    shape: Shape
    prior: Prior | None

    def __str__(self) -> str:
        low, high = self.batch_size.low, self.batch_size.high
        over = f"over {len(self.rates)} batch sizes"
        if low == 0.0 and math.isinf(high):
            return f"not resolved, {over}"
        if math.isinf(high):
            return f"no knee seen: at least {low:.3g}, {over}"
        if low == 0.0:
            return f"at most {high:.3g}, {over}: the best rate hardly rises"
        return f"{self.batch_size.estimate:.3g}, {low:.3g} to {high:.3g}, {over}"


def fit_knee(sweep: Sweep, shape: Shape, *, prior: Prior | None = None, level: float = 0.9) -> KneeFit:
    """Fit the curve to a sweep of one task; `predict` then gives the best rate at other batch sizes.

    A batch size weighs 1/e^2, e the standard error of its best ln rate, but none more than the median one: errors
    are estimates too, and a lucky one must not rule. Those whose lowest loss lies at an end of the rates are left out.

    Args:
        sweep: runs of one task.
        shape: `SHAPES["sgd"]`, `SHAPES["adamw"]`, or another.
        prior: a guess of the knee with its doubt, such as a law's; it counts like one more observation. With few batch
            sizes it helps much: see `docs/choosing-a-rule.md`.
        level: of the intervals.

    Raises:
        RequestError: several groups; or too few batch sizes whose best rate lies inside the rates tried.
    """
    found = best_rates(sweep)
    inside, ends = [rate for rate in found if rate.edge is None], [rate for rate in found if rate.edge is not None]
    surface = _Surface.of(inside, ends, shape, prior)
    best = np.unravel_index(int(surface.misfit.argmin()), surface.misfit.shape)
    accepted = surface.misfit <= surface.misfit[best] + _threshold(surface.freedom, level)
    knee, exponent = float(np.exp(surface.log_knees[best[0]])), float(surface.exponents[best[1]])
    low, high = _ends(np.exp(surface.log_knees), accepted.any(axis=1), (0.0, math.inf))
    return KneeFit(
        knee=Knee(batch_size=knee, exponent=exponent, bend=shape.bend),
        batch_size=Interval(knee, low, high),
        exponent=Interval(exponent, *_ends(surface.exponents, accepted.any(axis=0), shape.exponents)),
        lr=float(np.exp(surface.heights[best])),
        scatter=math.sqrt(surface.variance * surface.square_error),
        rates=tuple(inside),
        left_out=tuple(ends),
        shape=shape,
        prior=prior,
    )


def predict(fit: KneeFit, batch_size: float, level: float = 0.9) -> Interval:
    """The best rate at a batch size; the interval holds what a sweep there would find, in `level` of the cases.

    It counts the doubt of knee, exponent and height, and the scatter of one batch size around the curve.

    Raises:
        RequestError: a batch size that is not positive and finite.
    """
    if not 0.0 < batch_size < math.inf:
        raise RequestError(f"batch_size must be positive and finite, got {batch_size:g}")
    surface = _Surface.of(fit.rates, fit.left_out, fit.shape, fit.prior)
    rates = surface.heights + surface.at(batch_size)
    left = surface.misfit.min() + _threshold(surface.freedom, level) - surface.misfit
    accepted = left >= 0.0
    own = surface.variance * (1.0 / surface.weight + surface.square_error)
    reach = np.sqrt(left[accepted] * own)
    low, high = rates[accepted] - reach, rates[accepted] + reach
    best = float(rates.flat[surface.misfit.argmin()])
    return Interval(math.exp(best), math.exp(float(low.min())), math.exp(float(high.max())))


class _Surface(msgspec.Struct, frozen=True, kw_only=True):
    """The misfit of each pair (knee, exponent), shape (KNEES, exponents), and the best height ln lr for it.

    Errors of the best rates are multiplied by sqrt(`variance`) to agree with their scatter; `misfit` is in such units.
    """

    log_knees: Array
    exponents: Array
    bend: float
    misfit: Array
    heights: Array
    variance: float
    weight: float
    square_error: float
    freedom: int

    @classmethod
    def of(
        cls, rates: Sequence[BestRate], left_out: Sequence[BestRate], shape: Shape, prior: Prior | None
    ) -> "_Surface":
        low, high = shape.exponents
        exponents = np.linspace(low, high, EXPONENTS if high > low else 1)
        fewest = 3 + (len(exponents) > 1)
        if len(rates) < fewest:
            edges = f", {len(left_out)} more have it at an end of the rates tried" if left_out else ""
            raise RequestError(
                f"a knee needs at least {fewest} batch sizes with their best rate inside the rates tried, "
                f"got {len(rates)}{edges}; run more rates or batch sizes"
            )
        b, y = np.log([rate.batch_size for rate in rates]), np.log([rate.lr for rate in rates])
        errors = np.array([rate.log_error for rate in rates])
        typical = max(float(np.median(errors)), 1e-9)
        weights = np.maximum(errors, typical) ** -2
        log_knees = np.linspace(b.min() - math.log(BEYOND), b.max() + math.log(BEYOND), KNEES)
        rests = y + exponents[None, :, None] * ramps(log_knees[:, None] - b, shape.bend)[:, None, :]
        heights = rests @ weights / weights.sum()
        rss = ((rests - heights[..., None]) ** 2) @ weights
        seen = len(rates) - fewest + 1
        variance = (float(rss.min()) + OWN_ERRORS) / (seen + OWN_ERRORS)
        penalty = ((log_knees - math.log(prior.batch_size)) / prior.spread) ** 2 if prior else np.zeros(KNEES)
        return cls(
            log_knees=log_knees,
            exponents=exponents,
            bend=shape.bend,
            misfit=rss / variance + penalty[:, None],
            heights=heights,
            variance=variance,
            weight=float(weights.sum()),
            square_error=max(float(np.mean(errors**2)), typical**2),
            freedom=seen + OWN_ERRORS,
        )

    def at(self, batch_size: float) -> Array:
        """ln rate over its height at a batch size, for each pair."""
        return -self.exponents[None, :] * ramps(self.log_knees - math.log(batch_size), self.bend)[:, None]


def _ends(grid: Array, accepted: NDArray[np.bool_], open_ends: tuple[float, float]) -> tuple[float, float]:
    """The grid's nearest values on either side that are not accepted, or an open end where there is none."""
    inside = np.flatnonzero(accepted)
    low = float(grid[inside[0] - 1]) if inside[0] > 0 else open_ends[0]
    high = float(grid[inside[-1] + 1]) if inside[-1] < len(grid) - 1 else open_ends[1]
    return low, high


def _threshold(freedom: int, level: float) -> float:
    from scipy.stats import f as f_distribution

    return float(f_distribution.ppf(level, 1, freedom))
