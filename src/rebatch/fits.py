"""Does a curve d(t) grow as a logarithm or as a power of t? Fits of both, and which one holds over independent curves.

Hoffer et al. (2017, section 4) read a logarithm, Kunin et al. (2021, arXiv 2107.09133) a power law; any curve that
bends slowly looks like both over two decades. SciPy is imported where it is first called: it takes longer to load than
the rest.
"""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rebatch.interval import Interval
from rebatch.statistics import mean_interval

Array = NDArray[np.float64]


class Fit(msgspec.Struct, frozen=True):
    """Two coefficients, with the fit's residuals in units of d.

    `rss` is the sum of squared residuals over `n` points and `r2` = 1 - rss / sum (d - mean d)^2, both on d itself,
    whatever the fit minimised, so that laws can be compared; `r2` is nan where d is constant.
    """

    coefficients: tuple[float, float]
    r2: float
    rss: float
    n: int


class Comparison(msgspec.Struct, frozen=True):
    """Log law against power law over independent curves; positive numbers favor the logarithm.

    `akaike` is the mean of AIC(power) - AIC(log) = n ln(rss_power / rss_log): both laws have two coefficients, and both
    are fitted by least squares on d. The points of one curve are not independent, so the size of one difference means
    little; its sign over curves is the evidence, and the interval is Student's over curves. `left_out` is the mean of
    ln(rss_power / rss_log) on each curve's last points, which neither fit has seen.
    """

    akaike: Interval
    left_out: Interval
    curves: int


Law = Callable[[ArrayLike, ArrayLike], Fit]


def log_law(t: ArrayLike, d: ArrayLike) -> Fit:
    """d = a + s ln t by least squares on d; coefficients (a, s).

    >>> fit = log_law([1, 10, 100], [2.0, 2.0 + np.log(10), 2.0 + np.log(100)])
    >>> [round(c, 6) for c in fit.coefficients], round(fit.r2, 6)
    ([2.0, 1.0], 1.0)
    """
    times, distances = _points(t, d)
    a, s = _line(np.log(times), distances)
    return _fit(log_curve((a, s), times), distances, (a, s))


def power_law(t: ArrayLike, d: ArrayLike) -> Fit:
    """d = c t^p by a straight line through (ln t, ln d); coefficients (c, p).

    The common way, and the one behind the reference's table of Figure 2. It minimises relative residuals, while `r2`
    and `rss` are of d: beside `log_law` it is at a disadvantage, so `compare` uses `power_law_on_distance`.
    """
    times, distances = _points(t, d, positive=True)
    log_c, p = _line(np.log(times), np.log(distances))
    return _fit(power_curve((math.exp(log_c), p), times), distances, (math.exp(log_c), p))


def power_law_on_distance(t: ArrayLike, d: ArrayLike) -> Fit:
    """d = c t^p by least squares on d itself; coefficients (c, p).

    For each p the best c is linear (variable projection), so only p is searched, within 1 of the log-log fit's.
    """
    from scipy.optimize import minimize_scalar

    times, distances = _points(t, d, positive=True)
    middle = math.exp(float(np.log(times).mean()))

    def best(p: float) -> tuple[float, float]:
        shape = (times / middle) ** p
        c = float(shape @ distances / (shape @ shape))
        return float(((distances - c * shape) ** 2).sum()), c

    start = power_law(times, distances).coefficients[1]
    found = minimize_scalar(
        lambda p: best(p)[0], bounds=(start - 1.0, start + 1.0), method="bounded", options={"xatol": 1e-10}
    )
    p = float(found.x)
    coefficients = (best(p)[1] * middle**-p, p)
    return _fit(power_curve(coefficients, times), distances, coefficients)


def log_curve(coefficients: tuple[float, float], t: ArrayLike) -> Array:
    """a + s ln t."""
    return coefficients[0] + coefficients[1] * np.log(np.asarray(t, dtype=np.float64))


def power_curve(coefficients: tuple[float, float], t: ArrayLike) -> Array:
    """c t^p."""
    return np.asarray(coefficients[0] * np.asarray(t, dtype=np.float64) ** coefficients[1])


def akaike_difference(t: ArrayLike, d: ArrayLike) -> float:
    """AIC(power) - AIC(log) of one curve, both fitted on d: n ln(rss_power / rss_log); positive favors the log."""
    log, power = log_law(t, d), power_law_on_distance(t, d)
    return log.n * _log_ratio(power.rss, log.rss)


def left_out_ratio(t: ArrayLike, d: ArrayLike, *, share: float = 0.25) -> float:
    """ln(rss_power / rss_log) on the last `share` of one curve's points, fitted on those before; positive favors log.

    The last points, not random ones: between neighbours both laws interpolate well, ahead they part.
    """
    times, distances = _points(t, d, positive=True)
    order = np.argsort(times)
    times, distances = times[order], distances[order]
    known = len(times) - max(1, round(share * len(times)))
    if not 0.0 < share < 1.0 or known < 3:
        raise ValueError(f"share must leave at least 3 of {len(times)} points to fit on, got {share}; leave out fewer")
    ahead, truth = times[known:], distances[known:]
    log, power = (law(times[:known], distances[:known]).coefficients for law in (log_law, power_law_on_distance))
    misses = [((curve - truth) ** 2).sum() for curve in (power_curve(power, ahead), log_curve(log, ahead))]
    return _log_ratio(float(misses[0]), float(misses[1]))


def compare(t: ArrayLike, curves: Sequence[ArrayLike], *, share: float = 0.25, level: float = 0.95) -> Comparison:
    """Which law describes `curves` (one d(t) per seed, all at the times `t`), with intervals over the curves.

    Raises:
        ValueError: a time or distance that is not positive and finite, or too few points.
    """
    return Comparison(
        mean_interval([akaike_difference(t, curve) for curve in curves], level),
        mean_interval([left_out_ratio(t, curve, share=share) for curve in curves], level),
        len(curves),
    )


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope by least squares."""
    centered = x - x.mean()
    slope = float(centered @ y / (centered @ centered))
    return float(y.mean()) - slope * float(x.mean()), slope


def _fit(curve: Array, d: Array, coefficients: tuple[float, float]) -> Fit:
    rss, total = float(((d - curve) ** 2).sum()), float(((d - d.mean()) ** 2).sum())
    return Fit(coefficients, 1.0 - rss / total if total else math.nan, rss, len(d))


def _log_ratio(above: float, below: float) -> float:
    # A residual of exactly zero happens on made-up curves only; the smallest number keeps the sign and stays finite.
    tiny = np.finfo(np.float64).tiny
    return math.log(max(above, tiny) / max(below, tiny))


def _points(t: ArrayLike, d: ArrayLike, *, positive: bool = False) -> tuple[Array, Array]:
    times, distances = np.asarray(t, dtype=np.float64), np.asarray(d, dtype=np.float64)
    if times.ndim != 1 or times.shape != distances.shape:
        raise ValueError(f"a curve is two equally long lists, got shapes {times.shape} and {distances.shape}")
    if len(np.unique(times)) < 3:
        raise ValueError(f"a fit of two coefficients needs at least 3 different times, got {len(np.unique(times))}")
    if not (np.isfinite(times).all() and (times > 0.0).all()):
        raise ValueError(f"times must be positive and finite, got {times.min()}; leave out t = 0")
    if not np.isfinite(distances).all() or (positive and (distances <= 0.0).any()):
        raise ValueError(f"distances must be finite, and positive for a power law, got {distances.min()}")
    return times, distances
