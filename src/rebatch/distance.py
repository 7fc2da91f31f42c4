"""How far apart are two sets of weights?"""

from collections.abc import Iterable

import torch
from torch import Tensor


def weight_distance(weights: Iterable[Tensor], initial: Iterable[Tensor]) -> Tensor:
    """||w - w_0||_2 over all tensors together, a scalar on their device, summed in float32 or wider.

    The model may have moved to another device since.
    """
    squares = [
        (now.detach() - then.to(now.device)).to(torch.promote_types(now.dtype, torch.float32)).square().sum()
        for now, then in zip(weights, initial, strict=True)
    ]
    return torch.stack(squares).sum().sqrt()
