"""What watches a run for a study and measures in the middle of it: at the end of the high rate, at its peak, late."""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebatch.batching import measured_steps, steps_of_last_epoch, total_steps
from rebatch.data.batches import past_batches
from rebatch.data.sets import Splits
from rebatch.measure.forgetting import Forgetting
from rebatch.observation import Observation, Observer
from rebatch.schedule import ROUNDING, lr_factor
from rebatch.study.limits import curvature_in_training, high_rate_ends, recent_decay
from rebatch.study.plan import RunSpec
from rebatch.training import evaluate
from rebatch.training.gradients import as_executed, autocast

# `recomputed_statistics` looks at the evaluations after this part of the run.
LATE = 0.5
# Batch norm's statistics are recomputed over so many of the last examples, or all there are.
STATISTICS_EXAMPLES = 10_000
# The decay is read within an epoch: whatever is remembered longer is "an epoch or more".
LONGEST = 1.0


class _Finding(Observer):
    """Keeps what it has found, by name, also when the run is resumed."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def finish(self, model: nn.Module) -> None:
        """After the last step."""

    def state_dict(self) -> dict[str, Any]:
        """What was found so far."""
        return {"found": self.found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""
        self.found = dict(state["found"])


def what_was_found(_: RunSpec, model: nn.Module, __: Splits, watcher: Observer) -> Mapping[str, float]:
    """The numbers of any watcher here."""
    assert isinstance(watcher, _Finding)
    watcher.finish(model)
    return watcher.found


class LastEpoch(_Finding):
    """The mean training loss of the last epoch's steps, each as it was trained on; and the loss of a guess."""

    def __init__(self, spec: RunSpec, data: Splits) -> None:
        super().__init__()
        recipe, examples = spec.recipe, len(data.train)
        self._first = total_steps(recipe, examples) - steps_of_last_epoch(recipe, examples)
        self._chance = math.log(int(data.train.targets.max()) + 1)
        self._loss: Tensor | float = 0.0
        self._examples = 0

    def step(self, observation: Observation) -> None:
        """Add the step's loss, if it is of the last epoch."""
        if observation.step >= self._first:
            self._loss = self._loss + observation.loss.detach().double()
            self._examples += observation.examples

    def finish(self, model: nn.Module) -> None:
        """Both losses, per example."""
        self.found = {"last_epoch_loss": float(self._loss) / self._examples, "chance_loss": self._chance}

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {**super().state_dict(), "loss": float(self._loss), "examples": self._examples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""
        super().load_state_dict(state)
        self._loss, self._examples = state["loss"], state["examples"]


class HighRate(_Finding):
    """How soon a batch is forgotten where the high learning rate ends: what `rebatch measure limits` says of it."""

    def __init__(self, spec: RunSpec, data: Splits) -> None:
        super().__init__()
        self._spec, self._data = spec, data
        self._ends = high_rate_ends(spec.recipe, len(data.train))
        self._forgetting = Forgetting(len(data.train), epochs=1.0)

    def step(self, observation: Observation) -> None:
        """Remember the step until the high rate ends, and measure there."""
        if observation.step == self._ends:
            self._measure(observation.model)
        if observation.step < self._ends:
            self._forgetting.step(observation)

    def finish(self, model: nn.Module) -> None:
        """Measure now if the high rate lasted to the end."""
        if not self.found:
            self._measure(model)

    def _measure(self, model: nn.Module) -> None:
        data = self._data.to(_device(model))
        with autocast(self._spec.execution, _device(model).type):
            decay, unseen = recent_decay(self._forgetting, model, data, self._spec.recipe, seed=self._spec.seed)
        forgotten = min(decay.age_at(unseen), LONGEST)
        self.found = {"forgotten_at_high_rate": forgotten, "newest_loss": decay.newest, "unseen_loss": unseen}

    def state_dict(self) -> dict[str, Any]:
        """What was found, or what is remembered for it."""
        return {**super().state_dict(), "forgetting": self._forgetting.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up `state_dict` again."""
        super().load_state_dict(state)
        self._forgetting.load_state_dict(state["forgetting"])


class PeakCurvature(_Finding):
    """The top eigenvalue before the last step of the highest learning rate, and that rate, on the mean loss."""

    def __init__(self, spec: RunSpec, data: Splits) -> None:
        super().__init__()
        self._spec, self._data = spec, data
        total = total_steps(spec.recipe, len(data.train))
        factors = [lr_factor(spec.recipe.schedule, step / total) for step in range(total)]
        highest = max(factors) - ROUNDING
        self._peak = max(step for step, factor in enumerate(factors) if factor >= highest)

    def step(self, observation: Observation) -> None:
        """Measure before the step that is the last of the highest rate."""
        if observation.step == self._peak:
            recipe = self._spec.recipe
            mean_form = recipe.batch_size if recipe.loss_reduction == "sum" else 1
            self.found = {"peak_eigenvalue": self._eigenvalue(observation), "peak_lr": observation.lr * mean_form}

    def _eigenvalue(self, observation: Observation) -> float:
        """nan where training has broken and there is none to find, or where it was not found."""
        if not torch.isfinite(observation.loss):
            return math.nan
        found = curvature_in_training(observation.model, self._data.to(_device(observation.model)))
        return found.value if found.converged else math.nan


class RecomputedStatistics(_Finding):
    """Validation accuracy at the late evaluations with batch norm's statistics recomputed, in their rows."""

    def __init__(self, spec: RunSpec, data: Splits) -> None:
        super().__init__()
        self._spec, self._data = spec, data
        total = total_steps(spec.recipe, len(data.train))
        even = measured_steps(total, spec.evaluations)[1]
        self._late = {step for step in even if step >= LATE * total}
        self._finished = 0

    def step(self, observation: Observation) -> None:
        """Count the step."""
        self._finished = observation.step + 1

    def row(self, model: nn.Module) -> Mapping[str, float]:
        """`recomputed_accuracy` in percent, at late evaluations."""
        if self._finished not in self._late:
            return {}
        spec, data = self._spec, self._data.to(_device(model))
        batches = self._last_batches(data)
        with autocast(spec.execution, _device(model).type):
            probe = with_recomputed_statistics(model, (as_executed(inputs, spec.execution) for inputs in batches))
        found = evaluate(probe, data.validation, data.normalize, views=data.views, execution=spec.execution)
        return {"recomputed_accuracy": found.accuracy}

    def _last_batches(self, data: Splits) -> Iterable[Tensor]:
        """Inputs of the newest batches that the run was trained on, as it saw them."""
        recipe = self._spec.recipe
        count = math.ceil(min(STATISTICS_EXAMPLES, len(data.train)) / recipe.batch_size)
        rebuilt = past_batches(data, recipe, seed=self._spec.seed)
        return (rebuilt(step)[0] for step in range(max(0, self._finished - count), self._finished))


def with_recomputed_statistics(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of `model` whose batch norm has the mean of the statistics of `batches`, under the weights of now.

    The running ones are an average over steps in which the weights moved.
    """
    probe = copy.deepcopy(model).train()
    layers = [layer for layer in probe.modules() if isinstance(layer, _BatchNorm)]
    with torch.no_grad():
        for number, inputs in enumerate(batches, start=1):
            for layer in layers:
                layer.momentum = 1.0 / number
            probe(inputs)
    return probe.eval()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
