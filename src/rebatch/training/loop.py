"""The training loop: a generator of measured rows. Stopping, logging, storing are the caller's `for`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rebatch import draws
from rebatch.batching import batch_bounds, examples_seen, measured_steps, total_steps
from rebatch.data.batches import BatchSource
from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.execution import Execution
from rebatch.nn import convert_ghost_batch_norm
from rebatch.observation import Observation, Observer
from rebatch.optimizers import build_optimizer, set_lr
from rebatch.recipe import Recipe
from rebatch.schedule import lr_factor
from rebatch.training.checkpoint import Checkpointer
from rebatch.training.evaluation import evaluate
from rebatch.training.gradients import StepGradient, SummedLoss, choose_cutting, cross_entropy

Row = dict[str, float]
"""A row of a run: `step`, `epoch`, `examples` seen, `lr` of the last step, `train_loss` since the row before, what
observers wrote, and at evenly spaced rows `validation_loss` and `validation_accuracy` (percent). A run that diverged
ends with a row that holds `diverged` = 1."""


def train(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    *,
    seed: int,
    loss: SummedLoss = cross_entropy,
    execution: Execution | None = None,
    micro_batch_size: int | None = None,
    world: World | None = None,
    observers: Sequence[Observer] = (),
    evaluations: int = 20,
    checkpoint: Checkpointer | None = None,
    allow_batch_norm: bool = False,
) -> Iterator[Row]:
    """Train `model` in place on `data.train` as `recipe` says, yielding rows while it runs.

    Nothing happens before the first row is asked for, and a caller that stops asking stops the run. The model is moved
    to `world.device` and gets ghost batch norm if the recipe sets `ghost_batch_size`. The order of the examples and
    their augmentation depend on `seed` alone; torch's global generator is seeded too, for dropout.

    Args:
        loss: the summed loss of a micro-batch; the loop divides by the step's examples over all ranks.
        execution: precision, memory format, compilation; plain float32 if left out.
        micro_batch_size: the most examples of one forward pass, for memory; the run does not depend on it.
        observers: watch gradients and add to the rows; the run does not depend on them.
        evaluations: how many evenly spaced rows carry validation results.
        checkpoint: saves the state now and then, and resumes from it: bit for bit on the same machine and threads.
        allow_batch_norm: accept that plain batch norm sees micro-batches or ranks instead of the batch.

    Raises:
        RequestError: a batch that the data cannot fill, or a cut that would change the run.
    """
    run = _start(
        model, data, recipe, seed, loss, execution, micro_batch_size, world, observers, checkpoint, allow_batch_norm
    )
    log_spaced, even = (set(steps) for steps in measured_steps(run.total, evaluations))
    loss_sum, last_row = torch.zeros((), dtype=torch.float64, device=run.world.device), run.first
    for step in range(run.first, run.total):
        epoch, start, stop = batch_bounds(step, run.examples, recipe)
        lr = recipe.optimizer.lr * lr_factor(recipe.schedule, step / run.total)
        divisor = stop - start if recipe.loss_reduction == "mean" else 1
        loss_sum += run.gradient.compute(epoch, run.order(epoch)[start:stop], divisor)
        for observer in observers:
            observer.step(Observation(step, model, stop - start, lr))
        if recipe.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(run.parameters, recipe.max_grad_norm)
        set_lr(run.optimizer, lr)
        run.optimizer.step()
        if step + 1 in log_spaced or step + 1 in even:
            row = run.row(step + 1, last_row, lr, loss_sum, evaluated=step + 1 in even)
            yield row
            if "diverged" in row:
                return
            loss_sum, last_row = torch.zeros_like(loss_sum), step + 1
            if checkpoint is not None and run.world.rank == 0:
                checkpoint.save_if_due(lambda step=step: run.state(step + 1))  # type: ignore[misc]


@dataclass
class _Run:
    """What the loop holds from its first step to its last."""

    model: nn.Module
    data: Splits
    recipe: Recipe
    seed: int
    loss: SummedLoss
    execution: Execution
    world: World
    observers: Sequence[Observer]
    optimizer: torch.optim.Optimizer
    gradient: StepGradient
    first: int = 0
    _order: tuple[int, Tensor] | None = None

    @property
    def examples(self) -> int:
        return len(self.data.train)

    @property
    def total(self) -> int:
        return total_steps(self.recipe, self.examples)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def order(self, epoch: int) -> Tensor:
        """The epoch's order of examples, on the device."""
        if self._order is None or self._order[0] != epoch:
            permutation = torch.from_numpy(draws.order(self.seed, epoch, self.examples))
            self._order = (epoch, permutation.to(self.world.device))
        return self._order[1]

    def row(self, step: int, last_row: int, lr: float, loss_sum: Tensor, *, evaluated: bool) -> Row:
        seen = examples_seen(step, self.examples, self.recipe)
        since = seen - examples_seen(last_row, self.examples, self.recipe)
        train_loss = self.world.sum(loss_sum.clone()).item() / since
        row = {"step": step, "epoch": seen / self.examples, "examples": seen, "lr": lr, "train_loss": train_loss}
        for observer in self.observers:
            row |= {name: float(value) for name, value in observer.row(self.model).items()}
        if evaluated:
            row |= self._validation()
        finite = torch.isfinite(torch.tensor([train_loss, row.get("validation_loss", 0.0)])).all()
        return row if finite else {**row, "diverged": 1}

    def _validation(self) -> Row:
        result = evaluate(
            self.model,
            self.data.validation,
            self.data.normalize,
            loss=self.loss,
            execution=self.execution,
            world=self.world,
        )
        return {"validation_loss": result.loss, "validation_accuracy": result.accuracy}

    def state(self, step: int) -> Mapping[str, Any]:
        return {
            "step": step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "observers": [observer.state_dict() for observer in self.observers],
            "random": torch.get_rng_state(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        self.first = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for observer, saved in zip(self.observers, state["observers"], strict=True):
            observer.load_state_dict(saved)
        torch.set_rng_state(state["random"])


def _start(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    seed: int,
    loss: SummedLoss,
    execution: Execution | None,
    micro_batch_size: int | None,
    world: World | None,
    observers: Sequence[Observer],
    checkpoint: Checkpointer | None,
    allow_batch_norm: bool,
) -> _Run:
    world, execution = world or World(), execution or Execution()
    _place(model, recipe, execution, world)
    data = data.to(world.device)
    cutting = choose_cutting(model, recipe, micro_batch_size, world, allow_batch_norm=allow_batch_norm)
    layout = torch.channels_last if execution.memory_format == "channels_last" else None
    batches = BatchSource(data.train, data.augmentations, data.normalize, seed=seed, memory_format=layout)
    for observer in observers:
        observer.start(model)
    torch.manual_seed(int(draws.generator(seed, "torch", world.rank).integers(2**62)))
    gradient = StepGradient(_wrap(model, execution, world), loss, batches, cutting, execution, observers)
    optimizer = build_optimizer(recipe, model)
    run = _Run(model, data, recipe, seed, loss, execution, world, observers, optimizer, gradient)
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        run.resume(state)
    return run


def _place(model: nn.Module, recipe: Recipe, execution: Execution, world: World) -> None:
    if recipe.ghost_batch_size is not None:
        convert_ghost_batch_norm(model, recipe.ghost_batch_size)
    model.to(world.device, torch.float64 if execution.precision == "float64" else None)
    if execution.memory_format == "channels_last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()


def _wrap(model: nn.Module, execution: Execution, world: World) -> nn.Module:
    """The model as the loop calls it: compiled if asked, averaged over ranks if there are several."""
    if execution.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    if world.size == 1:
        return model
    # Running statistics are the same on every rank already (gathered in ghost order), so nothing is broadcast.
    return DistributedDataParallel(model, broadcast_buffers=False)
