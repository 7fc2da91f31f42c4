"""The loss as a function of the weights: evaluated anywhere, differentiated twice, and the model stays as it is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from rebatch.measure.landscape import undisturbed
from rebatch.observation import trainable, unseen

ModelLoss = Callable[[nn.Module], Tensor]
"""The mean loss of one fixed batch under a model's present weights, a scalar; the modes of its layers are the
caller's."""

WeightLoss = Callable[[Sequence[Tensor]], Tensor]
"""The loss at other values of the trained weights, given in the order of `trainable(model)`."""


@contextmanager
def weight_space(model: nn.Module, loss: ModelLoss, *, seed: int = 0) -> Iterator[WeightLoss]:
    """`loss` as a function of the trained weights, for as long as the context lasts.

    The model is called with other tensors in place of its parameters, so hooks on these and their `.grad` see nothing;
    buffers, modes and torch's global random state are put back, bit for bit. What the model draws (dropout) is drawn
    from `seed` at each call, so that the loss is a function. Attention takes the form that can be differentiated twice.
    """
    names = [f"model.{name}" for name, parameter in model.named_parameters() if parameter.requires_grad]
    bound, device = _Bound(model, loss), trainable(model)[0].device

    def at(weights: Sequence[Tensor]) -> Tensor:
        _seed(seed, device)
        with sdpa_kernel(SDPBackend.MATH):
            value: Tensor = functional_call(bound, dict(zip(names, weights, strict=True)), ())
        return value

    with undisturbed(model), unseen(), torch.enable_grad():
        yield at


class _Bound(nn.Module):
    """The loss as a module that holds the model, so that torch can call it with other parameters."""

    def __init__(self, model: nn.Module, loss: ModelLoss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self) -> Tensor:
        return self._loss(self.model)


def _seed(seed: int, device: torch.device) -> None:
    # torch.manual_seed would reach every device, also those whose state is not put back.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
