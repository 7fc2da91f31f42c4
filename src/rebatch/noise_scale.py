"""How noisy is the gradient? tr(Sigma) and |G|^2 from pieces of a step's gradient.

McCandlish et al. ("An empirical model of large-batch training", 2018), appendix A, for pieces of any sizes.
Sigma is the covariance of one example's gradient, G its mean. Their ratio, the noise scale, is the batch size at which
noise and signal of a step are equally long. A step whose gradient is known in n >= 2 pieces, each the mean over its own
examples, has both: pieces differ by noise alone.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rebatch.interval import Interval
from rebatch.statistics import mean_interval, positive_ratio

# Intervals are drawn from the means of so many blocks of steps: noise of successive steps may be correlated a little,
# and 20 blocks know their own scatter well enough (`tests/test_noise_scale.py` has the coverage).
BLOCKS = 20

# A number or a tensor.
Number = TypeVar("Number")


class NoiseScaleEstimate(msgspec.Struct, frozen=True):
    """tr(Sigma)/|G|^2 over some steps, in examples, with a 95 % interval that is open where the steps leave it open.

    `high` is inf where |G|^2 is not told from 0: the noise scale is at least `low`. `estimate`, `low` and `high` are
    nan where |G|^2 or tr(Sigma) came out negative beyond chance: an assumption is broken. `trace` and `square` are
    tr(Sigma) and |G|^2. `steps_needed` is about how many such steps close the interval, nan where that is unknown.
    """

    estimate: float
    low: float
    high: float
    trace: Interval
    square: Interval
    steps: int
    steps_needed: float

    def __str__(self) -> str:
        """In words.

        >>> unknown = Interval(1.0, 0.5, 1.5)
        >>> str(NoiseScaleEstimate(620.0, 80.4, math.inf, unknown, unknown, 50, 212.0))
        'at least 80.4, over 50 steps; about 200 would give an upper end'
        """
        if math.isnan(self.low):
            return BROKEN
        if not math.isinf(self.high):
            return f"{self.estimate:.3g}, {self.low:.3g} to {self.high:.3g}, over {self.steps} steps"
        found = f"at least {self.low:.3g}" if self.low > 0.0 else "not resolved"
        if not math.isfinite(self.steps_needed):
            return f"{found}, over {self.steps} steps"
        needed = float(f"{self.steps_needed:.1g}")
        return f"{found}, over {self.steps} steps; about {needed:,.0f} would give an upper end"


BROKEN = (
    "refused: |G|^2 or tr(Sigma) is negative beyond chance, so the pieces are not independent means over their own "
    "examples (batch norm across them, a gradient that was clipped or rescaled before it was measured)"
)


def trace_and_square(
    weighted_squares: Number, batch_square: Number, p: Number | float, q: Number | float
) -> tuple[Number, Number]:
    """tr(Sigma) and |G|^2, unbiased, from one step in pieces of any sizes.

    With pieces g_k, means over m_k examples each, and gbar = sum_k w_k g_k, sum_k w_k = 1:

        tr = (s - b)/(p - q),  |G|^2 = b - q tr

    Args:
        weighted_squares: s = sum_k w_k |g_k|^2.
        batch_square: b = |gbar|^2.
        p: sum_k w_k/m_k.
        q: sum_k w_k^2/m_k.

    >>> trace_and_square(3.0, 2.0, *spread([4, 4]))  # two pieces of 4
    (8.0, 1.0)
    """
    trace = (weighted_squares - batch_square) / (p - q)  # type: ignore[operator]
    return trace, batch_square - q * trace


def spread(sizes: Sequence[int], weights: Sequence[float] | None = None) -> tuple[float, float]:
    """p and q of `trace_and_square` for pieces of these sizes; by default they weigh as many examples as they have.

    Raises:
        ValueError: fewer than two pieces, an empty one, or weights that do not add up to 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"a noise scale needs at least 2 pieces with examples in each, got sizes {list(sizes)}")
    weights = [size / sum(sizes) for size in sizes] if weights is None else weights
    if not math.isclose(sum(weights), 1.0, rel_tol=1e-6):
        raise ValueError(f"weights of the pieces add up to 1, got {sum(weights):g}")
    pairs = list(zip(weights, sizes, strict=True))
    return sum(weight / size for weight, size in pairs), sum(weight**2 / size for weight, size in pairs)


def estimate_noise_scale(
    traces: ArrayLike, squares: ArrayLike, *, examples: int | None = None, level: float = 0.95
) -> NoiseScaleEstimate:
    """The ratio of the means of `traces` and `squares`, one of each per step, with Fieller's interval.

    Means first, the ratio last: a mean of ratios has no expectation. The interval stands on the means of up to 20
    blocks of successive steps, with Student's t.

    Args:
        traces: tr(Sigma) of each step, shape (T,).
        squares: |G|^2 of each step, shape (T,).
        examples: size N of the training set if batches are drawn from it without replacement and the question is about
            the loss on these very examples: E|G|^2 is then too low by tr/N, which is added. Left out, the question is
            about fresh data.

    Raises:
        ValueError: fewer than two steps.
    """
    trace, square = np.asarray(traces, dtype=np.float64), np.asarray(squares, dtype=np.float64)
    if trace.ndim != 1 or trace.shape != square.shape or len(trace) < 2:
        raise ValueError(f"a noise scale needs at least 2 steps, got {len(trace)} traces and {len(square)} squares")
    if examples is not None:
        square = square + trace / examples
    above, below = _blocks(trace), _blocks(square)
    found = positive_ratio(above, below, level) or Interval(math.nan, math.nan, math.nan)
    return NoiseScaleEstimate(
        found.estimate,
        found.low,
        found.high,
        mean_interval(above.tolist(), level),
        mean_interval(below.tolist(), level),
        len(trace),
        _steps_needed(below, len(trace), level),
    )


def _blocks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of successive blocks of steps of nearly one length."""
    blocks = BLOCKS if len(values) >= 2 * BLOCKS else len(values)
    return np.array([part.mean() for part in np.array_split(values, blocks)])


def _steps_needed(below: NDArray[np.float64], steps: int, level: float) -> float:
    """After how many steps |G|^2 would be told from 0, if it is what it seems to be."""
    mean = float(below.mean())
    if mean <= 0.0:
        return math.nan
    half_width = mean_interval(below.tolist(), level).high - mean
    return steps * (half_width / mean) ** 2
