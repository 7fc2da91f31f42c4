"""Weights frozen at places of a training, and gradients at them: what many probes begin with."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from rebatch.batching import total_steps
from rebatch.data.batches import prepare
from rebatch.data.sets import Splits
from rebatch.execution import Execution
from rebatch.measure.increments import Gradient
from rebatch.observation import trainable
from rebatch.recipe import Recipe
from rebatch.training import train
from rebatch.training.gradients import example_losses

# Numbers that gradients of single examples may take at a time: 32 MB in float32, and so many examples. More are slower:
# 1,024 examples of digits/mlp-plain take 0.37 s in chunks of 32, 0.7 to 1.0 s in chunks of 256.
AT_ONCE, MOST_AT_ONCE = 2**23, 32


@dataclass(frozen=True)
class Frozen:
    """A copy of the model after `step` steps, which are not fewer than the fraction `place` of the run."""

    place: float
    step: int
    model: nn.Module


def along(
    model: nn.Module, data: Splits, recipe: Recipe, places: Iterable[float], *, seed: int, execution: Execution
) -> Iterator[Frozen]:
    """A copy of `model` after each of `places`, fractions of its training by `recipe`: one run, stopped at the last.

    A copy is given at the first row that is not before its place; where the run diverged all others are given there.
    """
    total, waiting = total_steps(recipe, len(data.train)), sorted(places)
    while waiting and round(waiting[0] * total) == 0:
        yield Frozen(waiting.pop(0), 0, copy.deepcopy(model))
    if not waiting:
        return
    for row in train(model, data, recipe, seed=seed, execution=execution, evaluations=1):
        while waiting and (row["step"] >= round(waiting[0] * total) or "diverged" in row):
            yield Frozen(waiting.pop(0), int(row["step"]), copy.deepcopy(model))
        if not waiting:
            return


def gradient_of(model: nn.Module, data: Splits) -> Gradient:
    """Indices and weights of a batch to the flat gradient of mean(weight * loss), unaugmented."""
    parameters = trainable(model)

    def gradient(indices: Tensor, weights: Tensor) -> Tensor:
        inputs, targets = prepare(data.train, indices, data.normalize)
        losses = example_losses(model(inputs), targets)
        parts = torch.autograd.grad((losses * weights.to(losses.dtype)).mean(), parameters)
        return torch.cat([part.reshape(-1) for part in parts])

    return gradient


def per_example_gradients(model: nn.Module, data: Splits, indices: Tensor) -> Iterator[Tensor]:
    """The flat gradients of single unaugmented examples, chunk by chunk, (n, D); `model` must be in evaluation mode.

    One gradient per example under `vmap`, not the backward pass of a batch: the two can check each other.
    """
    assert not model.training, "batch norm in training mode couples examples, and a single one has no statistics"
    weights = {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}

    def loss(wanted: dict[str, Tensor], one: Tensor, target: Tensor) -> Tensor:
        output = functional_call(model, wanted, (one[None],))  # what is not in `wanted` stays the model's own
        return F.cross_entropy(output, target[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    dimensions = sum(weight.numel() for weight in weights.values())
    for chunk in torch.split(indices, max(1, min(MOST_AT_ONCE, AT_ONCE // dimensions))):
        inputs, targets = prepare(data.train, chunk, data.normalize)
        yield torch.cat([part.flatten(1) for part in each(weights, inputs, targets).values()], dim=1)
