"""Slow twins of the residual networks: one formula after the other, weights taken in the order of the parameters."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn


def resnet(model: nn.Module, images: Tensor, widths: tuple[int, ...], blocks: int) -> Tensor:
    """Post-activation in training mode: norms use the batch."""
    weights: Iterator[Tensor] = iter(model.parameters())
    x = F.relu(_norm(F.conv2d(images, next(weights), padding=1), weights))
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            y = F.relu(_norm(F.conv2d(x, next(weights), stride=stride, padding=1), weights))
            y = _norm(F.conv2d(y, next(weights), padding=1), weights)
            if stride == 2 or x.shape[1] != width:
                x = _norm(F.conv2d(x, next(weights), stride=stride), weights)
            x = F.relu(y + x)
    return _head(x, weights)


def preact(model: nn.Module, images: Tensor, widths: tuple[int, ...], blocks: int) -> Tensor:
    """Pre-activation in training mode."""
    weights: Iterator[Tensor] = iter(model.parameters())
    x = F.conv2d(images, next(weights), padding=1)
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            active = F.relu(_norm(x, weights))
            y = F.relu(_norm(F.conv2d(active, next(weights), stride=stride, padding=1), weights))
            y = F.conv2d(y, next(weights), padding=1)
            x = y + (x if x.shape[1] == width else F.conv2d(active, next(weights), stride=stride))
    return _head(F.relu(_norm(x, weights)), weights)


def _norm(x: Tensor, weights: Iterator[Tensor]) -> Tensor:
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    weight, bias = next(weights), next(weights)
    return (x - mean) / (variance + 1e-5).sqrt() * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)


def _head(x: Tensor, weights: Iterator[Tensor]) -> Tensor:
    result = x.mean((2, 3)) @ next(weights).T + next(weights)
    assert next(weights, None) is None
    return result
