"""VGG for 32 x 32 images: the paper names no more than "VGG", and the authors' code has none, so this is a choice.

Two candidates share the 13 convolutions of VGG-16 with batch norm: C2 of Keskar et al. (2017), with dropout between the
convolutions and one hidden layer of 512, and the net in the authors' later convNet.pytorch, with two of 4,096. We take
C2, because C1 and C3 of the same table are Keskar's too, and because two layers of 4,096 behind a single position hold
more weights than all convolutions together. Convolutions have no bias, as everywhere in the authors' code.
"""

from torch import nn

# Widths of the stages; each ends in a pooling that halves the image.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg() -> nn.Sequential:
    """13 convolutions, a hidden layer of 512, 10 classes; 14,987,210 parameters."""
    layers: list[nn.Module] = []
    width_in = 3
    for stage, widths in enumerate(STAGES):
        for position, width in enumerate(widths):
            layers += [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            if position < len(widths) - 1:
                layers.append(nn.Dropout(0.3 if stage == 0 else 0.4))
            width_in = width
        layers.append(nn.MaxPool2d(2))
    head = (nn.Linear(width_in, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), *head, nn.Linear(512, 10))


def vgg16() -> nn.Sequential:
    """VGG-16 for 224 x 224 images and 1,000 classes, configuration D of Simonyan and Zisserman (2014, arXiv 1409.1556).

    138,357,544 parameters; no batch norm, as it was. ReLUs work in place, as in torchvision.
    """
    layers: list[nn.Module] = []
    width_in = 3
    for widths in STAGES:
        for width in widths:
            layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU(inplace=True)]
            width_in = width
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for numbers in (width_in * 7 * 7, 4096):
        layers += [nn.Linear(numbers, 4096), nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))
