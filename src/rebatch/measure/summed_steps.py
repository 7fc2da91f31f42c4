"""Are several summed steps one large step? Page ("How to train your ResNet 2: mini-batches", 2018): to first order.

With the loss summed over a batch, k steps of plain SGD move the weights by the sum of k gradients, each taken a little
further on. One step on all of their examples takes all of them at the start. The difference is of second order in the
rate: sum over i < j of rate^2 H_j g_i.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Gradient = Callable[[Tensor, Tensor], Tensor]
"""Flat weights and indices of examples to the flat gradient of the loss summed over them."""


def summed_steps_distances(
    weights: Tensor, gradient: Gradient, batches: Sequence[Tensor], rates: Sequence[float]
) -> list[float]:
    """How far the weights after a step on each of `batches` are from those after one on all of them, at each rate."""
    large = gradient(weights, torch.cat(list(batches)))
    return [_distance(weights, gradient, batches, rate, large) for rate in rates]


def _distance(weights: Tensor, gradient: Gradient, batches: Sequence[Tensor], rate: float, large: Tensor) -> float:
    # The moves are added up by themselves: at a small rate their difference is lost beside the weights.
    moved = torch.zeros_like(weights)
    for batch in batches:
        moved = moved - rate * gradient(weights + moved, batch)
    return float(torch.linalg.vector_norm(moved + rate * large))


def log_slope(x: ArrayLike, y: ArrayLike) -> float:
    """The power p of y = c x^p, by a straight line through (ln x, ln y); nan unless all are positive and finite.

    >>> round(log_slope([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    points = np.array([x, y], dtype=np.float64)
    if not (np.isfinite(points).all() and (points > 0.0).all()):
        return math.nan  # LAPACK would complain on standard output
    log_x, log_y = np.log(points)
    return float(np.polyfit(log_x, log_y, 1)[0])
