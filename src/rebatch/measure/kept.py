"""How much memory does a forward pass keep for the way back, and how many numbers do its layers put out?

Both count storages, each once: a layer that works in place, or a view, adds nothing. Weights are left out; what remains
grows with the micro-batch. A model on torch's meta device is counted without doing any of its work.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from rebatch.errors import RequestError


def kept_for_backward(forward: Callable[[], Tensor], *, besides: Iterable[Tensor] = ()) -> dict[torch.dtype, int]:
    """Bytes that autograd keeps when `forward` returns, by type of number; `besides` are tensors not to count.

    The inputs count where they are kept. Integers are those that pooling needs to find its maxima again.

    Raises:
        RequestError: nothing is kept: gradients are switched off, or nothing asks for one.
    """
    apart = {_key(tensor) for tensor in besides}
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (key := _key(tensor)) not in apart:
            seen[key] = tensor  # held, so that no other storage takes its place
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    if not output.requires_grad:
        raise RequestError("nothing is kept for a backward pass: the output needs no gradient; ask for one")
    found: dict[torch.dtype, int] = {}
    for tensor in seen.values():
        found[tensor.dtype] = found.get(tensor.dtype, 0) + tensor.untyped_storage().nbytes()
    return found


def numbers_put_out(model: nn.Module, inputs: Tensor) -> int:
    """Numbers in `inputs` and in the outputs of all layers that have no layers within."""
    seen: dict[int, Tensor] = {_key(inputs): inputs}

    def look(_: nn.Module, __: object, output: Tensor) -> None:
        seen[_key(output)] = output

    handles = [layer.register_forward_hook(look) for layer in model.modules() if not list(layer.children())]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in seen.values())


def kept_by_training(model: nn.Module, inputs: Tensor) -> dict[torch.dtype, int]:
    """Bytes that a forward pass of `model` keeps, its parameters and buffers left out."""
    state = (*model.parameters(), *model.buffers())
    return kept_for_backward(partial(model, inputs), besides=state)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
