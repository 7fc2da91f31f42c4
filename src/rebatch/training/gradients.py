"""A step's gradient: summed over micro-batches and ranks, divided once by the global count."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rebatch.batching import START, Place, step_sizes
from rebatch.cutting import cut, ghost_sizes, is_cut, micro_batch_sizes, offsets, refuse_split_ghosts
from rebatch.data.batches import BatchSource
from rebatch.distributed import World
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.nn import deferred_running_statistics
from rebatch.nn.ghost_batch_norm import GhostBatchNorm, ghost_batch_sizes, plain_batch_norms
from rebatch.observation import Observer, Tap, trainable
from rebatch.recipe import Recipe
from rebatch.training.noise import StepNoise, chunks
from rebatch.training.penalty import StepPenalty, gradient_with_graph, penalty_gradient

SummedLoss = Callable[..., Tensor]
"""Outputs and targets of a micro-batch to the sum of its examples' losses, a scalar. For recipes that weigh examples
(`noise.multiplicative`, `defects.ghost_split = "chunks"`) it takes them too, as `weights`, shape (B,), and for recipes
with `label_smoothing` that."""


def cross_entropy(
    outputs: Tensor, targets: Tensor, weights: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy summed over examples, each times its weight; outputs (B, classes), targets (B,), weights (B,).

    An example may be a sequence, with outputs (B, classes, T) and targets (B, T): it counts as the mean over its T
    tokens. So a step's sum over its number of examples is the sum over all its tokens over their number.
    With `label_smoothing` s the target distribution is 1 - s on the label plus s spread evenly over all classes.
    """
    if weights is None:
        summed = F.cross_entropy(outputs, targets, reduction="sum", label_smoothing=label_smoothing)
        return summed if outputs.dim() == 2 else summed / outputs.shape[2:].numel()
    losses = example_losses(outputs, targets, label_smoothing=label_smoothing)
    return losses.mul(weights.to(losses.dtype)).sum()


def example_losses(outputs: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """What `cross_entropy` sums, shape (B,): the loss of each example, for a sequence the mean over its tokens."""
    losses = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=label_smoothing)
    return losses if outputs.dim() == 2 else losses.flatten(1).mean(1)


@dataclass(frozen=True)
class Cutting:
    """How the examples of a step are cut: whole ghosts dealt to ranks, ranks' shares cut into micro-batches."""

    ghost_batch_size: int | None
    micro_batch_size: int | None
    world: World

    def pieces(self, examples: int) -> list[tuple[int, int]]:
        """(start, stop) of this rank's micro-batches within the step's examples; empty where nothing is left for it."""
        return _pieces(examples, self.ghost_batch_size, self.micro_batch_size, self.world.rank, self.world.size)

    def is_whole(self, examples: int) -> bool:
        """Whether one forward pass on one rank sees the whole step."""
        return self.world.size == 1 and len(self.pieces(examples)) == 1


@lru_cache(maxsize=64)
def _pieces(examples: int, ghost: int | None, micro: int | None, rank: int, ranks: int) -> list[tuple[int, int]]:
    if ranks == 1 and (micro is None or micro >= examples):
        return [(0, examples)]
    shares = cut(ghost_sizes(examples, ghost) if ghost else [1] * examples, ranks)
    first = sum(sum(share) for share in shares[:rank])
    sizes = micro_batch_sizes(shares[rank], micro or examples)
    return [(first + start, first + stop) for start, stop in offsets(sizes)]


def choose_cutting(
    model: nn.Module,
    recipe: Recipe,
    examples: int,
    micro_batch_size: int | None,
    world: World,
    *,
    allow_batch_norm: bool,
    start: Place = START,
) -> Cutting:
    """How steps are cut, or why they cannot be without changing the run.

    Raises:
        RequestError: plain batch norm over several micro-batches or ranks, a cut that would split a ghost, or a single
            example where batch norm needs more.
    """
    splits = is_cut(recipe, micro_batch_size, world.size)
    if splits and not allow_batch_norm:
        _refuse_batch_norm(model, recipe)
    ghost = one_ghost_batch_size(model) if splits else max(ghost_batch_sizes(model), default=None)
    if micro_batch_size is not None:
        refuse_split_ghosts(micro_batch_size, ghost or 1)
    cutting = Cutting(ghost, micro_batch_size, world)
    if recipe.piece_size is not None:
        cutting = _into_pieces(recipe.piece_size, ghost, micro_batch_size, world)
    if splits and chunks(recipe) is not None:
        raise RequestError(
            'defects.ghost_split = "chunks" cuts ghosts by their number, so a step cannot be cut into micro-batches or '
            'ranks; use "size", or one rank without micro_batch_size or gradient_penalty'
        )
    if splits and recipe.noise.dropconnect > 0:
        raise RequestError(
            f"noise.dropconnect zeroes the same weights for the whole step, got {recipe.noise.dropconnect}, so a step "
            "cannot be cut into micro-batches or ranks; leave it out, or use one rank without micro_batch_size or "
            "gradient_penalty"
        )
    _refuse_single_examples(model, recipe, examples, cutting, start)
    return cutting


def _into_pieces(size: int, ghost: int | None, micro_batch_size: int | None, world: World) -> Cutting:
    """Pieces whose gradients are penalized are cut as ghosts are, and each is a micro-batch, however large one may be.

    Raises:
        RequestError: a piece that must be split, or that would split the ghosts of the model.
    """
    if micro_batch_size is not None and micro_batch_size < size:
        raise RequestError(
            f"micro_batch_size must be at least gradient_penalty.batch_size {size}, got {micro_batch_size}: the length "
            "of a gradient is that of a whole piece; use a larger one, or smaller pieces"
        )
    if size % (ghost or 1):
        raise RequestError(
            f"gradient_penalty.batch_size must be a multiple of the model's ghosts of {ghost}, got {size}; "
            f"try {max(1, size // (ghost or 1)) * (ghost or 1)}"
        )
    return Cutting(size, size, world)


def one_ghost_batch_size(model: nn.Module) -> int | None:
    """The ghost batch size of all layers that have ghosts; None where none has.

    Raises:
        RequestError: they have several.
    """
    ghosts = ghost_batch_sizes(model)
    if len(ghosts) > 1:
        raise RequestError(f"a step can be cut only if all ghosts have one size, got {sorted(ghosts)}; set one")
    return max(ghosts, default=None)


def _refuse_single_examples(model: nn.Module, recipe: Recipe, examples: int, cutting: Cutting, start: Place) -> None:
    """One example has no variance: batch norm over (N, C) cannot normalize it."""
    if not any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules()):
        return
    for size in step_sizes(recipe, examples, start):
        if any(stop - start == 1 for start, stop in cutting.pieces(size)):
            raise RequestError(
                f"batch norm cannot normalize a single example, and a batch of {size} (of {examples} in batches of "
                f'{recipe.batch_size}) leaves one alone; use last_batch = "drop" or another batch or micro-batch size'
            )


def _refuse_batch_norm(model: nn.Module, recipe: Recipe) -> None:
    for name in plain_batch_norms(model):
        raise RequestError(
            f"plain batch norm ({name}) would see {_pieces_seen(recipe)} instead of the batch of "
            f"{recipe.batch_size}, so cutting a step would change the run; set ghost_batch_size in the recipe, "
            "or pass allow_batch_norm=True (--allow-batch-norm) to accept that"
        )


def _pieces_seen(recipe: Recipe) -> str:
    return "micro-batches or ranks" if recipe.piece_size is None else "the pieces of gradient_penalty"


class StepGradient:
    """Leaves a step's gradient in the parameters' `.grad`, the same however the step is cut (law 1)."""

    def __init__(
        self,
        network: nn.Module,
        model: nn.Module,
        loss: SummedLoss,
        batches: BatchSource,
        cutting: Cutting,
        execution: Execution,
        observers: Sequence[Observer],
        noise: StepNoise,
        *,
        label_smoothing: float = 0.0,
        penalty: float = 0.0,
    ) -> None:
        name = getattr(loss, "__name__", type(loss).__name__)
        if noise.weighs_by is not None and not _takes(loss, "weights"):
            raise RequestError(
                f"{noise.weighs_by} weighs examples, and the loss {name} takes no weights; give it an argument "
                f"`weights` (B,), as rebatch.training.cross_entropy has, or leave {noise.weighs_by} out"
            )
        if label_smoothing > 0 and not _takes(loss, "label_smoothing"):
            raise RequestError(
                f"label_smoothing changes labels, and the loss {name} takes no label_smoothing; give it an argument "
                "`label_smoothing`, as rebatch.training.cross_entropy has, or leave label_smoothing out"
            )
        if penalty > 0 and execution.compile:
            raise RequestError(
                f"gradient_penalty differentiates twice, and a compiled model cannot be, got strength {penalty} with "
                "compile; leave one of them out"
            )
        self._noise = noise
        self._smoothing = {"label_smoothing": label_smoothing} if label_smoothing > 0 else {}
        self._network, self._loss, self._batches, self._cutting = network, loss, batches, cutting
        self._execution, self._device = execution, cutting.world.device.type
        self._watchers = [observer for observer in observers if observer.sees_micro_batches]
        self._tap = Tap(network, model, self._watchers) if self._watchers else None
        self._parameters = trainable(network)
        self._penalty = StepPenalty(penalty, self._parameters) if penalty > 0 else None

    def close(self) -> None:
        """Leave the model without hooks."""
        if self._tap is not None:
            self._tap.close()

    def compute(self, epoch: int, indices: Tensor, divisor: int) -> Tensor:
        """Gradient of the summed loss over `divisor`; returns this rank's summed loss, still on the device."""
        for parameter in self._parameters:
            parameter.grad = None
        if self._penalty is not None:
            self._penalty.clear()
        if self._cutting.is_whole(len(indices)):
            return self._micro_batch(epoch, indices, 1 / divisor, is_last=True)
        with deferred_running_statistics(self._network, gather=self._cutting.world.gather) as collect:
            loss = self._several(epoch, indices, divisor, collect)
        if self._penalty is not None:
            self._penalty.average(self._cutting.world)
        return loss

    def add_penalty(self) -> None:
        """Add the gradient of the penalty, where the recipe has one; until then `.grad` is that of the loss alone."""
        if self._penalty is not None:
            self._penalty.add()

    def _several(self, epoch: int, indices: Tensor, divisor: int, collect: Callable[[], None]) -> Tensor:
        # DistributedDataParallel averages over ranks, so each rank's part of the sum counts `size` times.
        scale = self._cutting.world.size / divisor
        pieces = self._cutting.pieces(len(indices))
        if not pieces:
            return self._idle(epoch, indices)
        losses = []
        for number, (start, stop) in enumerate(pieces, 1):
            losses.append(self._micro_batch(epoch, indices[start:stop], scale, is_last=number == len(pieces)))
            collect()
        return torch.stack(losses).sum()

    def _micro_batch(self, epoch: int, indices: Tensor, scale: float, *, is_last: bool) -> Tensor:
        inputs, targets = self._batches.batch(epoch, indices)
        targets = self._noise.labels(epoch, indices, targets)
        weights = self._noise.weights(epoch, indices)
        with self._synchronizing(is_last):
            with autocast(self._execution, self._device):
                loss, plain = self._losses(self._network(as_executed(inputs, self._execution)), targets, weights)
            self._differentiate(loss * scale, self._penalty, scale * len(indices))
        for watcher in self._watchers if scale else ():
            watcher.micro_batch(len(indices))
        return plain

    def _differentiate(self, loss: Tensor, penalty: StepPenalty | None, share: float) -> None:
        """Add the gradient of `loss`, `share` times the mean loss of its examples, to `.grad`; keep the penalty's."""
        if penalty is None:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        gradients = gradient_with_graph(loss, self._parameters)
        # share |g / share|^2: g is `share` times the gradient of the mean loss.
        with nullcontext() if self._tap is None else self._tap.shut():
            penalties = penalty_gradient(gradients, self._parameters, penalty.strength / share)
        penalty.keep(gradients, penalties)

    def _losses(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss to go down, and the one to write down: labels are not smoothed, and all examples weigh the same."""
        if weights is None and not self._smoothing:
            loss = self._loss(outputs, targets)
            return loss, loss.detach()
        weighed = {} if weights is None else {"weights": weights}
        loss = self._loss(outputs, targets, **weighed, **self._smoothing)
        with torch.no_grad():
            return loss, self._loss(outputs, targets)

    def _idle(self, epoch: int, indices: Tensor) -> Tensor:
        """A rank without examples still takes part in every exchange: examples at weight 0, unseen by statistics."""
        if self._penalty is not None:  # its own exchange comes last
            return torch.zeros((), device=self._device)
        loss = self._micro_batch(epoch, indices[: self._cutting.ghost_batch_size or 1], 0.0, is_last=True)
        for layer in self._network.modules():
            if isinstance(layer, GhostBatchNorm) and layer.pending is not None:
                layer.pending.clear()
        return torch.zeros_like(loss)

    def _synchronizing(self, is_last: bool) -> AbstractContextManager[None]:
        own_exchange = self._penalty is not None
        if isinstance(self._network, DistributedDataParallel) and (own_exchange or not is_last):
            return self._network.no_sync()
        return nullcontext()


def _takes(loss: SummedLoss, argument: str) -> bool:
    # By name: a third argument may be anything, such as the classes' weights of torch's own cross-entropy.
    try:
        inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).bind(None, None, **{argument: None})
    except TypeError:
        return False
    except ValueError:  # a built-in function does not tell
        return True
    return True


def autocast(execution: Execution, device: str) -> AbstractContextManager[object]:
    """bfloat16 autocast where the run asks for it."""
    if execution.precision == "bfloat16":
        return torch.autocast(device, torch.bfloat16)
    return nullcontext()


def as_executed(inputs: Tensor, execution: Execution) -> Tensor:
    """Inputs (B, ...) as the run computes: float64 for float64, images (B, C, H, W) in the memory format asked for."""
    if execution.precision == "float64" and inputs.is_floating_point():
        inputs = inputs.double()
    if execution.memory_format == "channels_last" and inputs.dim() == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return inputs
