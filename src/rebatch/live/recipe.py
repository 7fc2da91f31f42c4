"""A recipe read off a live torch optimizer and scheduler, and one applied to them."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import lr_scheduler as schedulers
from torch.optim.lr_scheduler import LRScheduler

from rebatch.batching import steps_per_epoch, total_steps
from rebatch.errors import RequestError
from rebatch.fields import require_choice
from rebatch.live.numbers import base_group, base_lr, read_numbers, scaled, write_numbers
from rebatch.live.schedules import schedule_of
from rebatch.optimizers import require_optimizer
from rebatch.recipe import Budget, Recipe, Steps, require_recipe
from rebatch.schedule import Constant, Schedule

Unit = Literal["step", "epoch"]


def recipe_of(
    optimizer: torch.optim.Optimizer,
    *,
    batch_size: int,
    budget: Budget,
    scheduler: LRScheduler | None = None,
    schedule: Schedule | None = None,
    lr: float | None = None,
    stepped: Unit = "step",
    examples: int | None = None,
    **fields: Any,
) -> Recipe:
    """The recipe by which `optimizer` and `scheduler` train, at any moment of a run.

    Reads `torch.optim`'s SGD, Adam without weight decay, AdamW, RMSprop and Adagrad, and schedulers that are a function
    of the step (`rebatch.live.schedules`). Of several parameter groups the base rate is that of the largest, the
    weight decay that of the largest that has any; `apply_recipe` keeps the others' ratios to them.

    Args:
        budget: how long the whole run lasts, not what is left of it.
        schedule: instead of a scheduler, what the rate does over the run.
        lr: the rate that was tuned, where a scheduler has moved it that writes no `initial_lr` down, such as
            `ReduceLROnPlateau`; otherwise it is read, and without a scheduler the present one is taken for it.
        stepped: whether `scheduler.step()` is called after every step or after every epoch.
        examples: size of the training set, to know the steps of a run whose budget is not in steps.
        fields: other fields of the recipe, such as `max_grad_norm`, which no optimizer knows.

    Raises:
        RequestError: what no recipe can hold, by name, with the way out.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(3, requires_grad=True)], lr=0.1, momentum=0.9)
    >>> recipe_of(optimizer, batch_size=128, budget=Steps(100)).optimizer
    Sgd(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.0, weight_decay_until=1.0, lr_in_buffer=False, \
norm_bias_lr_factor=1.0)
    """
    require_optimizer(optimizer)
    _require_known_schedule(optimizer, scheduler, schedule)
    require_choice("stepped", stepped, Unit)
    numbers = read_numbers(optimizer)
    recipe = Recipe(batch_size=batch_size, optimizer=numbers, budget=budget, schedule=schedule or Constant(), **fields)
    if lr is not None:
        recipe = recipe.with_lr(lr)
    if scheduler is None:
        return recipe
    per_epoch = 0 if examples is None else steps_per_epoch(examples, batch_size, recipe.last_batch)
    per_call = 1 if stepped == "step" else steps_per_epoch(_require(examples), batch_size, recipe.last_batch)
    return recipe.replace(schedule=schedule_of(scheduler, _total(recipe, examples), per_call, per_epoch))


@torch.no_grad()
def apply_recipe(recipe: Recipe, optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None = None) -> None:
    """Give a live optimizer the recipe's numbers, in place; every group keeps its ratio to the base numbers.

    A group without weight decay stays so. A `scheduler` goes on where it is, from the new base rate; its shape and its
    count of steps stay, so where a transfer changes the schedule or the number of steps build a new one,
    `build_scheduler(recipe, optimizer, examples=N, progress=P)`, at the progress P of the run. What is in no optimizer
    (batch size, clipping, ghosts) is the caller's. Applying the recipe that was just read changes nothing, bit for bit.

    Raises:
        RequestError: a recipe for another optimizer, weight decay where no group says which shall decay, or a scheduler
            that may keep rates of its own. Nothing has been changed then.
    """
    require_recipe(recipe)
    require_optimizer(optimizer)
    _require_same(optimizer, scheduler)
    _require_following(scheduler)
    old = base_lr(base_group(optimizer.param_groups))
    write_numbers(recipe.optimizer, optimizer)
    if scheduler is not None:
        _rescale(scheduler, old, recipe.optimizer.lr)


# All of these take their rates from `base_lrs`, or step by step from the one before, and `eta_min` or `min_lrs`.
_FOLLOWING = (
    schedulers.ChainedScheduler,
    schedulers.ConstantLR,
    schedulers.CosineAnnealingLR,
    schedulers.CosineAnnealingWarmRestarts,
    schedulers.ExponentialLR,
    schedulers.LambdaLR,
    schedulers.LinearLR,
    schedulers.MultiStepLR,
    schedulers.MultiplicativeLR,
    schedulers.PolynomialLR,
    schedulers.ReduceLROnPlateau,
    schedulers.SequentialLR,
    schedulers.StepLR,
)


def _require_following(scheduler: LRScheduler | None) -> None:
    if scheduler is None:
        return
    if not isinstance(scheduler, _FOLLOWING):
        raise RequestError(
            f"{type(scheduler).__name__} may keep rates of its own, which would come back; apply the recipe to the "
            "optimizer alone and build a new scheduler (build_scheduler)"
        )
    for part in getattr(scheduler, "_schedulers", ()):
        _require_following(part)


def _rescale(scheduler: LRScheduler, old: float, new: float) -> None:
    """The base rates and floors of a scheduler, and of those it is made of."""
    for part in getattr(scheduler, "_schedulers", ()):
        _rescale(part, old, new)
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [_scaled(rate, old, new) for rate in scheduler.base_lrs]
    if isinstance(scheduler, schedulers.CosineAnnealingLR | schedulers.CosineAnnealingWarmRestarts):
        scheduler.eta_min = _scaled(scheduler.eta_min, old, new)
    if isinstance(scheduler, schedulers.ReduceLROnPlateau):
        scheduler.min_lrs = [_scaled(rate, old, new) for rate in scheduler.min_lrs]
    if hasattr(scheduler, "_last_lr"):
        scheduler._last_lr = [_scaled(rate, old, new) for rate in scheduler._last_lr]


def _scaled(rate: float | Tensor, old: float, new: float) -> Any:
    found = scaled(float(rate), old, new)
    return torch.full_like(rate, found) if isinstance(rate, Tensor) else found


# What OneCycleLR and CyclicLR leave in the groups of an optimizer whose rate and momentum they move.
_CYCLED = ("max_lr", "max_momentum")


def _require_known_schedule(
    optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None, schedule: Schedule | None
) -> None:
    _require_same(optimizer, scheduler)
    if scheduler is not None and schedule is not None:
        raise RequestError("scheduler and schedule are both given; pass one of them")
    cycled = next((name for name in _CYCLED for group in optimizer.param_groups if name in group), None)
    if cycled is not None:
        raise RequestError(
            f"a group of the optimizer holds {cycled}: OneCycleLR or CyclicLR moves rate and momentum, and what was "
            "tuned cannot be read; read the optimizer before such a scheduler is made, or write the recipe by hand"
        )
    moved = [group for group in optimizer.param_groups if group.get("initial_lr", group["lr"]) != group["lr"]]
    if moved and scheduler is None and schedule is None:
        raise RequestError(
            f"a scheduler moved the learning rate from {float(moved[0]['initial_lr']):g} to {float(moved[0]['lr']):g}; "
            "pass it as scheduler=..., or what it does as schedule=..."
        )


def _require_same(optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None) -> None:
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise RequestError("the scheduler belongs to another optimizer; pass the optimizer that it moves")


def _total(recipe: Recipe, examples: int | None) -> int:
    return recipe.budget.steps if isinstance(recipe.budget, Steps) else total_steps(recipe, _require(examples))


def _require(examples: int | None) -> int:
    if examples is None:
        raise RequestError(
            "a scheduler counts steps: give examples=N, the size of the training set, or a budget in steps"
        )
    return examples
