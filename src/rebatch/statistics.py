"""How sure are we? Intervals and one-sided tests of a mean over seeds, over seeds and test examples, and of a ratio.

A study has few seeds (3 to 10), so everything here stands on Student's t; the numbers behind the choices are in
`docs/verdicts.md`. SciPy is imported where it is first called: it takes longer to load than the rest.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rebatch.interval import Interval


class Contrast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An estimated effect with what its intervals and tests need.

    `standard_error` is what the seeds show, with `degrees_of_freedom` (seeds - 1); `example_error` is what a shared
    test set adds beyond that, known well because test examples are many (0 where the data differ from seed to seed).
    The interval is `estimate +- sqrt((t standard_error)^2 + (z example_error)^2)`, with the quantiles t of Student's
    and z of the normal distribution: the paired t interval, widened in quadrature. For normal seed effects it covers
    at least its level: the chi-square distribution function with one degree of freedom is concave, so by Jensen's
    inequality a mixture of two squared half-widths covers no less than each alone (Banerjee, 1960, Sankhya 22).

    Two cases have no t distribution. An infinite standard error (fewer than two seeds) gives an infinite interval and
    p = 1. A standard error of exactly zero (all seeds equal, as happens where accuracies are multiples of 1/examples)
    decides by the side on which the estimate lies, with the p-value of the sign test, 2^-seeds: so few seeds that they
    cannot reach a level give an infinite interval at that level (95 % needs six equal seeds).

    >>> Contrast(estimate=1.0, standard_error=0.25, degrees_of_freedom=4.0).interval(0.95).low > 0.3
    True
    """

    estimate: float
    standard_error: float
    degrees_of_freedom: float
    example_error: float = 0.0

    def interval(self, level: float = 0.95) -> Interval:
        """The two-sided interval: excludes a margin where `p_above` or `p_below` of it is under (1 - level)/2."""
        half_width = self._half_width((1.0 - _require_level(level)) / 2.0)
        if math.isinf(half_width):
            return Interval(self.estimate, -math.inf, math.inf)
        return Interval(self.estimate, self.estimate - half_width, self.estimate + half_width)

    def p_above(self, margin: float) -> float:
        """One-sided p-value against "the effect is at most `margin`": small where the effect lies above."""
        return self._p_value(self.estimate - margin)

    def p_below(self, margin: float) -> float:
        """One-sided p-value against "the effect is at least `margin`": small where the effect lies below."""
        return self._p_value(margin - self.estimate)

    def _half_width(self, tail: float) -> float:
        if math.isinf(self.standard_error) or (self.standard_error == 0.0 and self._sign_test() >= tail):
            return math.inf
        seeds = _student_quantile(tail, self.degrees_of_freedom) * self.standard_error if self.standard_error else 0.0
        examples = _normal_quantile(tail) * self.example_error if self.example_error else 0.0
        return math.hypot(seeds, examples)

    def _p_value(self, distance: float) -> float:
        if math.isinf(self.standard_error):
            return 1.0
        if distance == 0.0:
            return 0.5
        return self._tail(distance) if distance > 0.0 else 1.0 - self._tail(-distance)

    def _tail(self, distance: float) -> float:
        if self.standard_error == 0.0:
            return max(self._sign_test(), _normal_tail(distance / self.example_error) if self.example_error else 0.0)
        if self.example_error == 0.0:
            return _student_tail(distance / self.standard_error, self.degrees_of_freedom)
        return self._tail_by_bisection(distance)

    def _tail_by_bisection(self, distance: float) -> float:
        # The half-width falls as the tail grows: the p-value is the tail at which it equals the distance.
        low, high = math.log(1e-300), math.log(0.5)
        for _ in range(64):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self._half_width(math.exp(middle)) > distance else (low, middle)
        return math.exp(high)

    def _sign_test(self) -> float:
        return math.exp2(-self.degrees_of_freedom - 1.0)


def paired_contrast(differences: Sequence[float] | NDArray[np.float64]) -> Contrast:
    """The mean of one difference per seed, by Student's t; a single seed has an infinite standard error.

    >>> paired_contrast([1.0, 2.0, 3.0, 4.0]).estimate
    2.5
    """
    values = _require_finite(differences, 1)
    error = math.inf if len(values) < 2 else math.sqrt(_variance(values) / len(values))
    return Contrast(float(values.mean()), error, max(1.0, len(values) - 1.0))


def crossed_contrast(differences: ArrayLike) -> Contrast:
    """The mean of `differences` (seeds, examples) where all seeds share one test set, and both are a random draw.

    The closed form of resampling seeds and test examples together, the pigeonhole bootstrap of Owen (2007, Annals of
    Applied Statistics 1(2), 386-411). With S seeds, E examples, v_S and v_E the variances (over n - 1) of the means
    per seed and per example, and v_SE the residual mean square of the two-way table, v_S/S + v_E/E counts the
    interaction of seed and example twice (the bootstrap itself three times). Here it is counted once,

        variance = v_S/S + max(0, v_E/E - v_SE/(S E)),

    unbiased (but for the cut at zero) whenever seeds and examples are drawn independently. The first term is
    `standard_error` squared, with S - 1 degrees of freedom, the second `example_error` squared: a few hundred examples
    are wanted. The interval is never narrower than the paired one on the same seeds.
    """
    values = _require_finite(differences, 2)
    seeds, examples = values.shape
    if seeds < 2 or examples < 2:
        raise ValueError(f"a crossed contrast needs at least 2 seeds and 2 examples, got {values.shape}")
    per_seed, per_example = values.mean(axis=1), values.mean(axis=0)
    residuals = values - per_seed[:, None] - per_example[None, :] + values.mean()
    interaction = float(np.sum(residuals**2)) / ((seeds - 1) * (examples - 1))
    added = _variance(per_example) / examples - interaction / (seeds * examples)
    seed_error = math.sqrt(_variance(per_seed) / seeds)
    return Contrast(float(values.mean()), seed_error, seeds - 1.0, math.sqrt(max(0.0, added)))


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of a mean over seeds; infinite for one value, and for fewer than six equal ones at 95 %.

    >>> interval = mean_interval([97.0, 98.0, 99.0])
    >>> round(interval.low, 3), interval.estimate, round(interval.high, 3)
    (95.516, 98.0, 100.484)
    """
    return paired_contrast(values).interval(level)


def fieller(numerator: Sequence[float], denominator: Sequence[float], level: float = 0.95) -> Interval | None:
    """Fieller's (1954) interval of mean(numerator)/mean(denominator), paired by seed; None where that says nothing.

    The ratios r for which mean(numerator - r denominator) is not distinguished from 0, with the covariance counted:
    q2 r^2 + q1 r + q0 <= 0. It is an interval exactly where the denominator is resolved (differs from 0 at `level`),
    else a half-line, its complement or everything: then None is returned. At most 1 - level of all calls return an
    interval that misses the truth; among those that return one where the denominator is weak, more do.

    >>> fieller([1.0, 2.0], [0.1, -0.1]) is None
    True
    """
    above, below = _require_finite(numerator, 1), _require_finite(denominator, 1)
    if len(above) != len(below):
        raise ValueError(f"fieller pairs its values, got {len(above)} numerators and {len(below)} denominators")
    if not _excludes_zero(paired_contrast(below).interval(level)):
        return None
    return _fieller_roots(*_fieller_terms(above, below, level))


def positive_ratio(numerator: ArrayLike, denominator: ArrayLike, level: float = 0.95) -> Interval | None:
    """Fieller's interval of the ratio of two means that cannot be negative, paired; open where it has no bound.

    The part of `fieller`'s set that lies above 0. `high` is inf where the denominator is not told from 0 ("at least
    `low`"), `low` is 0 where the numerator is not. The estimate is mean(numerator)/mean(denominator), 0 or inf where
    one of them came out negative. None where one is resolved and negative, which cannot be.

    >>> positive_ratio([4.0, 5.0, 6.0, 5.0], [1.0, -0.5, 0.5, 0.2]).high
    inf
    """
    above, below = _require_finite(numerator, 1), _require_finite(denominator, 1)
    if len(above) != len(below) or len(above) < 2:
        raise ValueError(f"a ratio needs at least 2 pairs, got {len(above)} numerators and {len(below)} denominators")
    a, c, v_a, v_ac, v_c = _fieller_terms(above, below, _require_level(level))
    q2, half_q1, q0 = c**2 - v_c, a * c - v_ac, a**2 - v_a
    if (q0 > 0.0 and a < 0.0) or (q2 > 0.0 and c < 0.0):
        return None
    estimate = math.inf if c <= 0.0 else max(0.0, a / c)
    reach = half_q1 + math.sqrt(max(0.0, half_q1**2 - q2 * q0))
    return Interval(estimate, q0 / reach if q0 > 0.0 else 0.0, reach / q2 if q2 > 0.0 else math.inf)


def holm_levels(p_values: Sequence[float], *, alpha: float = 0.05) -> list[float]:
    """For each hypothesis the alpha at which its interval is drawn so that interval and Holm's (1979) decision agree.

    Holm rejects the smallest of k p-values if it is under alpha/k, then the next if it is under alpha/(k - 1), and
    stops at the first that is not; that one and all after it keep the level of the stop. A hypothesis is rejected if
    and only if its p-value is under its level. Equal p-values share the smaller level; the input's order is kept.

    >>> holm_levels([0.2, 0.001, 0.02], alpha=0.06)
    [0.06, 0.02, 0.03]
    """
    if not all(0.0 <= p <= 1.0 for p in p_values):
        raise ValueError(f"p-values lie between 0 and 1, got {list(p_values)}")
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    levels = [alpha / max(1, len(order))] * len(order)
    for rank, (before, index) in enumerate(pairwise(order), start=1):
        goes_on = p_values[before] < levels[before] and p_values[index] != p_values[before]
        levels[index] = alpha / (len(order) - rank) if goes_on else levels[before]
    return levels


def smallest_detectable(
    standard_error: float, degrees_of_freedom: float, alpha: float, *, power: float = 0.8, example_error: float = 0.0
) -> float:
    """How far beyond its margin an effect must lie to be seen with probability `power` by a two-sided test at `alpha`.

    Exact for Student's t (the noncentral t distribution); with an `example_error` the two detectable distances are
    added in quadrature, as the half-widths are. Infinite where the standard error is infinite, or zero and so unknown.

    >>> round(smallest_detectable(0.5, 4, 0.05), 2)
    1.88
    """
    from scipy.special import nctdtrinc

    if not 0.0 < standard_error < math.inf:
        return math.inf
    threshold = _student_quantile(alpha / 2.0, degrees_of_freedom)
    seeds = float(nctdtrinc(degrees_of_freedom, 1.0 - power, threshold)) * standard_error
    examples = (_normal_quantile(alpha / 2.0) + _normal_quantile(1.0 - power)) * example_error
    return math.hypot(seeds, examples)


def seeds_to_detect(contrast: Contrast, distance: float, alpha: float, *, most: int, power: float = 0.8) -> int | None:
    """How many seeds see an effect `distance` beyond its margin with probability `power`, if they scatter as seen.

    What a shared test set adds does not fall with more seeds. Seeds that were all equal are taken to stay so: the sign
    test then asks for a number of its own. None where more than `most` would be needed, or with fewer than two seeds.

    >>> seeds_to_detect(Contrast(estimate=0.5, standard_error=0.5, degrees_of_freedom=4.0), 1.0, 0.05, most=1000)
    12
    >>> seeds_to_detect(Contrast(estimate=0.5, standard_error=0.0, degrees_of_freedom=2.0), 1.0, 0.05, most=1000)
    6
    """

    def resolved(seeds: int) -> bool:
        if contrast.standard_error == 0.0:
            examples = (_normal_quantile(alpha / 2.0) + _normal_quantile(1.0 - power)) * contrast.example_error
            return math.exp2(-seeds) < alpha / 2.0 and examples < distance
        error = contrast.standard_error * math.sqrt((contrast.degrees_of_freedom + 1.0) / seeds)
        seen = smallest_detectable(error, seeds - 1.0, alpha, power=power, example_error=contrast.example_error)
        return seen <= distance

    if not resolved(most):
        return None
    low, high = 1, most  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if resolved(middle) else (middle, high)
    return high


def _student_quantile(tail: float, degrees_of_freedom: float) -> float:
    """The t that Student's distribution exceeds with probability `tail`."""
    from scipy.special import stdtrit

    return -float(stdtrit(degrees_of_freedom, tail))


def _student_tail(t: float, degrees_of_freedom: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(degrees_of_freedom, -t))


def _normal_quantile(tail: float) -> float:
    from scipy.special import ndtri

    return -float(ndtri(tail))


def _normal_tail(z: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(-z))


def _fieller_terms(
    above: NDArray[np.float64], below: NDArray[np.float64], level: float
) -> tuple[float, float, float, float, float]:
    """Both means, then the variances of those means and their covariance, v_a, v_ac and v_c, times t^2."""
    t_squared = _student_quantile((1.0 - level) / 2.0, len(above) - 1.0) ** 2
    (v_a, v_ac), (_, v_c) = (t_squared * np.cov(above, below) / len(above)).tolist()
    return float(above.mean()), float(below.mean()), v_a, v_ac, v_c


def _fieller_roots(a: float, c: float, v_a: float, v_ac: float, v_c: float) -> Interval:
    # q2 r^2 - 2 half_q1 r + q0 = 0; the variances come multiplied by t^2, and q2 > 0 because c is resolved.
    q2, half_q1, q0 = c**2 - v_c, a * c - v_ac, a**2 - v_a
    spread = math.sqrt(max(0.0, half_q1**2 - q2 * q0))
    return Interval(a / c, (half_q1 - spread) / q2, (half_q1 + spread) / q2)


def _variance(values: NDArray[np.float64]) -> float:
    """The variance over n - 1; exactly 0 for values that are equal but for rounding."""
    if np.ptp(values) <= 1e-12 * np.max(np.abs(values)):
        return 0.0
    return float(values.var(ddof=1))


def _excludes_zero(interval: Interval) -> bool:
    return interval.low > 0.0 or interval.high < 0.0


def _require_finite(values: ArrayLike, dimensions: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions or array.size == 0:
        raise ValueError(f"expected a filled array of {dimensions} dimension(s), got one of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("expected finite values; a diverged run counts at chance level, put that in first")
    return array


def _require_level(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"a level lies between 0 and 1, such as 0.95, got {level}")
    return level
