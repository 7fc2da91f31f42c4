"""How long are steps beside the weights that they move, of weights before a norm? Expected: `rebatch.equilibrium`."""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rebatch.observation import Observation, Observer, trainable

# An output that stays within this part of itself when a weight is doubled: a norm's eps is all that can move it.
UNCHANGED = 0.05


def weights_before_a_norm(model: nn.Module, inputs: Tensor) -> list[int]:
    """Which of the model's trainable tensors of two and more dimensions a norm takes the length of, by their places.

    Tried out: the outputs in training mode hardly change when the tensor is doubled. `model` stays as it is.
    """
    tried = copy.deepcopy(model).train()
    found = []
    with torch.random.fork_rng(), torch.no_grad():
        before = _outputs(tried, inputs)
        for place, weight in enumerate(trainable(tried)):
            if weight.dim() > 1:
                weight.mul_(2.0)
                change = torch.linalg.vector_norm(_outputs(tried, inputs) - before)
                weight.div_(2.0)
                if change <= UNCHANGED * torch.linalg.vector_norm(before):
                    found.append(place)
    return found


def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    torch.manual_seed(0)  # dropout draws the same
    outputs: Tensor = model(inputs)
    return outputs


class RelativeSteps(Observer):
    """The root mean square of |step| / |w| over the weights at `places` and over the steps since step `first`.

    `relative_step` in a row is that of all such steps so far; nan before the first.
    """

    def __init__(self, places: list[int], first: int = 0) -> None:
        self._places, self._first = places, first
        self._before: list[Tensor] | None = None
        self._sum, self._count = 0.0, 0

    def step(self, observation: Observation) -> None:
        """Weigh the step before this one, and keep the weights from which this one starts."""
        self._weigh(observation.model)
        if observation.step >= self._first:
            weights = trainable(observation.model)
            self._before = [weights[place].detach().clone() for place in self._places]

    def row(self, model: nn.Module) -> Mapping[str, float]:
        """With the step that was taken just now."""
        self._weigh(model)
        return {"relative_step": math.sqrt(self._sum / self._count) if self._count else math.nan}

    def _weigh(self, model: nn.Module) -> None:
        if self._before is None:
            return
        weights = trainable(model)
        for place, before in zip(self._places, self._before, strict=True):
            moved = torch.linalg.vector_norm(weights[place].detach() - before) / torch.linalg.vector_norm(before)
            self._sum += float(moved) ** 2
            self._count += 1
        self._before = None
