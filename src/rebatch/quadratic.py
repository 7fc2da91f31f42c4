"""How many steps does SGD take on a noisy quadratic, exactly? A model of what the batch size buys, with no randomness.

Zhang et al. (2019, arXiv 1907.04164): the loss is half the sum of h_i theta_i^2, and the gradient of a batch of B has
in coordinate i a noise of variance h_i / B. A step of SGD with (heavy-ball) momentum mu is

    theta_{t+1} = p theta_t - mu theta_{t-1} - lr xi_t,   p = 1 + mu - lr h,   Var xi_t = h / B,   theta_{-1} = theta_0.

Coordinates do not see each other, and their second moments obey a linear recursion. With A = [[p, -mu], [1, 0]], M_t
the second moments of (theta_t, theta_{t-1}) and M what they come to rest at,

    M_t = M + A^t (M_0 - M) A^t',    M = v [[1, r], [r, 1]],   r = p / (1 + mu),
    v = (1 + mu) lr / (B (1 - mu) (2 (1 + mu) - lr h)),

so any step is reached by powers of A, and the first one below a target by halving. It rests only where
lr h < 2 (1 + mu). The step is the plain one at mu = 0, where all of this is (1 - lr h)^t.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rebatch.errors import RequestError

Array = NDArray[np.float64]

COORDINATES, TARGET = 10_000, 0.01
# A loss that has not come down after so many steps does not count as one that does.
MOST_STEPS = 2**50
# The best rate is searched as a share of the largest that reaches the target, from e^-4 of it to all but e^-9.
LOG_ODDS, PLACES, ROUNDS = (-4.0, 9.0), 17, 4


@dataclass(frozen=True)
class NoisyQuadratic:
    """The loss and where a run starts; both of shape (D,).

    Attributes:
        curvatures: h_i; they also are the variance of the noise of one example's gradient.
        start: E theta_i^2 before the first step.
    """

    curvatures: Array
    start: Array

    def __post_init__(self) -> None:
        h, start = self.curvatures, self.start
        if h.ndim != 1 or h.shape != start.shape or not len(h):
            raise RequestError(f"curvatures and start must be two rows of one length, got {h.shape} and {start.shape}")
        if not (np.isfinite(h) & (h > 0.0) & np.isfinite(start) & (start >= 0.0)).all():
            raise RequestError("curvatures must be positive, squares of the start not negative, and all of them finite")

    @property
    def loss(self) -> float:
        """Half the sum of h_i E theta_i^2 before the first step."""
        return 0.5 * float(self.curvatures @ self.start)

    def largest_lr(self, momentum: float) -> float:
        """The rate from which on the steepest coordinate does not rest: 2 (1 + mu) / h."""
        return 2.0 * (1.0 + momentum) / float(self.curvatures.max())


def harmonic(coordinates: int = COORDINATES, start: Array | None = None) -> NoisyQuadratic:
    """The model of Zhang et al.: h_i = 1/i, and E theta_i^2 = 1 unless `start` has others.

    >>> harmonic(4).curvatures.round(2).tolist()
    [1.0, 0.5, 0.33, 0.25]
    """
    curvatures = 1.0 / np.arange(1, coordinates + 1)
    return NoisyQuadratic(curvatures, np.ones(coordinates) if start is None else start)


def rest_loss(model: NoisyQuadratic, batch_size: float, lr: float, momentum: float = 0.0) -> float:
    """The loss that noise keeps up for ever; inf where the rate is too large to rest.

    A `batch_size` of `math.inf` is the exact gradient, without noise.
    """
    _check(batch_size, lr, momentum)
    if lr >= model.largest_lr(momentum):
        return math.inf
    return 0.5 * float(model.curvatures @ _rest(model, batch_size, lr, momentum))


def loss_at(model: NoisyQuadratic, batch_size: float, lr: float, momentum: float = 0.0, *, step: int) -> float:
    """Half the sum of h_i E theta_i^2 after `step` steps.

    Raises:
        RequestError: a number that is out of its range, or a rate at which a coordinate does not rest.
    """
    _check(batch_size, lr, momentum)
    if lr >= (most := model.largest_lr(momentum)):
        raise RequestError(f"lr must be below {most:g}, where the steepest coordinate does not rest, got {lr}")
    course = _Course(model, batch_size, lr, momentum)
    power, at = course.step, course.nothing
    while step:
        if step % 2:
            at = _after(at, power)
        power, step = _after(power, power), step // 2
    return course.loss(at)


def steps_to_target(
    model: NoisyQuadratic, batch_size: float, lr: float, momentum: float = 0.0, *, target: float = TARGET
) -> float:
    """Steps after which the loss is below `target` and was not one step before; inf where it does not stay there.

    The first such place where the loss falls through the target once, as that of plain SGD does where it rests at less
    than it starts with in every coordinate. Momentum may ripple: then it is one of neighboring places.

    >>> steps_to_target(harmonic(10), batch_size=math.inf, lr=1.0)
    14.0

    Raises:
        RequestError: a number that is out of its range.
    """
    _check_target(model, target)
    if rest_loss(model, batch_size, lr, momentum) >= target:
        return math.inf
    if model.loss < target:
        return 0.0
    course = _Course(model, batch_size, lr, momentum)
    powers = [course.step]
    while course.loss(powers[-1]) >= target:
        if 2 ** len(powers) > MOST_STEPS:
            return math.inf
        powers.append(_after(powers[-1], powers[-1]))
    # Above the target after `steps` steps, below after twice as many: each smaller power is taken if it stays above.
    above, steps = course.nothing, 0
    for exponent in reversed(range(len(powers) - 1)):
        if course.loss(further := _after(above, powers[exponent])) >= target:
            above, steps = further, steps + 2**exponent
    return float(steps + 1)


class Best(NamedTuple):
    """The rate that takes the fewest steps, and those steps."""

    lr: float
    steps: float


def best_lr(model: NoisyQuadratic, batch_size: float, momentum: float = 0.0, *, target: float = TARGET) -> Best:
    """The rate that takes the fewest steps to `target`, the lowest of equals, and those steps.

    Searched in ever finer places between 0 and the largest rate at which the loss rests below the target.

    >>> best = best_lr(harmonic(100), batch_size=64)
    >>> round(best.lr, 2), best.steps
    (0.37, 536.0)

    Raises:
        RequestError: a number that is out of its range.
    """
    _check_target(model, target)
    most = _largest_useful_lr(model, batch_size, momentum, target)
    low, high = LOG_ODDS
    found: dict[float, float] = {}
    for _ in range(ROUNDS):
        places = np.linspace(low, high, PLACES)
        for place in places:
            lr = most / (1.0 + math.exp(-place))
            found[place] = steps_to_target(model, batch_size, lr, momentum, target=target)
        best = min(sorted(found), key=found.__getitem__)
        width = places[1] - places[0]
        low, high = best - width, best + width
    return Best(most / (1.0 + math.exp(-best)), found[best])


Matrices = tuple[Array, Array, Array, Array]
"""A 2 x 2 matrix per coordinate: its elements row by row, each (D,)."""


class _Course:
    """The second moments of one run, at any power of A."""

    def __init__(self, model: NoisyQuadratic, batch_size: float, lr: float, momentum: float) -> None:
        h, mu = model.curvatures, momentum
        p, zero, one = 1.0 + mu - lr * h, np.zeros_like(h), np.ones_like(h)
        self._curvatures, self._rest = h, _rest(model, batch_size, lr, mu)
        self._square = model.start - self._rest
        self._product = model.start - self._rest * p / (1.0 + mu)
        self.step: Matrices = (p, -mu * one, one, zero)
        self.nothing: Matrices = (one, zero, zero, one)

    def loss(self, power: Matrices) -> float:
        """The loss after as many steps as `power` has factors."""
        own, before, _, _ = power
        moments = self._rest + (own**2 + before**2) * self._square + 2.0 * own * before * self._product
        return 0.5 * float(self._curvatures @ moments)


def _rest(model: NoisyQuadratic, batch_size: float, lr: float, momentum: float) -> Array:
    """E theta_i^2 that noise keeps up: v of the module's formula."""
    room = 2.0 * (1.0 + momentum) - lr * model.curvatures
    return (1.0 + momentum) * lr / (batch_size * (1.0 - momentum) * room)


def _after(first: Matrices, second: Matrices) -> Matrices:
    """The product of two matrices per coordinate."""
    a, b, c, d = first
    e, f, g, h = second
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h


def _largest_useful_lr(model: NoisyQuadratic, batch_size: float, momentum: float, target: float) -> float:
    """The rate at which noise alone keeps the loss at the target: it rises with the rate without bound."""
    low, high = 0.0, model.largest_lr(momentum)
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if rest_loss(model, batch_size, middle, momentum) < target else (low, middle)
    return high


def _check(batch_size: float, lr: float, momentum: float) -> None:
    for name, value, held in (
        ("batch_size must be positive", batch_size, batch_size > 0.0),
        ("lr must be positive and finite", lr, 0.0 < lr < math.inf),
        ("momentum must be at least 0 and below 1", momentum, 0.0 <= momentum < 1.0),
    ):
        if not held:
            raise RequestError(f"{name}, got {value}")


def _check_target(model: NoisyQuadratic, target: float) -> None:
    if not 0.0 < target < math.inf:
        raise RequestError(f"target must be a positive loss, got {target}; name one below {model.loss:g}")
