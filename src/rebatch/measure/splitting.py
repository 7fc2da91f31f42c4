"""The gradient of a part of a batch, where the loop computes only that of the whole.

The loop's own loss is not needed: its gradient in the model's outputs is known from the backward pass, and an example's
share of it is its own row. So a part of the batch goes through the model once more, and back with these rows. Per-layer
formulas would be cheaper for some layers and leave out others.

Any share of the batch tells tr(Sigma) equally well (for Gaussian noise): the difference between a part's mean gradient
and the rest's has the same distribution once it is divided by its own deviation. So the part may be small.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from rebatch.cutting import ghost_sizes
from rebatch.errors import RequestError
from rebatch.nn.ghost_batch_norm import ghost_batch_sizes
from rebatch.observation import Call, differentiable, repeating, unseen

# A call that is repeated gives the step's gradient but for rounding, in half precision too.
TOLERANCE = 0.05


class Split:
    """The calls of the model in a step, and the loss's gradient in their outputs, until the step is over."""

    def __init__(self, model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self._model, self._parameters = model, parameters
        self._calls: list[tuple[Call, dict[int, Tensor]]] = []

    @property
    def is_ready(self) -> bool:
        """Whether there is a call to repeat."""
        return bool(self._calls)

    @property
    def drew(self) -> bool:
        """Whether the model drew at random, as dropout does."""
        return self._used[0][0].drew

    @property
    def _used(self) -> list[tuple[Call, dict[int, Tensor]]]:
        """The calls that the backward pass came through, and not one that was made to look at something."""
        return [pair for pair in self._calls if pair[1]]

    def call(self, call: Call) -> None:
        """Remember what repeats a call, and what will come back to its outputs; not the outputs, which hold a graph."""
        gradients: dict[int, Tensor] = {}
        self._calls.append((dataclasses.replace(call, output=None), gradients))
        for place, leaf in enumerate(differentiable(call.output)):
            leaf.register_hook(partial(_keep_first, gradients, place))  # type: ignore[no-untyped-call]

    def forget(self) -> None:
        """The step has several pieces: nothing will be repeated."""
        self._calls.clear()

    def part(self, examples: int, share: float) -> int | None:
        """How many of the first examples are shown again: whole ghosts, about `share`; None if there is but one."""
        ghosts = ghost_batch_sizes(self._model)
        if len(ghosts) > 1:
            return None
        sizes = ghost_sizes(examples, ghosts.pop()) if ghosts else [1] * examples
        if len(sizes) < 2:
            return None
        shown = min(max(1, round(share * len(sizes))), len(sizes) - 1)
        return sum(sizes[:shown])

    def difference(self, part: int, examples: int) -> list[Tensor]:
        """h - (m/B) H for each parameter: h is the first m = `part` examples' share of the step's gradient H.

        Where the model draws at random, all examples pass again with the same draws, else the part alone.

        Raises:
            RequestError: examples cannot be told apart in the call.
        """
        self._refuse(examples)
        gradients, wholes = self._gradients(part, examples), self._wholes()
        pairs = zip(gradients, wholes, strict=True)
        return [each if whole is None else each - (part / examples) * whole for each, whole in pairs]

    def check(self, examples: int) -> None:
        """Repeat the whole call, and refuse where that does not give the step's gradient.

        So it is where an output is computed from another one, or a gradient reaches the weights around the outputs (a
        penalty in the loss, a head that is called apart), or the call changed its inputs in place.
        """
        self._refuse(examples)
        repeated, wholes = self._gradients(examples, examples), self._wholes()
        errors = [each if whole is None else each - whole for each, whole in zip(repeated, wholes, strict=True)]
        error, size = (_length(each) for each in (errors, [whole for whole in wholes if whole is not None]))
        if torch.isfinite(error) and error > TOLERANCE * size:
            raise RequestError(
                "a step that is one piece is split by its outputs' gradients, and these do not give the step's "
                f"gradient (off by {100 * float(error / size):.0f} %): outputs that depend on each other, or weights "
                "that the loss reaches around them (a penalty); accumulate over at least 2 micro-batches"
            )

    def _wholes(self) -> list[Tensor | None]:
        """The step's own gradients; those of embeddings may be sparse."""
        return [None if each.grad is None else each.grad.to_dense() for each in self._parameters]

    def _gradients(self, part: int, examples: int) -> list[Tensor]:
        (call, output_gradients), device = self._used[0], self._parameters[0].device
        # Aliases of the weights, without the hooks, and copies of the buffers: running statistics stay as they are.
        alias = {id(each): each.detach().requires_grad_() for each in self._parameters}
        state: dict[str, Tensor] = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        state |= {name: alias[id(each)] for name, each in self._model.named_parameters() if id(each) in alias}
        shown = examples if call.drew else part
        args, kwargs = (tree_map(partial(_first, count=shown, of=examples), each) for each in (call.args, call.kwargs))
        with torch.enable_grad(), unseen(), repeating(call.generators, device), _autocast(call):
            output = functional_call(self._model, state, args, dict(kwargs))
        leaves = differentiable(output)
        chosen = [(leaves[place], rows) for place, rows in output_gradients.items()]
        outputs = [leaf for leaf, _ in chosen]
        weights = [alias[id(each)] for each in self._parameters]
        back = [_rows(rows, part, shown) for _, rows in chosen]
        try:
            found = torch.autograd.grad(outputs, weights, back, materialize_grads=True)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise RequestError(
                "the model checkpoints activations with use_reentrant=True, and such a call cannot be repeated for its "
                "noise scale; set use_reentrant=False, or accumulate over at least 2 micro-batches"
            ) from None
        return [each.to_dense() for each in found]

    def _refuse(self, examples: int) -> None:
        used = self._used
        if not used:
            raise RequestError(
                "no gradient came back to the model's outputs, so a step that is one piece has no noise scale; call "
                "the watched model itself, or accumulate over at least 2 micro-batches"
            )
        call, rows = used[0][0], used[0][1].values()
        if len(used) > 1:
            problem = f"the model was called {len(used)} times for one backward pass"
        elif call.compiled and call.drew:
            problem = "the model is compiled and draws at random (dropout), which cannot be repeated"
        elif any(each.dim() == 0 or len(each) != examples for each in rows):
            problem = f"the model's outputs do not have one row for each of the {examples} examples"
        else:
            return
        raise RequestError(
            f"{problem}, so a step that is one piece has no noise scale; accumulate over at least 2 micro-batches"
        )


def _keep_first(gradients: dict[int, Tensor], place: int, gradient: Tensor) -> None:
    """A second one comes back where a loop differentiates twice (a penalty on gradients): it is not the loss's."""
    gradients.setdefault(place, gradient.detach())


def _length(tensors: Sequence[Tensor]) -> Tensor:
    lengths = [torch.linalg.vector_norm(each, dtype=torch.float64) for each in tensors]
    found: Tensor = torch.linalg.vector_norm(torch.stack(lengths))
    return found


def _first(leaf: Any, *, count: int, of: int) -> Any:
    """The first `count` rows of a tensor that has one for each of the `of` examples."""
    is_batch = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == of
    return leaf[:count] if is_batch else leaf


def _rows(rows: Tensor, part: int, shown: int) -> Tensor:
    """What comes back to the outputs: the part's own rows, and nothing for the others that are shown."""
    if shown == part:
        return rows[:part]
    masked = torch.zeros_like(rows)
    masked[:part] = rows[:part]
    return masked


def _autocast(call: Call) -> AbstractContextManager[object]:
    return nullcontext() if call.autocast is None else torch.autocast(*call.autocast)
