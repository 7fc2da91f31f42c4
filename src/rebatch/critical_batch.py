"""From which batch size on do more examples per step stop buying fewer steps? A fit to runs that reach one loss.

To reach a loss takes S steps and E = B S examples with

    (S/S_min)^-p + (E/E_min)^-p = 1,  so  S = S_min (1 + (B_crit/B)^p)^(1/p),  B_crit = E_min/S_min.

Whatever the bend p, S_min is what S falls to as B grows and E_min what E falls to as B shrinks; at B_crit both are
2^(1/p) times their least. p = 1 is the hyperbola of McCandlish et al. (2018, arXiv 1812.06162, equation 2.7); the
price of a transfer has `BEND` (`rebatch.bend`). SciPy is imported where it is first called: it takes longer to load
than the rest.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from rebatch.bend import BEND, HYPERBOLA, ramp, ramps
from rebatch.interval import Interval

Array = NDArray[np.float64]

# B_crit is searched this far beyond the batch sizes that were run.
BEYOND = 100.0
GRID = 2_000


class CriticalBatchSize(msgspec.Struct, frozen=True):
    """The fitted curve, each number with a 95 % interval; a bound is 0 or inf where the runs leave it open.

    `scatter` is the standard deviation of ln S around the fit, `runs` how many runs it stands on, `bend` the p that was
    taken for granted.
    """

    batch_size: Interval
    least_steps: Interval
    least_examples: Interval
    scatter: float
    runs: int
    bend: float

    def steps(self, batch_size: float) -> float:
        """Steps to the same loss at another batch size.

        >>> exact = Interval(0.0, 0.0, 0.0)
        >>> found = Interval(100.0, 90.0, 110.0), Interval(50.0, 48.0, 52.0), exact
        >>> fit = CriticalBatchSize(*found, scatter=0.0, runs=4, bend=1.0)
        >>> fit.steps(100), fit.steps(1e9) < 50.1
        (100.0, True)
        """
        return self.least_steps.estimate * math.exp(ramp(math.log(self.batch_size.estimate / batch_size), self.bend))

    def examples(self, batch_size: float) -> float:
        """Examples to the same loss at another batch size."""
        return batch_size * self.steps(batch_size)

    @property
    def curve(self) -> str:
        """The formula with its numbers.

        >>> exact = Interval(100.0, 90.0, 110.0)
        >>> CriticalBatchSize(exact, exact, exact, scatter=0.0, runs=4, bend=1.4).curve
        '100 (1 + (100/batch size)^1.4)^(1/1.4)'
        """
        least, critical = self.least_steps.estimate, self.batch_size.estimate
        if self.bend == HYPERBOLA:
            return f"{least:.3g} (1 + {critical:.3g}/batch size)"
        return f"{least:.3g} (1 + ({critical:.3g}/batch size)^{self.bend:g})^(1/{self.bend:g})"

    def __str__(self) -> str:
        low, high = self.batch_size.low, self.batch_size.high
        over = f"over {self.runs} runs"
        if low == 0.0 and math.isinf(high):
            return f"not resolved, {over}"
        if math.isinf(high):
            return f"at least {low:.3g}, {over}"
        if low == 0.0:
            return f"at most {high:.3g}, {over}"
        return f"{self.batch_size.estimate:.3g}, {low:.3g} to {high:.3g}, {over}"


def fit_critical_batch_size(
    batch_sizes: Sequence[float], steps: Sequence[float], *, bend: float = BEND, level: float = 0.95
) -> CriticalBatchSize:
    """Least squares of ln S = ln S_min + ln(1 + (B_crit/B)^p)/p, so that every run counts by its relative error.

    For each B_crit the best S_min is a mean, so only B_crit is searched. Each interval holds the values that some pair
    (S_min, B_crit) has whose residuals an F test cannot tell from the best pair's (profile likelihood).

    Args:
        batch_sizes: B of each run, shape (R,); runs of one batch size differ by seed.
        steps: S of each run, shape (R,).
        bend: p, which four batch sizes do not tell: that of the price, or `HYPERBOLA`.

    Raises:
        ValueError: fewer than three runs, or a single batch size.
    """
    from scipy.stats import f as f_distribution

    b, s = _runs(batch_sizes, steps)
    grid, bends = _grid(b, bend)
    residuals = s - bends
    log_least = residuals.mean(axis=1)
    rss = ((residuals - log_least[:, None]) ** 2).sum(axis=1)
    best, freedom = int(rss.argmin()), len(b) - 2
    # Rounding alone keeps the best pair acceptable where the fit is exact.
    threshold = rss[best] * (1.0 + f_distribution.ppf(level, 1, freedom) / freedom) + 1e-12
    accepted = rss <= threshold
    reach = np.sqrt((threshold - rss[accepted]) / len(b))
    low, high = log_least[accepted] - reach, log_least[accepted] + reach
    ends = accepted[0], accepted[-1]
    inside = grid[accepted]
    least = math.exp(log_least[best])
    return CriticalBatchSize(
        Interval(float(grid[best]), 0.0 if ends[0] else float(inside[0]), math.inf if ends[1] else float(inside[-1])),
        Interval(least, 0.0 if ends[1] else float(np.exp(low).min()), float(np.exp(high).max())),
        Interval(
            least * float(grid[best]),
            0.0 if ends[0] else float((np.exp(low) * inside).min()),
            float((np.exp(high) * inside).max()),
        ),
        scatter=math.sqrt(rss[best] / freedom),
        runs=len(b),
        bend=bend,
    )


def first_passage(looks: Iterable[tuple[int, float]], target: float, *, start: float) -> float:
    """After how many steps a loss first comes down to `target`, on a straight line between two looks; inf if never.

    >>> first_passage([(10, 2.0), (20, 1.0)], 1.5, start=3.0), first_passage([(10, 2.0)], 1.5, start=3.0)
    (15.0, inf)

    Args:
        looks: steps, rising, and the loss after them.
        start: the loss before the first step.
    """
    before = (0, start)
    for step, loss in looks:
        if loss <= target:
            return before[0] + (before[1] - target) / (before[1] - loss) * (step - before[0])
        before = (step, loss)
    return math.inf


def climb(cost: Callable[[int], float], *, most: int) -> int:
    """Where `cost` is least: from 0 to the better neighbor until both are worse, or until `most` places were asked.

    >>> climb(lambda place: (place - 3) ** 2, most=9)
    3
    """
    known: dict[int, float] = {}

    def of(place: int) -> float:
        if place not in known:
            known[place] = cost(place)
        return known[place]

    best = 0
    while len(known) < most and (better := min((best, best + 1, best - 1), key=of)) != best:  # the first of equals
        best = better
    return best


def drawn_steps(
    batch_sizes: Sequence[float],
    steps: Sequence[float],
    at: Sequence[float],
    *,
    draws: int,
    seed: int,
    bend: float = BEND,
) -> Array:
    """Steps at the batch sizes `at`, shape (draws, len(at)), as far as the runs leave them open: parametric bootstrap.

    Each draw is a fit to steps that scatter around the best fit as the runs do.
    """
    b, _ = _runs(batch_sizes, steps)
    fit = fit_critical_batch_size(batch_sizes, steps, bend=bend)
    grid, bends = _grid(b, bend)
    center = np.log([fit.steps(size) for size in b])
    drawn = center + fit.scatter * np.random.default_rng(seed).standard_normal((draws, len(b)))
    # The sum of squares around the mean of (drawn - bends), for all draws and grid points at once.
    own = bends - bends.mean(axis=1, keepdims=True)
    rss = (own**2).sum(axis=1) - 2.0 * (drawn - drawn.mean(axis=1, keepdims=True)) @ own.T
    best = rss.argmin(axis=1)
    log_least = (drawn - bends[best]).mean(axis=1)
    there = ramps(np.log(grid[best])[:, None] - np.log(np.asarray(at, dtype=np.float64)), bend)
    return np.asarray(np.exp(log_least[:, None] + there))


def _runs(batch_sizes: Sequence[float], steps: Sequence[float]) -> tuple[Array, Array]:
    """B and ln S."""
    b, s = np.asarray(batch_sizes, dtype=np.float64), np.log(np.asarray(steps, dtype=np.float64))
    if b.shape != s.shape or b.ndim != 1 or len(b) < 3 or len(set(b)) < 2 or not np.isfinite(s).all():
        raise ValueError(
            "a critical batch size needs at least 3 runs that reached the loss, at 2 or more batch sizes, "
            f"got {len(b)} runs at {len(set(b))}"
        )
    return b, s


def _grid(b: Array, bend: float) -> tuple[Array, Array]:
    """Values of B_crit to try, (G,), and ln(1 + (B_crit/B)^p)/p of each run, (G, R)."""
    grid = np.geomspace(b.min() / BEYOND, b.max() * BEYOND, GRID)
    return grid, ramps(np.log(grid)[:, None] - np.log(b), bend)
