"""How long does a micro-batch take, between and beyond the sizes that were timed? The line t(m) = a + c m.

`a` is paid by every forward and backward pass, whatever its size (launches, the weights' own gradients), `c` by every
example: the form of Pollux (Qiao et al., 2021, arXiv 2008.12260, section 3.2). Machines are shared, so everything here
is about medians over rounds that each time all sizes.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import median

import msgspec

from rebatch.interval import Interval

# Fewer values than this have no interval at 95 %: the median lies outside min .. max of five in 1 of 16 samples.
FEWEST_ROUNDS = 6


class Line(msgspec.Struct, frozen=True):
    """Seconds a micro-batch takes: `fixed`, and `per_example` for each of its examples; neither is negative."""

    fixed: float
    per_example: float

    def seconds(self, micro_batch_size: float) -> float:
        """a + c m."""
        return self.fixed + self.per_example * micro_batch_size


class StepTimeFit(msgspec.Struct, frozen=True):
    """One line a round, fitted to the times of `sizes`; what is said of them is the median over rounds.

    Rounds are repeats at other moments, so their scatter is the machine's noise. That a line is not the truth is told
    apart: `misfit` is the largest relative distance of the median line from a size's median time, 0.1 for 10 %.
    """

    lines: tuple[Line, ...]
    sizes: tuple[int, ...]
    misfit: float

    @property
    def fixed(self) -> Interval:
        """Seconds of a micro-batch whatever its size."""
        return median_interval([line.fixed for line in self.lines])

    @property
    def per_example(self) -> Interval:
        """Seconds of each example."""
        return median_interval([line.per_example for line in self.lines])

    def seconds(self, micro_batch_size: int) -> Interval:
        """What a micro-batch of that size takes; the interval is that of the rounds, widened by the misfit.

        Between `sizes` it is what was seen there; beyond them it trusts the line.
        """
        found = median_interval([line.seconds(micro_batch_size) for line in self.lines])
        low, high = found.low * max(0.0, 1.0 - self.misfit), found.high * (1.0 + self.misfit)
        return Interval(found.estimate, low, high)


def fit_step_time(seconds: Mapping[int, Sequence[float]]) -> StepTimeFit:
    """The fit to `seconds`: for each micro-batch size the time of one micro-batch in each round, the same rounds.

    >>> fit = fit_step_time({size: [0.25 + 0.125 * size] * 7 for size in (1, 8, 64)})
    >>> fit.fixed.estimate, fit.per_example.estimate, fit.misfit, fit.seconds(16).estimate
    (0.25, 0.125, 0.0, 2.25)

    Raises:
        ValueError: fewer than two sizes, too few rounds, sizes with different rounds, or a time that is not positive.
    """
    sizes = tuple(sorted(seconds))
    rounds = {len(seconds[size]) for size in sizes}
    if len(sizes) < 2 or sizes[0] < 1:
        raise ValueError(f"a line needs at least 2 different micro-batch sizes from 1 up, got {list(sizes)}")
    if len(rounds) > 1 or min(rounds) < FEWEST_ROUNDS:
        raise ValueError(f"every size needs the same {FEWEST_ROUNDS} rounds at least, got {sorted(rounds)}")
    if not all(0.0 < time < math.inf for times in seconds.values() for time in times):
        raise ValueError("times must be positive and finite")
    lines = tuple(_line(sizes, times) for times in zip(*(seconds[size] for size in sizes), strict=True))
    misses = [abs(median(line.seconds(m) for line in lines) / median(seconds[m]) - 1.0) for m in sizes]
    return StepTimeFit(lines, sizes, max(misses))


def median_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The median, between two of the values themselves: no assumption on how they scatter (David and Nagaraja, 2003).

    For n independent values of one distribution, the k-th smallest and the k-th largest hold its median between them
    with probability 1 - 2 P(Bin(n, 1/2) < k); k is the largest that keeps `level`. Infinite where none does, which at
    95 % is so for fewer than 6 values. What else runs on a machine only slows, and now and then by much: it moves the
    median little, where it would move a mean, and it cannot choose the one lucky moment that a minimum stands for.

    >>> median_interval([3.0, 1.0, 2.0, 9.0, 4.0, 5.0, 6.0, 8.0, 7.0])
    Interval(estimate=5.0, low=2.0, high=8.0)
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"a median needs finite values, got {list(values)}")
    ordered, n = sorted(values), len(values)
    tails = [2.0 * sum(math.comb(n, i) for i in range(k)) / 2.0**n for k in range(1, n // 2 + 1)]
    depth = sum(tail <= 1.0 - level for tail in tails)
    if depth == 0:
        return Interval(median(ordered), -math.inf, math.inf)
    return Interval(median(ordered), ordered[depth - 1], ordered[-depth])


def largest_that_fits(
    fits: Callable[[int], bool], *, least: int, most: int, unit: int = 1, precision: float = 0.0
) -> int | None:
    """The largest size from `least` to `most` that `fits`, in multiples of `unit`; None where not even `least` does.

    Doubles until a size does not fit, then halves the gap until it is one `unit`, or `precision` of the size. `fits` is
    asked about whatever is returned, and if it is not `most` about a size above it.

    >>> asked = []
    >>> largest_that_fits(lambda size: asked.append(size) or size <= 100, least=16, most=1000, unit=16), asked
    (96, [16, 32, 64, 128, 96, 112])

    Raises:
        ValueError: sizes that are no multiples of `unit`, or no size between them.
    """
    if least < 1 or least % unit or most < least:
        raise ValueError(f"sizes must be multiples of {unit} from 1 up, got {least} to {most}")
    if not fits(least):
        return None
    low, most = least, most - most % unit
    while low < most and fits(min(2 * low, most)):
        low = min(2 * low, most)
    high = min(2 * low, most)
    while high - low > max(unit, precision * low):
        middle = (low + high) // 2 // unit * unit
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def doublings(least: int, most: int) -> list[int]:
    """`least` and its doubles up to `most`.

    >>> doublings(32, 300)
    [32, 64, 128, 256]
    """
    return [least << power for power in range((most // least).bit_length())]


def full_speed(rates: Mapping[int, Sequence[float]], *, within: float = 0.1) -> int:
    """The smallest size that is as fast as the best, but for a share `within`: from there on larger is no faster.

    `rates` are examples per second of each size in the same rounds. The best has the best median; the others are held
    against it round by round, since what slows the machine in one slows both.

    >>> full_speed({1: [10.0, 9.0, 4.0], 8: [95.0, 91.0, 50.0], 64: [100.0, 100.0, 50.0]})
    8
    """
    best = max(rates, key=lambda size: median(rates[size]))
    shares = {size: median(map(operator.truediv, many, rates[best])) for size, many in rates.items()}
    return min(size for size, share in shares.items() if share >= 1.0 - within)


def _line(sizes: Sequence[int], times: Sequence[float]) -> Line:
    """The non-negative line of least absolute relative deviations from one round's times.

    Relative, because times span decades and noise is a share of them; absolute, so that one size that went wrong does
    not bend the line. It is a linear program in two unknowns, so a best line passes through two of the points, or
    through one with a = 0 or c = 0: all of those are tried.
    """
    points = list(zip(sizes, times, strict=True))
    through = [Line(0.0, t / m) for m, t in points] + [Line(t, 0.0) for _, t in points]
    for (m, t), (n, u) in combinations(points, 2):
        slope = (u - t) / (n - m)
        through.append(Line(t - slope * m, slope))
    allowed = [line for line in through if line.fixed >= 0.0 and line.per_example >= 0.0]
    return min(allowed, key=lambda line: sum(abs(line.seconds(m) / t - 1.0) for m, t in points))
