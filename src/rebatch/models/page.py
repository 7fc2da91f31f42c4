"""The networks of "How to Train Your ResNet" (Page, 2018) for 32 x 32 images: parts 1 to 3, and part 4."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch.models.parts import Scale, Sum, conv, scaled


def page_resnet18(width: float = 1.0, *, uniform_scales: bool = True) -> nn.Sequential:
    """DAWN18 of parts 1 to 3, after Ben Johnson's DAWNBench entry: 5,205,834 parameters, 10 classes.

    Pre-activation blocks whose shortcut starts after norm and ReLU always, not only where the shape changes.

    Args:
        width: how many times as wide as the original, whose stages are 64, 128, 256 and 256 wide.
        uniform_scales: whether the scales of batch norm are drawn from U(0, 1), as PyTorch did when the series was
            written (0.4), or start at 1, as it has done since 1.0. Nothing else of torch's start has changed.
    """
    widths = scaled((64, 128, 256, 256), width)
    blocks: list[nn.Module] = []
    for stage, (width_in, width_out) in enumerate(pairwise([widths[0], *widths])):
        blocks += [_pre_activation(width_in, width_out, 1 if stage == 0 else 2), _pre_activation(width_out, width_out)]
    head = (_MaxAndAverage(4), nn.Flatten(), nn.Linear(2 * widths[-1], 10))
    model = nn.Sequential(conv(3, widths[0]), *blocks, *head)
    if uniform_scales:
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight)
    return model


def resnet9() -> nn.Sequential:
    """The network of part 4, 94 % in 24 epochs: 6,573,120 parameters, 10 classes; starts as torch has it.

    Batch norm and ReLU come before the pooling; part 8 has them after it.
    """
    return nn.Sequential(
        *_rectified(3, 64),
        *(*_rectified(64, 128), nn.MaxPool2d(2), _residual(128)),
        *(*_rectified(128, 256), nn.MaxPool2d(2)),
        *(*_rectified(256, 512), nn.MaxPool2d(2), _residual(512)),
        *(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(512, 10, bias=False), Scale(0.125)),
    )


def _pre_activation(width_in: int, width_out: int, stride: int = 1) -> nn.Module:
    normalized = (nn.BatchNorm2d(width_in), nn.ReLU(inplace=True))
    between = (nn.BatchNorm2d(width_out), nn.ReLU(inplace=True))
    branch = nn.Sequential(conv(width_in, width_out, 3, stride), *between, conv(width_out, width_out))
    changes = stride > 1 or width_in != width_out
    return nn.Sequential(*normalized, Sum(branch, conv(width_in, width_out, 1, stride) if changes else None))


class _MaxAndAverage(nn.Module):
    """Max-pooling of windows of `side`, and average-pooling of the same, as channels one after the other."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.max_pool2d(x, self.side), F.avg_pool2d(x, self.side)], dim=1)


def _rectified(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
    return conv(width_in, width_out), nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)


def _residual(width: int) -> nn.Module:
    return Sum(nn.Sequential(*_rectified(width, width), *_rectified(width, width)))
