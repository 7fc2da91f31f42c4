"""AlexNet with batch norm for 224 x 224 images, one tower (Krizhevsky, 2014), as Hoffer et al. (2017) have it."""

from torch import nn


def alexnet() -> nn.Sequential:
    """5 convolutions, two hidden layers of 4,096, 1,000 classes; 61,110,184 parameters.

    Only the first norm comes before its ReLU, as in the authors' code; the image shrinks 224 -> 55 -> 27 -> 13 -> 6.
    """
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2, bias=False),
        nn.MaxPool2d(3, 2),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 192, 5, padding=2, bias=False),
        nn.MaxPool2d(3, 2),
        *_rectified(192),
        nn.Conv2d(192, 384, 3, padding=1, bias=False),
        *_rectified(384),
        nn.Conv2d(384, 256, 3, padding=1, bias=False),
        *_rectified(256),
        nn.Conv2d(256, 256, 3, padding=1, bias=False),
        nn.MaxPool2d(3, 2),
        *_rectified(256),
        nn.Flatten(),
        *_hidden(256 * 6 * 6),
        *_hidden(4096),
        nn.Linear(4096, 1000),
    )


def _rectified(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.ReLU(), nn.BatchNorm2d(width)


def _hidden(width_in: int) -> tuple[nn.Module, ...]:
    return nn.Linear(width_in, 4096, bias=False), nn.BatchNorm1d(4096), nn.ReLU(), nn.Dropout(0.5)
