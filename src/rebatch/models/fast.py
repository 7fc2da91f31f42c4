"""Small fast networks for 32 x 32 images: whitened patches, then groups of two convolutions (Jordan, 2024).

`fast94` is the network of airbench94 (KellerJordan/cifar10-airbench, arXiv 2404.00498), which descends from part 8 of
Page's series; `proxy` is a narrow one of its shape, for studies on a CPU. Both wait for `whitening.whiten`.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from rebatch.models.parts import Scale, conv, scaled
from rebatch.models.whitening import Whitening

MakeNorm = Callable[[int], nn.Module]
"""A width to a norm."""


def fast94() -> nn.Sequential:
    """airbench94's network: groups of 64, 256 and 256; 1,972,792 parameters, 1,971,352 of them trained; 10 classes.

    The bias of the whitening layer is trained. airbench freezes it after three of its ten epochs; for that, call
    `model[0].bias.requires_grad_(False)` there: torch's optimizers then leave it alone.
    """
    return _fast((64, 256, 256), _fixed_scale, train_bias=True)


def proxy(width: float = 1.0) -> nn.Sequential:
    """A stand-in for larger networks on a CPU: groups of 32, 64 and 64; 146,744 parameters, 10 classes.

    Its whitening layer is frozen whole, and its batch norm is torch's own, with scales that are trained: fast94's
    running statistics forget in two or three batches, too soon for batches that are small.

    Args:
        width: how many times as wide; the whitening layer stays as it is.
    """
    return _fast(scaled((32, 64, 64), width), nn.BatchNorm2d, train_bias=False)


def _fast(widths: Sequence[int], norm: MakeNorm, *, train_bias: bool) -> nn.Sequential:
    """The image shrinks 32 -> 31 -> 15 -> 7 -> 3 -> 1; logits are divided by 9."""
    whitening = Whitening(train_bias=train_bias)
    groups = [_group(*pair, norm) for pair in pairwise([whitening.out_channels, *widths])]
    head = (nn.MaxPool2d(3), nn.Flatten(), nn.Linear(widths[-1], 10, bias=False), Scale(1 / 9))
    return nn.Sequential(whitening, nn.GELU(), *groups, *head)


def _group(width_in: int, width_out: int, norm: MakeNorm) -> nn.Module:
    first = (_passing(width_in, width_out), nn.MaxPool2d(2), norm(width_out), nn.GELU())
    return nn.Sequential(*first, _passing(width_out, width_out), norm(width_out), nn.GELU())


def _passing(width_in: int, width_out: int) -> nn.Conv2d:
    """A convolution that starts by passing its input channels on, as many as fit; further filters as torch has them."""
    layer = conv(width_in, width_out)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[:width_in])
    return layer


def _fixed_scale(width: int) -> nn.BatchNorm2d:
    """Scales stay at 1, biases are trained."""
    # The running statistics keep 0.6 of what they were: airbench's momentum, which torch counts from the other side.
    layer = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer
