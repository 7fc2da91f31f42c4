"""A first layer that whitens small patches of the image, set from data instead of trained (Page, 2019, part 8).

As airbench94 has it (Jordan, 2024): a filter for every eigenvector of the patches' covariance, and its negative.
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch.errors import RequestError

EXAMPLES = 5_000
"""How many training images the filters are computed from, the first ones."""

EPS = 5e-4
"""What is added to an eigenvalue, so that directions which hardly vary are not blown up."""

M = TypeVar("M", bound=nn.Module)


class Whitening(nn.Conv2d):
    """A convolution without padding from `channels` to 2 * channels * size * size, with filters that are not trained.

    The filters are NaN until `whiten` has set them or a state dict is loaded: a forgotten call can not pass for a
    result. The bias starts at 0 and is trained only if `train_bias` says so.
    """

    bias: nn.Parameter

    def __init__(self, channels: int = 3, size: int = 2, *, train_bias: bool) -> None:
        super().__init__(channels, 2 * channels * size * size, size)
        nn.init.constant_(self.weight, torch.nan)
        nn.init.zeros_(self.bias)
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(train_bias)


def whiten(model: M, images: Tensor) -> M:
    """Set the filters of every `Whitening` layer of `model` from the first 5,000 of `images`; returns `model`.

    `images` are training images as the model sees them, normalized but not augmented, of shape (N, channels, H, W).

    Raises:
        RequestError: the model has no such layer, or the images are not floating-point numbers of its shape.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Whitening)]
    if not layers:
        raise RequestError(
            f"cannot whiten a {type(model).__name__} without a Whitening layer; begin the model with "
            "rebatch.models.whitening.Whitening, as fast94 and proxy do"
        )
    for layer in layers:
        if images.dim() == 4 and images.shape[1] != layer.in_channels:
            raise RequestError(
                f"a Whitening layer takes {layer.in_channels} channels, the images have {images.shape[1]}"
            )
        filters = whitening_filters(images[:EXAMPLES], layer.kernel_size[0])
        with torch.no_grad():
            layer.weight.copy_(filters)
    return model


@torch.no_grad()
def whitening_filters(images: Tensor, size: int = 2, *, eps: float = EPS) -> Tensor:
    """Filters whose outputs on the patches of `images` are uncorrelated, each with mean square 1.

    With eigenvalues l and eigenvectors v of the mean of p p^T over all patches p, the filters are v / sqrt(l + eps),
    those of large eigenvalues first, then their negatives. The mean square of an output is l / (l + eps), which is 1
    for eps = 0. The mean patch is not subtracted: that of normalized images is about 0, and airbench keeps it too.

    An eigenvector has no sign of its own. Here the first entry that comes to 3/4 of the largest is positive: the
    largest itself will not do, because patches of images are almost symmetric, so that entries of opposite sign tie.
    (On CIFAR-10 no entry comes nearer to 3/4 than 0.1.)

    Args:
        images: (N, C, H, W), floating-point; sums are taken in float64.
        size: side of a patch.
        eps: added to every eigenvalue.

    Returns:
        (2 * C * size * size, C, size, size), of the dtype and on the device of `images`.

    Raises:
        RequestError: the images are not of this shape, or not floating-point.
    """
    if images.dim() != 4 or not images.is_floating_point() or len(images) == 0 or min(images.shape[2:]) < size:
        raise RequestError(
            "whitening needs normalized floating-point images of shape (N, C, H, W), at least one, of a side of at "
            f"least {size}, got {images.dtype} of shape {tuple(images.shape)}"
        )
    # On the CPU, so that every machine solves the small problem alike.
    values, vectors = torch.linalg.eigh(_mean_product(images, size).cpu())
    values, vectors = values.flip(0).clamp(min=0), vectors.T.flip(0)
    magnitudes = vectors.abs()
    first = (magnitudes >= 0.75 * magnitudes.amax(1, keepdim=True)).int().argmax(1, keepdim=True)
    whitened = vectors * vectors.gather(1, first).sign() / (values + eps).sqrt().unsqueeze(1)
    return torch.cat([whitened, -whitened]).view(-1, images.shape[1], size, size).to(images)


def _mean_product(images: Tensor, size: int) -> Tensor:
    """The mean of p p^T over all patches p, channels first, then rows: (C size size, C size size) in float64."""
    total, patches = torch.zeros((), dtype=torch.float64, device=images.device), 0
    for some in torch.split(images, 250):  # 23 MB of patches at a time
        columns = F.unfold(some.double(), size).transpose(0, 1).flatten(1)
        total, patches = total + columns @ columns.T, patches + columns.shape[1]
    return total / patches
