"""How many steps does SGD take to leave a saddle or a bad minimum? Many walkers at once, in float64.

A simulation, no training: a step is w <- w - lr (grad L(w) + deviation xi), xi ~ N(0, 1) in every coordinate, with the
deviation sigma / sqrt(B) for a batch of B. How many it should take says `rebatch.escape`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rebatch.escape import DIRECTIONS, MIXED

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A loss with a stationary point to leave.

    Attributes:
        start: a point that the exact gradient leads to the stationary one or keeps there, exactly in floating point.
        gradient: of points (walkers, D).
        has_left: which of the points are far from the start on the other side of what holds them, (walkers,).
        on_sphere: points have length 1; a step goes along the tangent and back to it.
    """

    start: tuple[float, ...]
    gradient: Callable[[Array], Array]
    has_left: Callable[[Array], NDArray[np.bool_]]
    on_sphere: bool = False

    def starts(self, walkers: int, spread: float, rng: np.random.Generator) -> Array:
        """`walkers` copies of the start, each coordinate moved by N(0, spread^2)."""
        points = np.tile(np.array(self.start), (walkers, 1))
        if spread > 0.0:
            points += spread * rng.standard_normal(points.shape)
        return _normalized(points) if self.on_sphere else points

    def step(self, points: Array, gradient: Array, lr: float) -> Array:
        """The points after a step along `gradient`."""
        if not self.on_sphere:
            return points - lr * gradient
        tangent = gradient - points * (points * gradient).sum(axis=1, keepdims=True)
        return _normalized(points - lr * tangent)


# x^2/2 - y^2/2 + y^4/4 from y = 0: curvature -1 across, minima at y = +-1.
SADDLE = Surface(
    start=(1.0, 0.0),
    gradient=lambda points: np.stack([points[:, 0], _cubed(points[:, 1]) - points[:, 1]], axis=1),
    has_left=lambda points: np.abs(points[:, 1]) > 0.5,
)
# -(sum of u_i^4) on the sphere: the orthogonal tensor decomposition of Ge et al., whose minima are the components. The
# equal mix of some of them is a saddle (of all: a maximum): curvature -8/MIXED among those, +4/MIXED to the others.
SPHERE = Surface(
    start=(MIXED**-0.5,) * MIXED + (0.0,) * (DIRECTIONS - MIXED),
    gradient=lambda points: -4.0 * _cubed(points),
    has_left=lambda points: np.abs(points).max(axis=1) > 0.9,
    on_sphere=True,
)
# (y^2 - 1)^2 / 4 from y = 1; behind the top at 0 the way down to the other well is short.
DOUBLE_WELL = Surface(
    start=(1.0,),
    gradient=lambda points: _cubed(points) - points,
    has_left=lambda points: points[:, 0] < -0.5,
)

SURFACES: dict[str, Surface] = {"saddle": SADDLE, "sphere": SPHERE, "double_well": DOUBLE_WELL}


def escape_steps(
    surface: Surface,
    *,
    lr: float,
    deviation: float,
    walkers: int,
    most: int,
    rng: np.random.Generator,
    spread: float = 0.0,
) -> Array:
    """Steps until each walker has left, (walkers,); inf for those that have not within `most` steps.

    `deviation` is the standard deviation sigma / sqrt(B) of a coordinate of the gradient; at 0 the gradient is exact.
    """
    points, inside = surface.starts(walkers, spread, rng), np.arange(walkers)
    steps = np.full(walkers, math.inf)
    for step in range(1, most + 1):
        gradient = surface.gradient(points)
        if deviation > 0.0:
            gradient += deviation * rng.standard_normal(points.shape)
        points = surface.step(points, gradient, lr)
        left = surface.has_left(points)
        if left.any():
            steps[inside[left]] = step
            points, inside = points[~left], inside[~left]
            if not len(inside):
                break
    return steps


def _cubed(points: Array) -> Array:
    return points * points * points  # points**3 takes 5 to 30 times as long


def _normalized(points: Array) -> Array:
    return np.asarray(points / np.sqrt((points * points).sum(axis=1, keepdims=True)))
