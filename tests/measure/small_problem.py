"""A small network without batch norm on 37 examples, as flat gradients: per example, and of a weighted batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from toy import toy_model, toy_splits

EXAMPLES = 37


def small_gradient() -> Callable[[Tensor, Tensor], Tensor]:
    """The gradient of mean(z * loss) by autograd."""
    model, data = toy_model(norm=False), toy_splits(EXAMPLES).train
    parameters = list(model.parameters())

    def gradient(indices: Tensor, weights: Tensor) -> Tensor:
        losses = F.cross_entropy(model(data.inputs[indices]), data.targets[indices], reduction="none")
        return torch.cat([g.flatten() for g in torch.autograd.grad((weights * losses).mean(), parameters)])

    return gradient


def per_example_gradients() -> Tensor:
    """The twin: one gradient per example, shape (37, D)."""
    gradient, one = small_gradient(), torch.ones(1, dtype=torch.float64)
    return torch.stack([gradient(torch.tensor([n]), one) for n in range(EXAMPLES)])
