"""What the loop holds from its first step to its last: model, optimizer, gradients, order of examples, rows, state."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rebatch import draws
from rebatch.batching import examples_seen, total_steps
from rebatch.data.batches import BatchSource
from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.execution import Execution
from rebatch.nn import convert_ghost_batch_norm
from rebatch.observation import Observer
from rebatch.optimizers import build_optimizer
from rebatch.recipe import Recipe
from rebatch.training.checkpoint import Checkpointer
from rebatch.training.evaluation import evaluate
from rebatch.training.gradients import Cutting, StepGradient, SummedLoss

Row = dict[str, float]
"""A row of a run: `step`, `epoch`, `examples` seen, `lr` of the last step, `train_loss` since the row before, what
observers wrote, and at evenly spaced rows `validation_loss` and `validation_accuracy` (percent). A run that diverged
ends with a row that holds `diverged` = 1."""


@dataclass
class Run:
    """One training in progress; `first` is the step it starts or resumes at, `total` the number of steps."""

    model: nn.Module
    data: Splits
    recipe: Recipe
    seed: int
    loss: SummedLoss
    execution: Execution
    cutting: Cutting
    observers: Sequence[Observer]
    first: int = 0

    def __post_init__(self) -> None:
        self.world = self.cutting.world
        self.total = total_steps(self.recipe, self.examples)
        self.optimizer = build_optimizer(self.recipe, self.model)
        self.gradient = self._gradient()
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.world.device)
        self.last_row = 0
        self._torch_seed = int(draws.generator(self.seed, "torch").integers(2**62))
        self._order: tuple[int, Tensor] | None = None

    def begin(self, checkpoint: Checkpointer | None) -> None:
        """Start all ranks alike, show the first weights to the observers, take up a saved state if there is one."""
        self.world.broadcast(self.model.buffers())  # DistributedDataParallel did so with the parameters
        for observer in self.observers:
            observer.start(self.model)
        if checkpoint is not None and (state := checkpoint.load()) is not None:
            self._resume(state)

    @property
    def examples(self) -> int:
        """Size of the training set."""
        return len(self.data.train)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def seed_torch(self, step: int) -> None:
        """What dropout draws in a step depends on (seed, step, rank) alone: a resumed run needs no saved generator."""
        seed = self._torch_seed + step * self.world.size + self.world.rank
        torch.default_generator.manual_seed(seed)  # 1 microsecond; torch.manual_seed takes 70 to reach every device
        if self.world.device.type == "cuda":
            torch.cuda.default_generators[self.world.device.index].manual_seed(seed)

    def order(self, epoch: int) -> Tensor:
        """The epoch's order of examples, on the device."""
        if self._order is None or self._order[0] != epoch:
            permutation = torch.from_numpy(draws.order(self.seed, epoch, self.examples))
            self._order = (epoch, permutation.to(self.world.device))
        return self._order[1]

    def row(self, step: int, lr: float, *, evaluated: bool) -> Row:
        """The row after `step` steps; the sum of losses starts again."""
        seen = examples_seen(step, self.examples, self.recipe)
        since = seen - examples_seen(self.last_row, self.examples, self.recipe)
        train_loss = self.world.sum(self.loss_sum).item() / since
        self.loss_sum, self.last_row = torch.zeros_like(self.loss_sum), step
        row = {"step": step, "epoch": seen / self.examples, "examples": seen, "lr": lr, "train_loss": train_loss}
        for observer in self.observers:
            row |= {name: float(value) for name, value in observer.row(self.model).items()}
        if evaluated:
            row |= self._validation()
        finite = torch.isfinite(torch.tensor([train_loss, row.get("validation_loss", 0.0)])).all()
        return row if finite else {**row, "diverged": 1}

    def _validation(self) -> Row:
        # Plain batch norm that was allowed to see pieces has statistics of its own on each rank: rank 0's count.
        self.world.broadcast(self.model.buffers())
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
        """What a checkpoint holds after `step` steps."""
        return {
            "step": step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "observers": [observer.state_dict() for observer in self.observers],
            "loss_sum": self.loss_sum,
            "last_row": self.last_row,
        }

    def _resume(self, state: Mapping[str, Any]) -> None:
        self.first = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for observer, saved in zip(self.observers, state["observers"], strict=True):
            observer.load_state_dict(saved)
        self.loss_sum, self.last_row = state["loss_sum"].to(self.world.device), state["last_row"]

    def _gradient(self) -> StepGradient:
        data = self.data
        batches = BatchSource(data.train, data.augmentations, data.normalize, seed=self.seed)
        network = _wrapped(self.model, self.execution, self.world)
        return StepGradient(network, self.loss, batches, self.cutting, self.execution, self.observers)


def place(model: nn.Module, recipe: Recipe, execution: Execution, world: World) -> None:
    """Make `model` what the recipe and the machine ask for, in place: ghosts, device, dtype, layout, training mode."""
    if recipe.ghost_batch_size is not None:
        convert_ghost_batch_norm(model, recipe.ghost_batch_size)
    model.to(world.device, torch.float64 if execution.precision == "float64" else None)
    if execution.memory_format == "channels_last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()


def _wrapped(model: nn.Module, execution: Execution, world: World) -> nn.Module:
    """The model as the loop calls it: compiled if asked, averaged over ranks if there are several."""
    if execution.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    if world.size == 1:
        return model
    # Running statistics of ghosts are the same on every rank (gathered in ghost order): nothing to broadcast at a step.
    name = "forward_sync_buffers" if _RENAMED else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, **options)


# torch 2.13 renamed the option and warns of the old name.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
