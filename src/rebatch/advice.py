"""Which batch size trains soonest, and how sure is that? Steps to a loss times seconds of a step, with their doubts.

Steps fall with the batch size until the critical one, seconds of a step rise from where the device is full: the best
batch size lies between, near sqrt(a B_crit/c) where a step of B examples takes a + c B seconds.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rebatch.interval import Interval

Array = NDArray[np.float64]

# What lies outside these percentiles of the draws is left out of an interval.
TAIL = 2.5


# Nobody retunes a recipe for less.
WORTH = 1.05


class Cut(msgspec.Struct, frozen=True):
    """How a step is cut on one rank."""

    micro_batch_size: int
    accumulation_steps: int


class Option(msgspec.Struct, frozen=True):
    """What training to the same loss takes at one batch size."""

    batch_size: int
    cut: Cut
    steps: Interval
    examples: Interval
    seconds: Interval


class Advice(msgspec.Struct, frozen=True):
    """The batch sizes compared, and the answer.

    Attributes:
        today: the recipe's own batch size at its own rate.
        best: the smallest whose median time is within `WORTH` of the least.
        speedup: today's time over the best one's; both share each draw.
        likely: 95 % of the draws have their best batch size in this range, both ends included.
        answer: "move" where the speedup is above `WORTH` beyond doubt, "stay" where today's batch size and rate are
            best or at most `WORTH` slower beyond doubt, else "unknown".
    """

    today: Option
    best: Option
    options: tuple[Option, ...]
    speedup: Interval
    likely: tuple[int, int]
    answer: Literal["move", "stay", "unknown"]


def weigh(
    steps: Mapping[int, Array], seconds: Mapping[int, Array], cuts: Mapping[int, Cut], today: int, today_steps: float
) -> Advice:
    """The advice that draws of steps and of seconds per step give.

    Args:
        steps: by batch size, shape (draws,), each batch size at its best rate.
        seconds: of one step, by batch size, shape (draws,).
        cuts: by batch size.
        today: the recipe's batch size, one of them.
        today_steps: what the recipe itself takes, at its own rate.
    """
    sizes = sorted(steps)
    times = np.stack([steps[size] * seconds[size] for size in sizes], axis=1)
    options = tuple(_option(size, cuts[size], steps[size], seconds[size]) for size in sizes)
    middle = np.median(times, axis=0)
    # Of those that are as good as the quickest, the smallest: it sees fewer examples and needs less memory.
    best = next(size for size, time in zip(sizes, middle, strict=True) if time <= WORTH * middle.min())
    own = np.full(len(times), today_steps)
    now = _option(today, cuts[today], own, seconds[today])
    speedup = percentiles(own * seconds[today] / times[:, sizes.index(best)])
    # In each draw by the same rule: the first, so the smallest, of those within `WORTH` of the quickest.
    winners = np.array(sizes)[(times <= WORTH * times.min(axis=1, keepdims=True)).argmax(axis=1)]
    low, high = (int(np.percentile(winners, q, method="nearest")) for q in (TAIL, 100.0 - TAIL))
    answer: Literal["move", "stay", "unknown"] = "unknown"
    if speedup.low > WORTH:
        answer = "move"
    elif speedup.high <= WORTH:
        answer = "stay"
    return Advice(now, options[sizes.index(best)], options, speedup, (low, high), answer)


def percentiles(draws: Array) -> Interval:
    """Median and 95 % of the draws."""
    low, middle, high = np.percentile(draws, [TAIL, 50.0, 100.0 - TAIL])
    return Interval(float(middle), float(low), float(high))


def interpolated_lr(rates: Mapping[int, float], batch_size: float) -> float:
    """The best rate between the batch sizes that were tuned: a straight line in the logarithms of both.

    >>> round(interpolated_lr({16: 0.1, 64: 0.2}, 32), 4)
    0.1414
    """
    sizes = sorted(rates)
    logs = [math.log(rates[size]) for size in sizes]
    return math.exp(float(np.interp(math.log(batch_size), [math.log(size) for size in sizes], logs)))


def spaced(low: int, high: int, own: int) -> list[int]:
    """Batch sizes from about `low` to about `high`, `own` times powers of 4, and of 2 for the ends.

    >>> spaced(8, 300, 32), spaced(5, 512, 512)
    ([8, 32, 128, 256], [8, 32, 128, 512])
    """
    down = math.floor(math.log2(max(1.0, own / low)))
    up = math.floor(math.log2(max(1.0, high / own)))
    powers = {0, -down, up, *range(0, -down, -2), *range(0, up, 2)}
    return sorted({max(1, round(own * 2.0**power)) for power in powers})


def _option(size: int, cut: Cut, steps: Array, seconds: Array) -> Option:
    return Option(size, cut, percentiles(steps), percentiles(size * steps), percentiles(steps * seconds))


def best_cut(batch_size: int, largest: int, seconds: Callable[[int], float], *, unit: int, whole: bool) -> Cut | None:
    """The quickest way to cut a step into equal micro-batches that fit; None where there is none.

    >>> best_cut(256, 64, lambda size: 0.1 + 0.01 * size, unit=1, whole=False)
    Cut(micro_batch_size=64, accumulation_steps=4)

    Args:
        largest: the largest micro-batch that fits.
        seconds: of one micro-batch, by its size.
        unit: micro-batches are multiples of it (the ghost batch size).
        whole: the step must not be cut (plain batch norm).
    """
    counts = [1] if whole else range(1, batch_size // unit + 1)
    sizes = [batch_size // count for count in counts if batch_size % count == 0 and batch_size // count <= largest]
    fitting = [size for size in sizes if size == batch_size or size % unit == 0]
    if not fitting:
        return None
    size = min(fitting, key=lambda each: (batch_size // each * seconds(each), -each))
    return Cut(size, batch_size // size)
