"""Dropout and dropconnect put into a model that was built without them; batch norm's scale drawn as in 2017.

A layer stays the same object and keeps its parameters and their names: dropconnect changes its class in place, as
ghost batch norm does, and dropout is a hook on what enters the layer.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebatch.errors import RequestError


class _DropConnect:
    """A layer whose weights are zeroed with probability `dropconnect` in training, and scaled to keep their mean."""

    weight: Tensor
    training: bool
    dropconnect: float

    def _dropped(self) -> Tensor:
        return F.dropout(self.weight, self.dropconnect, self.training)


class DropConnectLinear(_DropConnect, nn.Linear):
    """`torch.nn.Linear` with dropconnect (Wan et al., 2013): one mask for the whole batch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        """As `nn.Linear`, with some weights zeroed in training."""
        return F.linear(input, self._dropped(), self.bias)


class DropConnectConv2d(_DropConnect, nn.Conv2d):
    """`torch.nn.Conv2d` with dropconnect (Wan et al., 2013): one mask for the whole batch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        """As `nn.Conv2d`, with some weights zeroed in training."""
        outputs: Tensor = self._conv_forward(input, self._dropped(), self.bias)
        return outputs


_DROPPING: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: DropConnectLinear, nn.Conv2d: DropConnectConv2d}
_PLAIN: dict[type[nn.Module], type[nn.Module]] = {dropping: plain for plain, dropping in _DROPPING.items()}


def add_weight_noise(model: nn.Module, *, dropout: float, dropconnect: float) -> None:
    """Zero inputs or weights of every linear and 2d convolution layer but the first, in place, in training only.

    What an earlier call put in is replaced: 0 and 0 leave a model without noise of this kind.

    Args:
        dropout: probability of an input to be zeroed.
        dropconnect: probability of a weight to be zeroed.

    Raises:
        RequestError: the model has no such layer after the first one.
    """
    _remove(model)
    layers = [layer for layer in model.modules() if type(layer) in _DROPPING][1:]
    if not layers and (dropout > 0 or dropconnect > 0):
        raise RequestError(
            f"noise.dropout {dropout} and noise.dropconnect {dropconnect} need a linear or 2d convolution layer of "
            "torch's own after the first, and the model has none; leave them out"
        )
    for layer in layers:
        if dropconnect > 0:
            layer.__class__ = _DROPPING[type(layer)]
            vars(layer)["dropconnect"] = dropconnect
        if dropout > 0:
            layer.register_forward_pre_hook(partial(_drop, probability=dropout))


def _remove(model: nn.Module) -> None:
    for layer in model.modules():
        if type(layer) in _PLAIN:
            layer.__class__ = _PLAIN[type(layer)]
            del vars(layer)["dropconnect"]
        hooks = layer._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, partial) and hook.func is _drop]:
            del hooks[key]


def draw_batch_norm_scale(model: nn.Module, rng: np.random.Generator) -> None:
    """Draw the scale of every batch norm from U(0, 1), torch's default until 2018, in place."""
    for layer in model.modules():
        if isinstance(layer, _BatchNorm) and layer.affine:
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(rng.random(layer.num_features)))


def _drop(layer: nn.Module, inputs: tuple[Any, ...], *, probability: float) -> tuple[Any, ...]:
    return (F.dropout(inputs[0], probability, layer.training), *inputs[1:])
