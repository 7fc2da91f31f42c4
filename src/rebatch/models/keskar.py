"""C1 and C3 of Hoffer et al. (2017): the shallow convolutional net of Keskar et al. (2017) as the authors' code has it.

Keskar's own code differs: convolutions with bias, batch norm and ReLU before the pooling, which keeps 8 x 8 positions.
"""

from torch import nn


def c1() -> nn.Sequential:
    """10 classes, 1,388,490 parameters."""
    return _shallow(10)


def c3() -> nn.Sequential:
    """100 classes, 1,405,860 parameters."""
    return _shallow(100)


def _shallow(classes: int) -> nn.Sequential:
    """Two convolutions, two hidden layers, for 32 x 32 images: 32 -> 15 -> 7 positions a side."""
    return nn.Sequential(
        *_convolution(3, 64),
        *_convolution(64, 64),
        nn.Flatten(),
        *_hidden(64 * 7 * 7, 384),
        *_hidden(384, 192),
        nn.Linear(192, classes),
    )


def _convolution(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(width_in, width_out, 5, padding=2, bias=False)
    return conv, nn.MaxPool2d(3, 2), nn.BatchNorm2d(width_out), nn.ReLU()


def _hidden(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
    return nn.Linear(width_in, width_out, bias=False), nn.BatchNorm1d(width_out), nn.ReLU(), nn.Dropout(0.5)
