"""How long should SGD take to leave a saddle or a bad minimum? Two laws, for noise that is the same everywhere.

A step is w <- w - lr (grad L(w) + sigma xi / sqrt(B)), xi ~ N(0, 1) in every coordinate, so the noise of a gradient has
the variance sigma^2 / B of a batch of B, and the step's has lr^2 sigma^2 / B.

*Saddle* (Ge et al., 2015, arXiv 1503.02101). Along a direction of curvature -c, near the stationary point,
y <- (1 + lr c) y - lr sigma xi / sqrt(B). After t steps y is (1 + lr c)^t / sqrt(B) times a random number that soon
settles, so the time to any distance grows with the batch size as ln B / (2 ln(1 + lr c)). Without noise, y = 0 stays 0.

*Double well* (Kramers, 1940, Physica 7). In the time lr t the drift is -grad L and the noise has the variance
lr sigma^2 / B per unit: a particle at the temperature T = lr sigma^2 / (2 B). It leaves a well of depth dL after

    2 pi / (lr sqrt(L''(bottom) |L''(top)|)) exp(dL / T) steps,        dL / T = 2 B dL / (lr sigma^2),

for dL >> T. That SGD's time is discrete leaves the exponent as it is to first order in lr: the density at rest is
exp(-(L - lr L'^2 / 4) / T), exactly so on a quadratic, and L' = 0 at the bottom and at the top.
"""

import math

# Of so many directions of the sphere so many are mixed evenly in the saddle that the walkers of `measure.escape` leave.
DIRECTIONS, MIXED = 8, 4

# -c of the steepest way down from each saddle; the depth of the well, and its curvatures at the bottom and at the top.
CURVATURE = {"saddle": 1.0, "sphere": 8.0 / MIXED}
DEPTH, BOTTOM, TOP = 0.25, 2.0, 1.0


def saddle_slope(lr: float, curvature: float) -> float:
    """Steps that leaving a saddle takes longer when ln B grows by 1, for the curvature -`curvature`.

    >>> round(saddle_slope(0.02, 1.0), 2)
    25.25
    """
    return 0.5 / math.log1p(lr * curvature)


def kramers_exponent(batch_size: float, lr: float, noise: float) -> float:
    """dL / T = 2 B dL / (lr sigma^2) of the double well, `noise` being sigma.

    >>> round(kramers_exponent(16, 0.1, 4.0), 6)
    5.0
    """
    return 2.0 * batch_size * DEPTH / (lr * noise**2)


def kramers_steps(batch_size: float, lr: float, noise: float) -> float:
    """Mean steps to leave the double well, for dL >> T."""
    prefactor = 2.0 * math.pi / (lr * math.sqrt(BOTTOM * TOP))
    return prefactor * math.exp(kramers_exponent(batch_size, lr, noise))
