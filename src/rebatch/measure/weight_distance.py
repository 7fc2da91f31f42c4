"""How far have the weights travelled from where they started? (Hoffer et al., 2017, Figure 2: about log t.)"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from rebatch.observation import Observer


def weight_distance(weights: Iterable[Tensor], initial: Iterable[Tensor]) -> Tensor:
    """||w - w_0||_2 over all tensors together, a scalar on their device, summed in float32 or wider."""
    squares = [
        (now.detach() - then).to(torch.promote_types(now.dtype, torch.float32)).square().sum()
        for now, then in zip(weights, initial, strict=True)
    ]
    return torch.stack(squares).sum().sqrt()


class WeightDistance(Observer):
    """Writes `weight_distance` of the trainable parameters into every row."""

    def start(self, model: nn.Module) -> None:
        """Remember w_0."""
        self._initial = [weight.detach().clone() for weight in _trainable(model)]

    def row(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The distance at the row's weights."""
        return {"weight_distance": weight_distance(_trainable(model), self._initial)}


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
