"""What can be seen at a step, and who looks: training and measuring know each other only through this page."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from rebatch.distributed import World
from rebatch.errors import RequestError
from rebatch.fields import show_given
from rebatch.interval import Interval

Value = TypeVar("Value")


@dataclass(frozen=True)
class Observation:
    """A step at the moment when its gradient is complete and the weights have not moved.

    `step` counts the finished steps; the gradient lies in the parameters' `.grad`, before clipping, averaged over
    ranks and divided as the recipe says; `examples` is the number of examples of this step over all micro-batches and
    ranks, `loss` the summed loss of this rank's share of them, on the device (nan where the loop is not ours).
    `optimizer` has not stepped yet. Gradients are `gradient_scale` times too long (a GradScaler's scale). Micro-batches
    weigh as many examples as they have, or all alike with `equal_weights`. `consistent` is false, on the device, where
    the gradient is not what the step's micro-batches add up to.
    """

    step: int
    model: nn.Module
    examples: int
    lr: float
    loss: Tensor
    optimizer: Optimizer | None = None
    world: World = field(default_factory=World)
    gradient_scale: Tensor | float = 1.0
    equal_weights: bool = False
    consistent: Tensor | None = None


@dataclass(frozen=True)
class Call:
    """A call of the model in training: what it was given, what it gave, and what repeats it.

    `generators` are the states of torch's generators before the call (CPU, then the model's device if it is another),
    `drew` says whether the call moved them, `compiled` whether torch.compile stands between.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    generators: tuple[Tensor, ...]
    drew: bool
    compiled: bool
    autocast: tuple[str, torch.dtype] | None


class Observer:
    """Something that watches a run without changing it. Each moment does nothing unless an observer wants it."""

    # Whether `call`, `gradient` and `micro_batch` are wanted at all.
    sees_micro_batches = False

    @property
    def sees_calls(self) -> bool:
        """Whether `call` is wanted in the step that comes next."""
        return False

    def start(self, model: nn.Module) -> None:
        """Before the first step, also when a run is resumed: the weights are those of step 0."""

    def call(self, call: Call) -> None:
        """The model was called for a micro-batch."""

    def gradient(self, position: int, gradient: Tensor) -> None:
        """A micro-batch's gradient in the trainable parameter at `position`, before it is accumulated or averaged.

        It is that of the loss that the loop differentiates: divided by the step's examples, times the number of ranks.
        """

    def micro_batch(self, examples: int) -> None:
        """A micro-batch of this rank is complete: all of its gradients were shown."""

    def step(self, observation: Observation) -> None:
        """The step's gradient before the weights move."""

    def row(self, model: nn.Module) -> Mapping[str, float | Tensor]:
        """What to write into a row: named numbers, as of the weights after the row's steps."""
        return {}

    def summary(self, model: nn.Module) -> Mapping[str, Any]:
        """What was measured, each with `.estimate`, `.low` and `.high`; by default the row's numbers, as exact ones."""
        return {name: Interval(value, value, value) for name, value in _numbers(self.row(model))}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside `start`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""


def _numbers(row: Mapping[str, float | Tensor]) -> Iterator[tuple[str, float]]:
    return ((name, float(value)) for name, value in row.items())


class _Every(Observer):
    def __init__(self, steps: int, observer: Observer) -> None:
        self.steps, self.observer = steps, observer
        self.sees_micro_batches = observer.sees_micro_batches
        self._seen = 0

    @property
    def _looks(self) -> bool:
        return self._seen % self.steps == 0

    @property
    def sees_calls(self) -> bool:
        return self._looks and self.observer.sees_calls

    def start(self, model: nn.Module) -> None:
        self._seen = 0
        self.observer.start(model)

    def call(self, call: Call) -> None:
        self.observer.call(call)

    def gradient(self, position: int, gradient: Tensor) -> None:
        if self._looks:
            self.observer.gradient(position, gradient)

    def micro_batch(self, examples: int) -> None:
        if self._looks:
            self.observer.micro_batch(examples)

    def step(self, observation: Observation) -> None:
        if self._looks:
            self.observer.step(observation)
        self._seen += 1

    def row(self, model: nn.Module) -> Mapping[str, float | Tensor]:
        return self.observer.row(model)

    def summary(self, model: nn.Module) -> Mapping[str, Any]:
        return self.observer.summary(model)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen, "observer": self.observer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen = state["seen"]
        self.observer.load_state_dict(state["observer"])


def every(steps: int, observer: Observer) -> Observer:
    """`observer`, looking only at every `steps`-th step, the first included.

    Raises:
        RequestError: `steps` below 1.
    """
    require_observers("every", [observer])
    if steps < 1:
        raise RequestError(f"every needs steps >= 1, got {steps}")
    return _Every(steps, observer)


def require_observers(name: str, observers: object) -> None:
    """What was given as `name` is a list of observers: of objects, no classes or names.

    Raises:
        RequestError: it is one observer by itself, or holds something else.
    """
    if isinstance(observers, str) or not isinstance(observers, Sequence):
        given = show_given(observers)
        raise RequestError(f"{name} must be a list of observers, got {given}; put it in brackets: [NoiseScale()]")
    for each in observers:
        if not isinstance(each, Observer):
            given = show_given(each)
            raise RequestError(f"{name} needs observers, got {given}; give an object, such as NoiseScale()")


def numbered(parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    """What several observers found, by name; a name that is taken gets a number, so that nothing is lost.

    >>> numbered([{"noise_scale": 1.0}, {"noise_scale": 2.0, "loss": 3.0}])
    {'noise_scale': 1.0, 'noise_scale_2': 2.0, 'loss': 3.0}
    """
    found: dict[str, Value] = {}
    seen: Counter[str] = Counter()
    for name, value in (each for part in parts for each in part.items()):
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name}_{seen[name]}"] = value
    return found


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The weights that are trained, of which gradients are shown; `Observer.gradient` counts their positions."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class Tap:
    """Shows observers the calls of a model and its gradients as backward finds them, and changes neither.

    Hooks on the parameters see the gradient of one micro-batch on one rank: autograd calls them before it accumulates,
    and DistributedDataParallel averages later still. So no gradient is copied, and no communication hook is taken.

    Args:
        network: what the loop calls: the model, or what compiles or distributes it.
        model: the model itself.
        on_call: told of each call of `network` in training, with what it gave.
    """

    def __init__(
        self,
        network: nn.Module,
        model: nn.Module,
        observers: Sequence[Observer],
        *,
        on_call: Callable[[tuple[Any, ...], Mapping[str, Any], Any], None] | None = None,
    ) -> None:
        self._network, self._observers, self._on_call = network, list(observers), on_call
        self._watchers = [observer for observer in observers if observer.sees_micro_batches]
        parameters = trainable(model) if self._watchers else []
        self._device = parameters[0].device if parameters else torch.device("cpu")
        self._compiled = any(hasattr(module, "_orig_mod") for module in network.modules())
        self._generators: tuple[Tensor, ...] = ()
        self._is_shut = False
        self._handles = [
            *(_hook(each, partial(self._gradient, place)) for place, each in enumerate(parameters)),
            network.register_forward_pre_hook(self._before, with_kwargs=True),
            network.register_forward_hook(self._after, with_kwargs=True),
        ]

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Gradients that are found in here are not the loss's, and are shown to nobody."""
        self._is_shut = True
        try:
            yield
        finally:
            self._is_shut = False

    def _gradient(self, position: int, gradient: Tensor) -> None:
        for watcher in () if self._is_shut else self._watchers:
            watcher.gradient(position, gradient.detach())  # one that is to be differentiated again has a graph

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._sees(module) and any(observer.sees_calls for observer in self._observers):
            self._generators = generator_states(self._device)

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self._sees(module):
            return
        if self._on_call is not None:
            self._on_call(args, kwargs, output)
        wanting = [observer for observer in self._observers if observer.sees_calls]
        if not wanting:
            return
        before, after = self._generators, generator_states(self._device)
        drew = any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
        kind = self._device.type
        autocast = (kind, torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None
        call = Call(args, kwargs, output, before, drew, self._compiled, autocast)
        for observer in wanting:
            observer.call(call)

    def __reduce__(self) -> tuple[Any, ...]:
        """A model that is copied (an average, a branch) or saved whole comes back unwatched: its hooks see nothing."""
        return _closed_tap, ()

    def _sees(self, module: nn.Module) -> bool:
        return module is self._network and torch.is_grad_enabled() and not _UNSEEN.get()


def _closed_tap() -> Tap:
    tap = Tap.__new__(Tap)
    tap._network = None  # type: ignore[assignment]
    return tap


def differentiable(output: Any) -> list[Tensor]:
    """The tensors in what a model gave that gradients come back to."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]


def _hook(parameter: nn.Parameter, hook: Callable[[Tensor], None]) -> RemovableHandle:
    handle: RemovableHandle = parameter.register_hook(hook)  # type: ignore[no-untyped-call]
    return handle


_UNSEEN: ContextVar[bool] = ContextVar("unseen", default=False)


@contextmanager
def unseen() -> Iterator[None]:
    """Calls of a model in here are shown to nobody: an observer's own."""
    token = _UNSEEN.set(True)
    try:
        yield
    finally:
        _UNSEEN.reset(token)


def generator_states(device: torch.device) -> tuple[Tensor, ...]:
    """The states of torch's generators, of the CPU and of `device`."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return tuple(states)


@contextmanager
def repeating(generators: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """What torch draws in here is what it drew after `generators`, and no draw that comes later notices."""
    others = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.set_rng_state(generators[0])
            if device.type == "cuda":
                torch.cuda.set_rng_state(generators[1], device)
            yield
    finally:
        random.setstate(others[0])
        np.random.set_state(others[1])
