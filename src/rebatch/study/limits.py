"""What keeps the learning rate from being larger: curvature, or forgetting?

Page (2018): at a small batch the best rate lies far below the one at which training breaks, because at a higher rate
each step erases more of what the steps before it taught, while at a large batch it comes close to the breaking rate,
which the curvature of the loss sets. This measures both on any task, model and recipe: the breaking rate, by Lanczos
and by short branches at doubled rates, and how soon a batch that was trained on is known no better than one that never
was.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rebatch.batching import measured_steps, steps_per_epoch, total_steps
from rebatch.data.batches import BatchSource, past_batches, prepare
from rebatch.data.sets import Splits
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.interval import Interval
from rebatch.measure.curvature import TopEigenvalue, top_eigenvalue
from rebatch.measure.forgetting import LEAST_BATCHES, Decay, Forgetting, fit_decay
from rebatch.observation import trainable
from rebatch.recipe import Optimizer, Recipe, Sgd
from rebatch.schedule import lr_factor
from rebatch.stability import Limit, edge, limited_by, stable_lr_of, unstable
from rebatch.study.branch import branch_recipe, refuse_feedback, refuse_growth
from rebatch.training import cross_entropy, train

# Branches try these multiples of the rate, each for so many steps.
FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
BRANCH_STEPS = 100
# The run is looked at in so many places: the high rate ends at one of them.
ROWS = 20
CURVATURE_EXAMPLES = 512


@dataclass(frozen=True)
class Limits:
    """Where a recipe stands at the end of its high learning rate.

    Attributes:
        step: finished steps when it was measured; the high rate ends there.
        lr: the learning rate of that step, on the mean loss, as all rates here.
        curvature: the top eigenvalue of the loss on one batch of training examples, batch norm as in training.
        stable_lr: the rate above which a quadratic of that curvature diverges, the optimizer's momentum counted; nan
            for an optimizer other than SGD, and where the top eigenvalue did not converge.
        breaks: the rate at which short branches break, between the two neighbouring multiples that were tried.
        decay: how the loss of a batch rises with its age, within an epoch.
        unseen_loss: the loss of augmented examples that were never trained on.
        forgotten: epochs until nine tenths of the way to that loss are covered; inf if not within reach.
    """

    step: int
    lr: float
    batch_size: int
    curvature: TopEigenvalue
    stable_lr: float
    breaks: Interval
    decay: Decay
    unseen_loss: float
    forgotten: float

    @property
    def room(self) -> float:
        """By how much the rate may grow before training breaks, as the branches say."""
        return self.breaks.low / self.lr

    @property
    def verdict(self) -> Limit:
        """Which of the two limits the rate here."""
        return limited_by(self.room, self.forgotten)


def measure_limits(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    *,
    seed: int,
    execution: Execution | None = None,
    factors: Sequence[float] = FACTORS,
    branch_steps: int = BRANCH_STEPS,
) -> Limits:
    """Train `model` by `recipe` until its high learning rate ends, then measure what limits that rate.

    Trains in place. Branches start from the weights of that moment with an empty momentum buffer, at a constant rate,
    without clipping. A branch is broken whose loss at the end is above that of a guess.

    Raises:
        RequestError: the schedule listens to the run, or an epoch has too few steps to see forgetting within it.
    """
    execution = execution or Execution()
    step = high_rate_ends(recipe, len(data.train))
    forgetting = Forgetting(len(data.train), epochs=1.0)
    for row in train(model, data, recipe, seed=seed, execution=execution, observers=[forgetting], evaluations=ROWS):
        lr = row["lr"]
        if row["step"] >= step:
            break
    decay, unseen = recent_decay(forgetting, model, data, recipe, seed=seed)
    curvature = curvature_in_training(model, data)
    optimizer = recipe.optimizer
    mean_form = recipe.batch_size if recipe.loss_reduction == "sum" else 1
    breaks = _breaking_rate(model, data, recipe.with_lr(lr), seed, execution, factors, branch_steps)
    return Limits(
        step=step,
        lr=lr * mean_form,
        batch_size=recipe.batch_size,
        curvature=curvature,
        stable_lr=_stable_lr(optimizer, curvature),
        breaks=Interval(*(mean_form * rate for rate in (breaks.estimate, breaks.low, breaks.high))),
        decay=decay,
        unseen_loss=unseen,
        forgotten=decay.age_at(unseen),
    )


def high_rate_ends(recipe: Recipe, examples: int) -> int:
    """The last of the run's evenly spaced rows at which the learning rate is at least half of its highest.

    Raises:
        RequestError: the schedule listens to the run, or an epoch has too few steps to see forgetting within it.
    """
    refuse_feedback(recipe.schedule, "limits")
    refuse_growth(recipe, "a limit")
    per_epoch = steps_per_epoch(examples, recipe.batch_size, recipe.last_batch)
    if per_epoch < LEAST_BATCHES:
        raise RequestError(
            f"an epoch must have at least {LEAST_BATCHES} steps to see forgetting within it, got {per_epoch} of "
            f"batch_size {recipe.batch_size}; use a batch size of at most {examples // LEAST_BATCHES}"
        )
    total = total_steps(recipe, examples)
    rates = {step: lr_factor(recipe.schedule, (step - 1) / total) for step in measured_steps(total, ROWS)[1]}
    return max(step for step, rate in rates.items() if rate >= max(rates.values()) / 2.0)


def recent_decay(
    forgetting: Forgetting, model: nn.Module, data: Splits, recipe: Recipe, *, seed: int
) -> tuple[Decay, float]:
    """How the loss of the batches that `forgetting` has seen rises with their age, and the loss of unseen examples.

    The decay of a model whose losses are not finite is nan.
    """
    replay = forgetting.replay(model, past_batches(data, recipe, seed=seed))
    finite = np.isfinite(replay.losses).all()
    decay = (
        fit_decay(replay.ages, replay.losses)
        if finite
        else Decay(math.nan, math.nan, Interval(math.nan, 0.0, math.inf))
    )
    return decay, unseen_loss(model, data, seed=seed)


def unseen_loss(model: nn.Module, data: Splits, *, seed: int, batch_size: int | None = None) -> float:
    """Mean loss of the validation examples, augmented as training examples are: what was never learned, so shown.

    The test set as it is would be too easy beside batches that were cropped and flipped. With a `batch_size` they come
    in whole batches of that size, and batch norm normalizes each by its own statistics, as in training.
    """
    count, size = len(data.validation), min(batch_size or 1000, len(data.validation))
    count -= 0 if batch_size is None else count % size
    source = BatchSource(data.validation, data.augmentations, data.normalize, seed=seed)
    probe, total = copy.deepcopy(model).train(batch_size is not None), 0.0
    with torch.no_grad():
        for part in torch.split(torch.arange(count), size):
            inputs, targets = source.batch(0, part)
            total += cross_entropy(probe(inputs), targets).item()
    return total / count


def curvature_in_training(model: nn.Module, data: Splits) -> TopEigenvalue:
    """Of the mean loss on the first training examples, in training mode: batch norm couples them, as in a step."""
    inputs, targets = prepare(data.train, slice(0, min(CURVATURE_EXAMPLES, len(data.train))), data.normalize)
    probe = copy.deepcopy(model).train()
    return top_eigenvalue(
        lambda: F.cross_entropy(probe(inputs), targets),
        trainable(probe),
        tolerance=1e-2,
    )


def _stable_lr(optimizer: Optimizer, curvature: TopEigenvalue) -> float:
    if isinstance(optimizer, Sgd) and curvature.converged:
        return stable_lr_of(optimizer, curvature.value)
    return math.nan


def _breaking_rate(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    seed: int,
    execution: Execution,
    factors: Sequence[float],
    steps: int,
) -> Interval:
    """The learning rate at which branches from the model's weights break; none is run above the first broken one."""
    branch = branch_recipe(recipe, steps).replace(max_grad_norm=None)
    losses: list[float] = []
    chance = math.log(int(data.train.targets.max()) + 1)
    rates = [factor * recipe.optimizer.lr for factor in factors]
    for rate in rates:
        losses.append(_last_loss(copy.deepcopy(model), data, branch.with_lr(rate), seed, execution))
        if unstable(losses, chance)[-1]:
            break
    return edge(rates[: len(losses)], unstable(losses, chance))


def _last_loss(model: nn.Module, data: Splits, recipe: Recipe, seed: int, execution: Execution) -> float:
    """Mean training loss since the last row but one of a run (a tenth of its steps); nan if it diverged."""
    last = math.nan
    for row in train(model, data, recipe, seed=seed, execution=execution, evaluations=1):
        last = math.nan if "diverged" in row else row["train_loss"]
    return last
