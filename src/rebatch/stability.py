"""How large may the learning rate be? The edge of stability of a quadratic, and the edge and optimum of a sweep.

On a quadratic with top eigenvalue h, gradient descent with momentum m is stable below 2 (1 + m) / h, and with
Nesterov's momentum below 2 (1 + m) / ((1 + 2 m) h). Page (2018) finds that training breaks suddenly at one learning
rate of the mean loss, whatever the batch size (curvature), while the best rate lies far below it for small batches,
because at a higher rate each step erases more of what the steps before it taught (forgetting).
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from rebatch.interval import Interval
from rebatch.recipe import Sgd

Limit = Literal["curvature", "forgetting", "both", "neither"]

# Below this room to the breaking rate curvature limits: the next doubling of the rate would break the run.
ROOM = 2.0
# Forgotten within this part of an epoch: Page's runs at 4 times the best rate forget within half an epoch.
SOON = 0.5


def limited_by(room: float, forgotten: float) -> Limit:
    """What limits a learning rate that may grow by `room` before training breaks; `forgotten` is in epochs.

    >>> limited_by(1.5, 2.0), limited_by(8.0, 0.3), limited_by(8.0, 2.0)
    ('curvature', 'forgetting', 'neither')
    """
    curved, forgets = room < ROOM, forgotten <= SOON
    if curved and forgets:
        return "both"
    return "curvature" if curved else "forgetting" if forgets else "neither"


def stable_lr(eigenvalue: float, momentum: float = 0.0, *, nesterov: bool = False) -> float:
    """The learning rate above which SGD on a quadratic of this top eigenvalue diverges; inf where it is not positive.

    >>> round(stable_lr(1.0, 0.9, nesterov=True), 3), round(stable_lr(1.0, 0.9), 3), stable_lr(4.0)
    (1.357, 3.8, 0.5)
    """
    if eigenvalue <= 0.0:
        return math.inf
    return 2.0 * (1.0 + momentum) / ((1.0 + 2.0 * momentum if nesterov else 1.0) * eigenvalue)


def adam_stable_lr(eigenvalue: float, beta1: float = 0.9) -> float:
    """The learning rate above which Adam diverges on a quadratic, its preconditioner P held fixed.

    `eigenvalue` is the largest of P^-1/2 H P^-1/2, with P = sqrt(v) + eps: Adam is then a heavy ball whose new gradient
    weighs 1 - beta1, which is stable below (2 + 2 beta1) / ((1 - beta1) eigenvalue) (Cohen et al., 2022, arXiv
    2207.14484: training at a constant rate comes to that edge, eigenvalue = 38/lr, and stays). The same holds for
    AdamW. For RMSprop, whose momentum takes gradients whole, the limit is `stable_lr` at that eigenvalue.

    >>> round(adam_stable_lr(1.0), 6), round(adam_stable_lr(4.0, 0.0), 6)
    (38.0, 0.5)
    """
    return stable_lr(eigenvalue, beta1) / (1.0 - beta1)


def stable_lr_of(optimizer: Sgd, eigenvalue: float) -> float:
    """`stable_lr` with the optimizer's momentum and its kind."""
    return stable_lr(eigenvalue, optimizer.momentum, nesterov=optimizer.nesterov)


def unstable(
    losses: Sequence[float],
    chance_loss: float,
    *,
    rates: Sequence[float] = (),
    jump: float = math.inf,
    least: float = 0.0,
) -> list[bool]:
    """Which of a sweep's final training losses, by rising learning rate, show that training broke.

    A loss that is not finite or above `chance_loss` (ln of the number of classes) did. With a finite `jump` so did one
    that is more than `jump` times the loss at the next lower rate, or where `rates` are given, at the largest of at
    most half the rate: points between octaves then refine an edge and do not move it. Networks with batch norm often
    leap there and then recover. A loss of at most `least` is no such leap: where a network fits everything, losses of
    nearly nothing differ by any factor. Whatever lies above a broken rate counts as broken too.

    >>> unstable([0.5, 0.1, 0.3, 2.4, 0.9], 2.303), unstable([0.5, 0.1, 0.3], 2.303, jump=2)
    ([False, False, False, True, True], [False, False, True])
    >>> unstable([0.001, 0.003, 0.3], 2.303, jump=2, least=0.2)
    [False, False, True]
    """
    broken, found = False, []
    for place, loss in enumerate(losses):
        hard = not math.isfinite(loss) or loss > chance_loss
        below = _reference(place, rates)
        soft = below is not None and loss > max(least, jump * losses[below])
        broken = broken or hard or soft
        found.append(broken)
    return found


def _reference(place: int, rates: Sequence[float]) -> int | None:
    """Whose loss a leap is measured from."""
    if not rates:
        return place - 1 if place > 0 else None
    lower = [other for other in range(place) if rates[other] <= rates[place] / 2.0 * (1.0 + 1e-9)]
    return lower[-1] if lower else None


def edge(rates: Sequence[float], broken: Sequence[bool]) -> Interval:
    """Where a sweep breaks: between the largest rate that holds and the smallest that does not.

    The estimate is their geometric mean. Nothing broken: the edge lies above the largest rate, by an unknown amount
    (estimate and high inf); all broken: below the smallest (estimate and low 0).

    >>> edge([1, 2, 4, 8], [False, False, True, True])
    Interval(estimate=2.8284271247461903, low=2.0, high=4.0)
    """
    if len(rates) != len(broken) or not rates or list(rates) != sorted(rates):
        raise ValueError(f"expected rising rates and as many answers, got {list(rates)} and {len(broken)} answers")
    first = next((place for place, gone in enumerate(broken) if gone), None)
    if first is None:
        return Interval(math.inf, float(rates[-1]), math.inf)
    if first == 0:
        return Interval(0.0, 0.0, float(rates[0]))
    low, high = float(rates[first - 1]), float(rates[first])
    return Interval(math.sqrt(low * high), low, high)


def optimum(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The best rate of a sweep: the vertex of the parabola in log2 rate through the lowest loss and its neighbours.

    At an end of the sweep, where there is one neighbour only, it is that end: the optimum may lie beyond. Losses that
    are not finite count as worst. nan where no loss is finite.

    >>> round(optimum([1, 2, 4, 8], [4.0, 1.0, 0.0, 1.0]), 6), optimum([1, 2, 4], [3.0, 2.0, 1.0])
    (4.0, 4.0)
    """
    values = np.where(np.isfinite(losses), losses, math.inf)
    if not np.isfinite(values).any():
        return math.nan
    best = int(values.argmin())
    around = slice(best - 1, best + 2)
    if best in (0, len(values) - 1) or not np.isfinite(values[around]).all():
        return float(rates[best])
    a, b, _ = np.polyfit(np.log2(rates[around]), values[around], 2)
    return float(2.0 ** (-b / (2.0 * a))) if a > 0.0 else float(rates[best])  # a = 0: three equal losses
