"""What the loop holds from its first step to its last: model, optimizer, gradients, order of examples, rows, state."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rebatch import batching, draws
from rebatch.batching import START, Place, batch_bounds, examples_seen, row_steps, total_steps
from rebatch.data.batches import BatchSource, planned
from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.nn import add_weight_noise, convert_ghost_batch_norm, draw_batch_norm_scale
from rebatch.nn.compiled import compiled
from rebatch.observation import Observation, Observer, numbered
from rebatch.optimizers import build_optimizer, set_lr
from rebatch.recipe import Recipe, Sgd
from rebatch.schedule import ROUNDING, lr_factor
from rebatch.training.averaging import WeightAverage
from rebatch.training.continuing import Beginning, carried_state
from rebatch.training.evaluation import evaluate
from rebatch.training.feedback import Drops
from rebatch.training.gradients import Cutting, StepGradient, SummedLoss
from rebatch.training.noise import StepNoise, chunks

Row = dict[str, float]
"""A row of a run: `step`, `epoch`, `examples` seen, `lr` of the last step, `train_loss` since the row before, what
observers wrote, at evenly spaced rows `validation_loss` and `validation_accuracy` (percent), and where examples are
sequences `tokens` seen. A run that diverged ends with a row that holds `diverged` = 1."""


@dataclass
class Run:
    """One training in progress; `first` is the step it goes on at, `total` the number of steps.

    `start` is the place that it was begun at: its own start, or where another run stood.
    """

    model: nn.Module
    data: Splits
    recipe: Recipe
    seed: int
    loss: SummedLoss
    execution: Execution
    cutting: Cutting
    observers: Sequence[Observer]
    start: Place = START
    first: int = 0

    def __post_init__(self) -> None:
        self.world = self.cutting.world
        self.total = total_steps(self.recipe, self.examples, self.start)
        self.optimizer = build_optimizer(self.recipe, self.model)
        self.gradient = self._gradient()
        self.drops = Drops(self.recipe.schedule, self.total, self.parameters)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.world.device)
        self.seen_at_row = 0
        self._torch_seed = int(draws.generator(self.seed, "torch").integers(2**62))
        self._order: tuple[int, Tensor] | None = None

    def begin(self, begun: Beginning) -> None:
        """Start all ranks alike, show the first weights to the observers, take up a saved state if there is one."""
        self.world.broadcast(self.model.buffers())  # DistributedDataParallel did so with the parameters
        self.average = WeightAverage(self.recipe.averaging, self.progress, self.model)
        for observer in self.observers:
            observer.start(self.model)
        if begun.state is not None:
            self._take_up(begun.state, begun)
        steps, cut = range(self.first, self.total), self.cutting.pieces
        upcoming = planned(self.recipe, self.examples, cut, seed=self.seed, steps=steps, begun_at=self.start)
        self.batches.expect(upcoming)

    @property
    def examples(self) -> int:
        """Size of the training set."""
        return len(self.data.train)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def bounds(self, step: int) -> tuple[int, int, int]:
        """Which examples step `step` sees: (epoch, start, stop), a slice of that epoch's order."""
        return batch_bounds(step, self.examples, self.recipe, self.start)

    def progress(self, step: int) -> float:
        """The part of the budget that lies before step `step`."""
        return batching.progress(step, self.examples, self.recipe, self.start)

    def row_steps(self, evaluations: int) -> tuple[list[int], list[int]]:
        """After how many steps there are rows, and which of them are evaluated (the second list)."""
        return row_steps(self.recipe, self.examples, evaluations, self.start)

    def prepare(self, step: int) -> float:
        """Make the optimizer ready for step `step` and give the learning rate that it has there."""
        epoch, start, _ = self.bounds(step)
        every = self.recipe.defects.reset_momentum_epochs
        if every is not None and start == 0 and epoch % every == 0:
            self.optimizer = build_optimizer(self.recipe, self.model)
        progress = self.progress(step)
        lr = self.recipe.optimizer.lr * lr_factor(self.recipe.schedule, progress, self.drops.before_step(step))
        set_lr(self.optimizer, lr)
        if isinstance(self.recipe.optimizer, Sgd) and progress + ROUNDING >= self.recipe.optimizer.weight_decay_until:
            for group in self.optimizer.param_groups:
                group["weight_decay"] = 0.0
        return lr

    def divisor(self, examples: int) -> int:
        """What the summed loss of a step of so many examples is divided by."""
        return examples if self.recipe.loss_reduction == "mean" else 1

    def show(self, step: int, examples: int, lr: float, loss: Tensor) -> None:
        """Let the observers see the step's gradient."""
        scale = examples / self.divisor(examples)
        seen = Observation(step, self.model, examples, lr, loss, self.optimizer, self.world, scale)
        for observer in self.observers:
            observer.step(seen)

    def clip(self, step: int) -> None:
        """Bound the gradient's norm, or give it that norm, where the recipe says so."""
        recipe = self.recipe
        if recipe.max_grad_norm is None or self._past_clipping(step):
            return
        if recipe.clip_mode == "clip":
            nn.utils.clip_grad_norm_(self.parameters, recipe.max_grad_norm)
            return
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        scale = recipe.max_grad_norm / (nn.utils.get_total_norm(gradients) + 1e-6)  # as clip_grad_norm_ guards
        torch._foreach_mul_(gradients, scale)

    def _past_clipping(self, step: int) -> bool:
        steps = self.recipe.clip_steps
        if steps is None:
            return False
        return self.progress(step) + ROUNDING >= batching.progress(steps, self.examples, self.recipe)

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
        seen = examples_seen(step, self.examples, self.recipe, self.start)
        train_loss = self.world.sum(self.loss_sum).item() / (seen - self.seen_at_row)
        self.loss_sum, self.seen_at_row = torch.zeros_like(self.loss_sum), seen
        row = {"step": step, "epoch": seen / self.examples, "examples": seen, "lr": lr, "train_loss": train_loss}
        if self.data.train.has_sequences:
            row["tokens"] = seen * self.data.train.targets[0].numel()
        found = numbered(observer.row(self.model) for observer in self.observers)
        row |= {name: float(value) for name, value in found.items()}
        if evaluated:
            row |= self._validation()
        self.drops.after_row(row)
        finite = torch.isfinite(torch.tensor([train_loss, row.get("validation_loss", 0.0)])).all()
        return row if finite else {**row, "diverged": 1}

    def finish(self) -> None:
        """Leave the model with the weights that the run ends with: their average, where the recipe keeps one."""
        self.average.keep()
        self.world.broadcast(self.model.buffers())

    def close(self) -> None:
        """Leave the model as a plain one; also where the caller stops early."""
        self.gradient.close()

    def _validation(self) -> Row:
        with self.average.in_place():
            # Plain batch norm that was allowed to see pieces has statistics of its own on each rank: rank 0's count.
            self.world.broadcast(self.model.buffers())
            result = evaluate(
                self.model,
                self.data.validation,
                self.data.normalize,
                views=self.data.views,
                loss=self.loss,
                execution=self.execution,
                world=self.world,
            )
        return {"validation_loss": result.loss, "validation_accuracy": result.accuracy}

    def state(self, step: int) -> Mapping[str, Any]:
        """What a checkpoint holds after `step` steps."""
        return {
            "step": step,
            "start": tuple(self.start),
            "seed": self.seed,
            "examples": self.examples,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "observers": [observer.state_dict() for observer in self.observers],
            "drops": self.drops.state_dict(),
            "average": self.average.state_dict(),
            "loss_sum": self.loss_sum,
            "seen_at_row": self.seen_at_row,
        }

    def _take_up(self, state: Mapping[str, Any], begun: Beginning) -> None:
        """A state of this run, or one of another run, carried over."""
        self.first = state["step"]
        _load(self.model, state["model"])
        if len(state["observers"]) != len(self.observers):
            counts = f"{len(state['observers'])}, got {len(self.observers)}"
            raise RequestError(f"observers must be those of the run that saved the state, {counts}; pass the same")
        for observer, saved in zip(self.observers, state["observers"], strict=True):
            observer.load_state_dict(saved)
        if begun.before is None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.drops.load_state_dict(state["drops"])
            self.average.load_state_dict(state.get("average", {}))
        else:
            self.optimizer.state.update(carried_state(begun, self.recipe, self.model, self.examples))
            self.average = WeightAverage(self.recipe.averaging, self.progress, self.model)
            self.average.carry(state.get("average", {}), begun.before.averaging, self.first)
        if self.world.rank == 0:  # what rank 0 had summed, perhaps alone
            self.loss_sum = state["loss_sum"].to(self.world.device)
        if "last_row" in state:  # as checkpoints had it when no run began at another's place
            self.seen_at_row = examples_seen(state["last_row"], self.examples, begun.before or self.recipe)
        else:
            self.seen_at_row = state["seen_at_row"]

    def _gradient(self) -> StepGradient:
        data = self.data
        self.batches = BatchSource(data.train, data.augmentations, data.normalize, seed=self.seed)
        network = _wrapped(self.model, self.execution, self.world)
        noise = StepNoise(
            self.recipe, seed=self.seed, examples=self.examples, classes=_classes(data), device=self.world.device
        )
        return StepGradient(
            network,
            self.model,
            self.loss,
            self.batches,
            self.cutting,
            self.execution,
            self.observers,
            noise,
            label_smoothing=self.recipe.label_smoothing,
            penalty=0.0 if self.recipe.gradient_penalty is None else self.recipe.gradient_penalty.strength,
        )


def place(model: nn.Module, recipe: Recipe, seed: int, execution: Execution, world: World) -> None:
    """Make `model` what recipe and machine ask for, in place: noise, ghosts, device, dtype, layout, training mode."""
    add_weight_noise(model, dropout=recipe.noise.dropout, dropconnect=recipe.noise.dropconnect)
    if recipe.defects.batch_norm_scale == "uniform":
        draw_batch_norm_scale(model, draws.generator(seed, "batch_norm_scale"))
    if recipe.ghost_batch_size is not None:
        convert_ghost_batch_norm(model, recipe.ghost_batch_size, running=recipe.ghost_running, chunks=chunks(recipe))
    model.to(world.device, torch.float64 if execution.precision == "float64" else None)
    if execution.memory_format == "channels_last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        what = " ".join(str(error).split())
        raise RequestError(f"the saved state is not one of this model: {what}; go on with the same model") from None


def _classes(data: Splits) -> int:
    """How many labels there are; 0 where targets are not labels."""
    targets = data.train.targets
    return 0 if targets.is_floating_point() else int(targets.max()) + 1


def _wrapped(model: nn.Module, execution: Execution, world: World) -> nn.Module:
    """The model as the loop calls it: compiled if asked, averaged over ranks if there are several."""
    if execution.compile:
        model = compiled(model, world.device)
    if world.size == 1:
        return model
    # Running statistics of ghosts are the same on every rank (gathered in ghost order): nothing to broadcast at a step.
    name = "forward_sync_buffers" if _RENAMED else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, **options)


# torch 2.13 renamed the option and warns of the old name.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
