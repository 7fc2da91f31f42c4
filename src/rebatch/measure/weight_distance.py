"""How far have the weights travelled from where they started? (Hoffer et al., 2017, Figure 2: about log t.)"""

from collections.abc import Mapping

from torch import Tensor, nn

from rebatch.distance import weight_distance
from rebatch.observation import Observer, trainable

__all__ = ["WeightDistance", "weight_distance"]


class WeightDistance(Observer):
    """Writes into every row how far the trainable parameters are from where they started.

    `weight_distance` is over all of them, `weight_distance_first` over the first one with two or more dimensions: the
    first convolution (or the first linear layer), which is very likely what the paper's Figure 2 shows, since its code
    logs the first parameter only.

    Args:
        layers: also each layer's, weights and bias together, as `weight_distance:NAME`; squared they add up to the
            square of the whole. A parameter that several layers share counts for the first.
    """

    def __init__(self, *, layers: bool = False) -> None:
        self._layers = layers

    def start(self, model: nn.Module) -> None:
        """Remember w_0."""
        self._initial = [weight.detach().clone() for weight in trainable(model)]
        self._places: dict[str, list[int]] = {}
        if self._layers:
            names = [name for name, weight in model.named_parameters() if weight.requires_grad]
            for place, name in enumerate(names):
                self._places.setdefault(name.rpartition(".")[0] or name, []).append(place)

    def row(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The distances at the row's weights."""
        weights = trainable(model)
        first = next((place for place, weight in enumerate(weights) if weight.dim() > 1), 0)
        by_layer = {
            f"weight_distance:{name}": weight_distance([weights[p] for p in places], [self._initial[p] for p in places])
            for name, places in self._places.items()
        }
        return {
            "weight_distance": weight_distance(weights, self._initial),
            "weight_distance_first": weight_distance(weights[first : first + 1], self._initial[first : first + 1]),
            **by_layer,
        }
