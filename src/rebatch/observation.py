"""What can be seen at a step, and who looks: training and measuring know each other only through this page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Observation:
    """A step at the moment when its gradient is complete and the weights have not moved.

    `step` counts the finished steps; the gradient lies in the parameters' `.grad`, before clipping, divided as the
    recipe says; `examples` is the number of examples of this step over all micro-batches and ranks, `loss` the summed
    loss of this rank's share of them, on the device.
    """

    step: int
    model: nn.Module
    examples: int
    lr: float
    loss: Tensor


class Observer:
    """Something that watches a run without changing it. Each moment does nothing unless an observer wants it."""

    sees_micro_batches = False

    def start(self, model: nn.Module) -> None:
        """Before the first step, also when a run is resumed: the weights are those of step 0."""

    def micro_batch(self, gradients: Sequence[Tensor | None], examples: int) -> None:
        """A micro-batch's gradient (of its summed loss over the step's divisor) before it is accumulated."""

    def step(self, observation: Observation) -> None:
        """The step's gradient before the weights move."""

    def row(self, model: nn.Module) -> Mapping[str, float | Tensor]:
        """What to write into a row: named numbers, as of the weights after the row's steps."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside `start`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""


class _Every(Observer):
    def __init__(self, steps: int, observer: Observer) -> None:
        self.steps, self.observer = steps, observer
        self.sees_micro_batches = observer.sees_micro_batches
        self._seen = 0

    def start(self, model: nn.Module) -> None:
        self._seen = 0
        self.observer.start(model)

    def micro_batch(self, gradients: Sequence[Tensor | None], examples: int) -> None:
        if self._seen % self.steps == 0:
            self.observer.micro_batch(gradients, examples)

    def step(self, observation: Observation) -> None:
        if self._seen % self.steps == 0:
            self.observer.step(observation)
        self._seen += 1

    def row(self, model: nn.Module) -> Mapping[str, float | Tensor]:
        return self.observer.row(model)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen, "observer": self.observer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen = state["seen"]
        self.observer.load_state_dict(state["observer"])


def every(steps: int, observer: Observer) -> Observer:
    """`observer`, looking only at every `steps`-th step, the first included."""
    return _Every(steps, observer)
