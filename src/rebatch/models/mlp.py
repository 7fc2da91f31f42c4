"""Fully connected networks with batch norm: F1 of Hoffer et al. (2017) and its small sister for digits."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(inputs: int, hidden: Sequence[int], classes: int) -> nn.Sequential:
    """Flatten, then [Linear, BatchNorm1d, ReLU] for each hidden width, then Linear; inputs of shape (B, ...)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width_in, width_out in pairwise([inputs, *hidden]):
        layers += [nn.Linear(width_in, width_out), nn.BatchNorm1d(width_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear([inputs, *hidden][-1], classes))


def f1() -> nn.Sequential:
    """The paper's F1 for 28 x 28 images: five hidden layers of 512, 1,462,794 parameters."""
    return mlp(28 * 28, [512] * 5, 10)
