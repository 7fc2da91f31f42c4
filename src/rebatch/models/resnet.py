"""Residual networks for 32 x 32 images as Hoffer et al. (2017) have them, and one as its own paper has it.

The authors' blocks are post-activation, and where a block changes the shape its shortcut is a 1 x 1 convolution with
batch norm (He et al., 2016, pad with zeros on CIFAR). `wide_resnet16_4_preact` is the net of Zagoruyko and Komodakis
(2016) instead.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

MakeBlock = Callable[[int, int, int], nn.Module]
"""Input width, output width and stride to a residual block."""


def resnet44() -> nn.Sequential:
    """R44: 7 blocks a stage, widths 16, 32, 64; 661,338 parameters."""
    return _resnet(16, (16, 32, 64), 7, 10)


def resnet8() -> nn.Sequential:
    """A smaller net of the same family, for studies on a CPU: 1 block a stage, widths 16, 32, 64; 78,042 parameters."""
    return _resnet(16, (16, 32, 64), 1, 10)


def wide_resnet16_4() -> nn.Sequential:
    """WRN16-4 as the authors have it: 2 post-activation blocks a stage, stem 64 wide; 2,800,804 parameters."""
    return _resnet(64, (64, 128, 256), 2, 100)


def wide_resnet16_4_preact() -> nn.Sequential:
    """WRN16-4 as the wide-residual paper has it: pre-activation blocks, stem 16 wide; 2,772,020 parameters."""
    stages = _stages(_PreActivation, 16, (64, 128, 256), 2)
    return _initialized(nn.Sequential(_conv(3, 16, 3), *stages, *_normalized(256), *_head(256, 100)))


def _resnet(stem: int, widths: Sequence[int], blocks: int, classes: int) -> nn.Sequential:
    stages = _stages(_post_activation, stem, widths, blocks)
    return _initialized(
        nn.Sequential(_conv(3, stem, 3), *_normalized(stem), *stages, *_head(widths[-1], classes)),
    )


def _stages(block: MakeBlock, stem: int, widths: Sequence[int], blocks: int) -> list[nn.Module]:
    """All blocks; stages after the first begin with stride 2."""
    layers: list[nn.Module] = []
    for stage, (width_in, width_out) in enumerate(pairwise([stem, *widths])):
        layers.append(block(width_in, width_out, 1 if stage == 0 else 2))
        layers += [block(width_out, width_out, 1) for _ in range(blocks - 1)]
    return layers


class _Sum(nn.Module):
    """`branch` plus `shortcut` of the same input."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branch(x) + self.shortcut(x)
        return total


def _post_activation(width_in: int, width_out: int, stride: int) -> nn.Module:
    first = (_conv(width_in, width_out, 3, stride), *_normalized(width_out))
    branch = nn.Sequential(*first, _conv(width_out, width_out, 3), nn.BatchNorm2d(width_out))
    shortcut = nn.Sequential()
    if stride > 1 or width_in != width_out:
        shortcut = nn.Sequential(_conv(width_in, width_out, 1, stride), nn.BatchNorm2d(width_out))
    return nn.Sequential(_Sum(branch, shortcut), nn.ReLU(inplace=True))


class _PreActivation(nn.Module):
    """Norm and ReLU come first; a shortcut that changes the shape starts after them, any other before."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(*_normalized(width_in))
        first = (_conv(width_in, width_out, 3, stride), *_normalized(width_out))
        self.branch = nn.Sequential(*first, _conv(width_out, width_out, 3))
        changes = stride > 1 or width_in != width_out
        self.shortcut = _conv(width_in, width_out, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(x)
        total: Tensor = self.branch(active) + (x if self.shortcut is None else self.shortcut(active))
        return total


def _conv(width_in: int, width_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, size, stride, padding=size // 2, bias=False)


def _normalized(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def _head(width: int, classes: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)


def _initialized(model: nn.Sequential) -> nn.Sequential:
    """Convolutions N(0, sqrt(2 / (k k out))) as in the authors' code; batch norm starts at 1 and 0, as torch has it."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
    return model
