"""A penalty on the length of gradients: what its gradient is, kept apart until the step's own gradient was looked at.

The loss of a step grows by `strength` times the mean over pieces of |g|^2, g being the gradient of a piece's mean loss
(Geiping et al., 2021; Novack et al., 2022); that mean's gradient is 2 strength H g, the Hessian of each piece times its
gradient. It is found exactly, by differentiating twice, at about four times the price of g. Geiping et al. take the
difference of two gradients a step eps apart along g, at twice the price of g. But every ReLU that turns on that way
makes the gradient jump, so that the difference scatters as 1/sqrt(eps): on a net like F1 by 9 times its own length at
their eps of 0.01, in float32 and bfloat16 alike (there the exact one is off by 12 %).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rebatch.distributed import World
from rebatch.errors import RequestError

_CANNOT = ("once_differentiable", "not implemented")


def gradient_with_graph(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Of `loss`, a scalar, in each parameter, to be differentiated again; None where the loss does not reach it."""
    return list(torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True))


def penalty_gradient(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], strength: float
) -> list[Tensor | None]:
    """The gradient of strength |g|^2, which is 2 strength H g, for g as `gradient_with_graph` gives it.

    The parameters' `.grad` stays as it is.

    Raises:
        RequestError: the model has an operation without a second derivative.
    """
    curved = [gradient for gradient in gradients if gradient is not None and gradient.requires_grad]
    directions = [2 * strength * gradient.detach() for gradient in curved]
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        # Not autograd.grad: on its way to some inputs it does not come by what forbids to be differentiated twice.
        torch.autograd.backward(curved, directions)
        return [parameter.grad for parameter in parameters]
    except RuntimeError as error:
        if not any(mark in str(error) for mark in _CANNOT):
            raise
        found = str(error).splitlines()[0].rstrip(".")
        raise RequestError(
            f"gradient_penalty needs a model that can be differentiated twice, and torch says: {found}; leave it out"
        ) from error
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


class StepPenalty:
    """The gradient of a step's penalty, summed over its pieces beside the gradient of its loss."""

    def __init__(self, strength: float, parameters: Sequence[nn.Parameter]) -> None:
        self.strength, self._parameters = strength, parameters
        self._sums: list[Tensor] = []

    def clear(self) -> None:
        """A step begins."""
        self._sums = [torch.zeros_like(parameter) for parameter in self._parameters]

    @torch.no_grad()
    def keep(self, gradients: Sequence[Tensor | None], penalties: Sequence[Tensor | None]) -> None:
        """Add a piece's gradient to the parameters' `.grad`, and that of its penalty to what is kept."""
        for parameter, kept, gradient, penalty in zip(self._parameters, self._sums, gradients, penalties, strict=True):
            if gradient is not None:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad += gradient.detach()
            if penalty is not None:
                kept += penalty

    @torch.no_grad()
    def average(self, world: World) -> None:
        """Both over ranks, as DistributedDataParallel would; a rank without pieces has zeros."""
        if world.size == 1:
            return
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        tensors = [*(parameter.grad for parameter in self._parameters if parameter.grad is not None), *self._sums]
        flat = world.sum(torch.cat([tensor.flatten() for tensor in tensors])) / world.size
        for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    @torch.no_grad()
    def add(self) -> None:
        """Let the parameters' `.grad` be the gradient of loss and penalty."""
        for parameter, kept in zip(self._parameters, self._sums, strict=True):
            if parameter.grad is not None:
                parameter.grad += kept
