"""Measure in a loop that is not ours: three lines, no change of the model or the loss.

watch = rebatch.watch(model, optimizer, batch_size=128, measure=[NoiseScale(), WeightDistance()])
for inputs, targets in batches:
    optimizer.zero_grad()
    loss(model(inputs), targets).backward()
    watch.step()
    optimizer.step()
print(watch.summary())
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from rebatch.distributed import World
from rebatch.errors import RequestError
from rebatch.fields import require_choice, typed
from rebatch.observation import Observation, Observer, Tap, differentiable, numbered, require_observers, trainable
from rebatch.optimizers import require_optimizer

# In so many first steps the gradient that is shown is compared with the pieces that it should consist of.
CHECKED_STEPS = 3
# Half precision accumulates with errors of this order.
TOLERANCE = 0.05

MicroBatchWeights = Literal["equal", "examples"]

SizeOf = Callable[[tuple[Any, ...], Mapping[str, Any]], int]
"""Positional and named arguments of a call of the model to its number of examples."""


class Estimate(Protocol):
    """A number with the bounds of its 95 % interval; both are the number itself where it is exact."""

    @property
    def estimate(self) -> float:
        """The number."""

    @property
    def low(self) -> float:
        """Its lower bound."""

    @property
    def high(self) -> float:
        """Its upper bound."""


class Summary(Mapping[str, Estimate]):
    """What was measured, by name; printed as a table."""

    def __init__(self, steps: int, found: Mapping[str, Estimate]) -> None:
        self.steps, self._found = steps, dict(found)

    def __getitem__(self, name: str) -> Estimate:
        if name not in self._found:
            known = ", ".join(self._found) or "nothing yet"
            raise KeyError(f"{name!r} was not measured in {self.steps} steps; there is: {known}")
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __str__(self) -> str:
        width = max((len(name) for name in self._found), default=0)
        lines = [f"{name:<{width}}  {_words(found)}" for name, found in self._found.items()]
        return "\n".join(lines or [f"nothing was measured in {self.steps} steps"])


def _words(found: Estimate) -> str:
    if type(found).__str__ is not object.__str__:
        return str(found)
    if found.low == found.high:
        return f"{found.estimate:.4g}"
    return f"{found.estimate:.4g}, {found.low:.4g} to {found.high:.4g}"


def watch(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    batch_size: int,
    measure: Sequence[Observer],
    scaler: GradScaler | None = None,
    micro_batch_weights: MicroBatchWeights = "equal",
    size_of: SizeOf | None = None,
) -> "Watch":
    """Start measuring; call `.step()` after the step's last `backward()`, before clipping and the optimizer's step.

    Accumulation is noticed: each call of the model that a `backward()` came back through is a micro-batch. Ranks are
    those of a DistributedDataParallel model.

    Args:
        model: as the loop calls it: plain, compiled, or in DistributedDataParallel.
        batch_size: examples of one step, over all micro-batches and ranks; compared with what the first step shows.
        measure: observers, such as `NoiseScale()` and `WeightDistance()`.
        scaler: the loop's GradScaler, if it has one.
        micro_batch_weights: "equal" where the loop divides each micro-batch's mean loss by their number; "examples"
            where it divides summed losses by the step's examples. The same for micro-batches of one size.
        size_of: how many examples a call of the model has; the first length of its first tensor, if left out.

    Raises:
        RequestError: a model whose gradients are in pieces elsewhere (FSDP), ranks without DistributedDataParallel, an
            optimizer that moves another model.
    """
    require_choice("micro_batch_weights", micro_batch_weights, MicroBatchWeights)
    require_optimizer(optimizer)
    require_observers("measure", measure)
    batch_size = typed(batch_size, int, "batch_size")
    return Watch(model, optimizer, batch_size, measure, scaler, micro_batch_weights == "equal", size_of or _size_of)


class Watch:
    """Made by `rebatch.watch`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        batch_size: int,
        observers: Sequence[Observer],
        scaler: GradScaler | None,
        equal_weights: bool,
        size_of: SizeOf,
    ) -> None:
        if batch_size < 1 or not observers:
            raise RequestError(
                f"watch needs batch_size >= 1 and something to measure, got {batch_size} and {list(observers)}"
            )
        self._model, self._optimizer = _inner(model), optimizer
        self._batch_size, self._equal_weights, self._size_of = batch_size, equal_weights, size_of
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._observers = list(observers)
        self._world = _world(model, self._model)
        _require_moved(self._model, optimizer)
        self._pieces = _Pieces(observers)
        self._pieces.start(self._model)
        self._steps = 0
        self._loss = torch.full((), float("nan"))
        for observer in observers:
            observer.start(self._model)
        self._watches_pieces = any(observer.sees_micro_batches for observer in observers)
        self._tap = Tap(model, self._model, [self._pieces, *observers], on_call=self._called)
        if not self._watches_pieces:
            self._tap.close()

    def step(self) -> None:
        """The step's gradient is complete, and neither clipped nor unscaled.

        Raises:
            RequestError: no `backward()` came before, or the gradient is not what the micro-batches add up to.
        """
        examples = self._batch_size
        if self._watches_pieces:
            self._pieces.close()
            if self._steps < CHECKED_STEPS:
                self._check()
            examples = sum(self._pieces.sizes) * self._world.size
        scale = 1.0 if self._scaler is None else self._scaler.scale(torch.ones((), device=self._world.device))
        lr = float(self._optimizer.param_groups[0]["lr"])
        observation = Observation(
            step=self._steps,
            model=self._model,
            examples=examples,
            lr=lr,
            loss=self._loss,
            optimizer=self._optimizer,
            world=self._world,
            gradient_scale=scale,
            equal_weights=self._equal_weights,
            consistent=self._pieces.consistent() if self._watches_pieces and self._world.size == 1 else None,
        )
        for observer in self._observers:
            observer.step(observation)
        self._pieces.clear()
        self._steps += 1

    def summary(self) -> Summary:
        """Everything measured, with 95 % intervals; of two observers of one name the second's is `name_2`."""
        return Summary(self._steps, numbered(observer.summary(self._model) for observer in self._observers))

    def row(self) -> dict[str, float]:
        """Named numbers as of now, for a logger."""
        row = numbered(observer.row(self._model) for observer in self._observers)
        return {name: float(value) for name, value in row.items()}

    def close(self) -> None:
        """Take all hooks away; what was measured stays."""
        self._tap.close()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"steps": self._steps, "observers": [observer.state_dict() for observer in self._observers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""
        self._steps = state["steps"]
        for observer, saved in zip(self._observers, state["observers"], strict=True):
            observer.load_state_dict(saved)

    def _called(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        self._pieces.called(self._size_of(args, kwargs), output)

    def _check(self) -> None:
        pieces = self._pieces
        if not pieces.sizes:
            raise RequestError("watch.step() saw no backward(); call it after the step's last backward()")
        seen = sum(pieces.sizes) * self._world.size
        if self._steps == 0 and seen != self._batch_size:
            raise RequestError(
                f"batch_size is {self._batch_size}, but the first step had {len(pieces.sizes)} calls of the model with "
                f"{pieces.sizes[0]} examples on each of {self._world.size} rank(s), {seen} in all; tell that number, "
                "or size_of if the first length of the first argument does not count examples"
            )
        if self._world.size == 1:
            pieces.compare()


class _Pieces(Observer):
    """Tells observers where a micro-batch ends, and remembers one small parameter's gradients to compare."""

    sees_micro_batches = True

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._told = [observer for observer in observers if observer.sees_micro_batches]
        self._parameter: nn.Parameter | None = None
        self._position = -1
        self._calls: list[_Size] = []
        self._backward = False
        self.clear()

    def start(self, model: nn.Module) -> None:
        """Choose the parameter."""
        parameters = trainable(model)
        self._position = min(range(len(parameters)), key=lambda place: parameters[place].numel())
        self._parameter = parameters[self._position]

    def clear(self) -> None:
        """The step is over."""
        self.sizes: list[int] = []
        self._sum: Tensor | float = 0.0
        self._calls.clear()
        self._backward = False

    def called(self, examples: int, output: Any) -> None:
        """The model was called: what a backward pass has followed before was a micro-batch."""
        self.close()
        size = _Size(examples)
        self._calls.append(size)
        for leaf in differentiable(output):
            leaf.register_hook(size.use)  # type: ignore[no-untyped-call]

    def gradient(self, position: int, gradient: Tensor) -> None:
        """A backward pass goes on."""
        self._backward = True
        if position == self._position:
            self._sum = self._sum + gradient.detach()

    def close(self) -> None:
        """End the micro-batch, if there was one."""
        if not self._backward:
            return
        used = [call.examples for call in self._calls if call.used]
        if not used:
            raise RequestError(
                "a backward pass came through none of the watched model's calls, so its examples are not known; call "
                "the model itself, and watch what you call"
            )
        if len(set(used)) != 1:
            raise RequestError(
                f"the model was called with {used} examples before one backward(), so a micro-batch has no size; give "
                "watch a size_of"
            )
        self.sizes.append(used[-1])
        self._calls, self._backward = [], False
        for observer in self._told:
            observer.micro_batch(self.sizes[-1])

    def consistent(self) -> Tensor | None:
        """Whether the parameter's gradient is the sum of what its micro-batches gave, on the device."""
        return None if (parts := self._parts()) is None else parts[0] <= TOLERANCE * parts[1]

    def compare(self) -> None:
        """Refuse a gradient that is not."""
        parts = self._parts()
        if parts is None:
            return
        error, size = parts
        if torch.isfinite(error) and error > TOLERANCE * size:
            raise RequestError(
                "the gradient at watch.step() is not what this step's backward passes add up to "
                f"(off by {100 * float(error / size):.0f} % in one parameter): was it clipped, unscaled, or not zeroed "
                "after the last step? call watch.step() right after the last backward()"
            )

    def _parts(self) -> tuple[Tensor, Tensor] | None:
        """How far off it is, and how large."""
        if self._parameter is None or self._parameter.grad is None or isinstance(self._sum, float):
            return None
        found, expected = (each.detach().to_dense().double() for each in (self._parameter.grad, self._sum))
        return (found - expected).abs().sum(), expected.abs().sum()


class _Size:
    """How many examples a call had, and whether a backward pass came through it."""

    def __init__(self, examples: int) -> None:
        self.examples, self.used = examples, False

    def use(self, _: Tensor) -> None:
        """A gradient came back to its output."""
        self.used = True


def _size_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    for leaf in tree_leaves((args, dict(kwargs))):
        if isinstance(leaf, Tensor) and leaf.dim() > 0:
            return len(leaf)
    raise RequestError("the model was called without a tensor, so its examples cannot be counted; give watch a size_of")


def _inner(model: nn.Module) -> nn.Module:
    """The model within what compiles or distributes it."""
    if isinstance(model, DistributedDataParallel | nn.DataParallel):
        return _inner(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return _inner(compiled) if isinstance(compiled, nn.Module) else model


def _require_moved(model: nn.Module, optimizer: Optimizer) -> None:
    """The optimizer moves weights of this model, or copies of them in another precision (master weights)."""
    weights, moved = trainable(model), [each for group in optimizer.param_groups for each in group["params"]]
    own = {id(weight) for weight in weights} & {id(each) for each in moved}
    if not own and {each.dtype for each in moved} <= {weight.dtype for weight in weights}:
        raise RequestError(
            f"the optimizer moves none of the model's {len(weights)} trained parameters; watch the model that it was "
            "made for, or make it of model.parameters()"
        )


def _world(model: nn.Module, inner: nn.Module) -> World:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    parameters = list(inner.parameters())
    if not trainable(inner):
        raise RequestError("the model has no parameter that is trained, so there is nothing to watch")
    if isinstance(model, FullyShardedDataParallel) or any(isinstance(each, DTensor) for each in parameters):
        raise RequestError(
            "the model is sharded (FSDP or tensor parallel): each rank sees a part of the gradient, and its pieces are "
            "gone when it is complete; watch a DistributedDataParallel model instead"
        )
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if ranks == 1:
        return World(device=parameters[0].device)
    wrapped = model if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", None)
    if not isinstance(wrapped, DistributedDataParallel):
        raise RequestError(f"there are {ranks} ranks, and the model is not in DistributedDataParallel; wrap it first")
    return World(dist.get_rank(), ranks, parameters[0].device)
