"""Views of an image to evaluate it at: a network's logits are averaged over them (test-time augmentation)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from rebatch.errors import RequestError

Views = Literal["one", "flip", "flip+shift"]
"""The image itself; and its mirror; and both moved by a pixel as well."""


def views_of(images: Tensor, views: Views) -> list[tuple[float, Tensor]]:
    """(weight, images) of each view of `images` (B, C, H, W); the weights add up to 1.

    "flip": the image and its mirror, half each (Page, 2019, part 8; level 1 of airbench, Jordan, 2024). "flip+shift":
    those two a quarter each, and an eighth each of both moved by a pixel down and right, and up and left, where the
    image is mirrored at its border (airbench's level 2).

    Raises:
        RequestError: a name that is not in the list, or more than one view of what is no image.
    """
    if views not in _SHIFTED:
        raise RequestError(f"views must be {', '.join(map(repr, _SHIFTED))}, got {views!r}")
    if views == "one":
        return [(1.0, images)]
    if images.dim() != 4:
        raise RequestError(
            f"views {views!r} are of images (B, C, H, W), got inputs of shape {tuple(images.shape)}; leave them 'one'"
        )
    plain = [(1.0, images)]
    if _SHIFTED[views]:
        height, width = images.shape[2:]
        wide = F.pad(images, (1, 1, 1, 1), "reflect")
        moved = (wide[:, :, :height, :width], wide[:, :, 2:, 2:])
        plain = [(0.5, images), *((0.25, each) for each in moved)]
    return [(weight / 2, view) for weight, each in plain for view in (each, each.flip(-1))]


# Whether views of that name are moved by a pixel too.
_SHIFTED: dict[Views, bool] = {"one": False, "flip": False, "flip+shift": True}
