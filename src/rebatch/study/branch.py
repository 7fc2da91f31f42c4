"""Branches of a run: from the same weights, other batch sizes at other rates, until they have the same loss."""

import copy
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from torch import nn

from rebatch.batching import total_steps
from rebatch.critical_batch import climb, first_passage
from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.measure.noise_scale import NoiseScale, NoiseScaleError
from rebatch.noise_scale import NoiseScaleEstimate
from rebatch.recipe import Recipe, Steps
from rebatch.schedule import Constant, Feedback, Schedule
from rebatch.training import Row, evaluate, train
from rebatch.training.run import place

# Each batch size tries rates on a grid of this ratio, from the square-root rule's on, until both neighbors of the best
# are slower: all batch sizes get the same tuning.
RATIO = 2.0
MOST_RATES = 9
# A doubled rate must be quicker by a tenth: close to the edge of stability a few seeds do not say how often it fails.
CAUTION = 1.1
# The reference branch takes at least so many steps.
LEAST_STEPS = 50
# A branch is given up after so many times the reference's steps (at a larger batch) or examples (at a smaller one).
PATIENCE = 2.0


def branch_recipe(recipe: Recipe, steps: int) -> Recipe:
    """At a constant rate, and without what a recipe does to a fresh model, at the start of an epoch, or at the end."""
    defects = msgspec.structs.replace(recipe.defects, batch_norm_scale="ones", reset_momentum_epochs=None)
    flat = recipe.replace(schedule=Constant(), defects=defects, averaging=None, batch_schedule=())
    return flat.replace(budget=Steps(steps))


def refuse_feedback(schedule: Schedule, what: str) -> None:
    """Where a run stands must follow from its progress alone, so that its rate there is known."""
    if isinstance(schedule, Feedback):
        kind = schedule.__struct_config__.tag
        raise RequestError(f"{what} need a schedule that is a function of progress, got {kind!r}; use another")


def refuse_growth(recipe: Recipe, what: str) -> None:
    """Of a batch that changes in size along the run there is not one that others can be compared with."""
    if recipe.batch_schedule:
        raise RequestError(f"{what} is about one batch size, and batch_schedule has several; leave it out")


def validation_loss(model: nn.Module, data: Splits, execution: Execution) -> float:
    """Mean over the validation split."""
    return evaluate(model, data.validation, data.normalize, views=data.views, execution=execution).loss


def loss_course(
    model: nn.Module, data: Splits, recipe: Recipe, *, execution: Execution, **options: Any
) -> Iterator[tuple[int, float]]:
    """(Steps, validation loss) while `model` trains: four looks an octave, since a large batch may be there soon.

    Ends early where the run diverges. `options` are those of `rebatch.train`.
    """
    for row in train(model, data, recipe, execution=execution, evaluations=1, **options):
        if "diverged" in row:
            return
        yield int(row["step"]), validation_loss(model, data, execution)


@dataclass(frozen=True)
class Branch:
    """One batch size at its best rate with one seed; `steps` is inf where the loss was not reached."""

    batch_size: int
    lr: float
    seed: int
    steps: float

    @property
    def examples(self) -> float:
        """Until the loss was reached."""
        return self.batch_size * self.steps


@dataclass(frozen=True)
class Start:
    """Where branches start: after how many steps, at which rate, and what was seen on the way there."""

    step: int
    lr: float
    loss: float
    noise_scale: NoiseScaleEstimate | None
    no_noise_scale: str


@dataclass(frozen=True)
class Branches:
    """What all branches have in common; `recipe` has the rate of the moment, `model` makes each seed's.

    The loss to reach, `target`, is the mean validation loss of `seeds` branches at the recipe's own batch size and
    rate after `length` steps.
    """

    start: Start
    model: Callable[[int], nn.Module]
    data: Splits
    recipe: Recipe
    length: int
    seeds: int
    seed: int
    execution: Execution
    micro_batch_size: int | None
    target: float = math.nan
    known: dict[tuple[int, float, int], float] = field(default_factory=dict)

    def reference(self) -> float:
        """Mean validation loss at the end of branches with the recipe's own batch and rate; nan if one diverges."""
        courses = [dict(self._losses(self.recipe, self.length, seed)) for seed in range(self.seeds)]
        return statistics.fmean(losses.get(self.length, math.nan) for losses in courses)

    def own(self) -> tuple[float, ...]:
        """When the recipe's own batch size and rate first reach the target, for each seed."""
        return tuple(self._steps_to(self.recipe, seed) for seed in range(self.seeds))

    def best(self, size: int, *, lr: float | None = None, seeds: int | None = None) -> list[Branch]:
        """All seeds of the rate that reaches the target in the fewest steps, on average, for its height (`CAUTION`).

        A seed that does not reach it counts with twice the steps after which it was given up. Rates are tried from
        `lr` on, by default that of the square-root rule.
        """
        count = self.seeds if seeds is None else seeds
        first = self.recipe.optimizer.lr * math.sqrt(self._kappa(size)) if lr is None else lr
        tried: dict[int, list[Branch]] = {}

        def cost(place: int) -> float:
            recipe = self.recipe.replace(batch_size=size).with_lr(first * RATIO**place)
            taken = [self._steps_to(recipe, seed) for seed in range(count)]
            tried[place] = [Branch(size, recipe.optimizer.lr, seed, steps) for seed, steps in enumerate(taken)]
            return statistics.fmean(self.counted(branch) for branch in tried[place]) * CAUTION**place

        return tried[climb(cost, most=MOST_RATES)]

    def counted(self, branch: Branch) -> float:
        """Its steps, twice its patience where it did not reach the target."""
        return min(branch.steps, 2.0 * self._most(branch.batch_size))

    def _steps_to(self, recipe: Recipe, seed: int) -> float:
        """When the validation loss first reaches the target; inf where the patience ends first.

        A rate may be asked for again: the recipe's own, as itself and as the first that its batch size tries.
        """
        asked = recipe.batch_size, recipe.optimizer.lr, seed
        if asked not in self.known:
            looks = self._losses(recipe, self._most(recipe.batch_size), seed)
            self.known[asked] = first_passage(looks, self.target, start=self.start.loss)
        return self.known[asked]

    def _most(self, batch_size: int) -> int:
        return math.ceil(PATIENCE * self.length * max(1.0, 1.0 / self._kappa(batch_size)))

    def _kappa(self, batch_size: int) -> float:
        return batch_size / self.recipe.batch_size

    def _losses(self, recipe: Recipe, steps: int, seed: int) -> Iterator[tuple[int, float]]:
        """Of a copy of the seed's model."""
        return loss_course(
            copy.deepcopy(self.model(seed)),
            self.data,
            branch_recipe(recipe, steps),
            execution=self.execution,
            micro_batch_size=self.micro_batch_size,
            seed=self.seed + seed + 1,  # the run itself had another order of the examples
        )


def branch_off(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    *,
    at: float,
    seeds: int,
    branch_steps: int | None = None,
    seed: int = 0,
    execution: Execution | None = None,
    micro_batch_size: int | None = None,
    fresh: Callable[[int], nn.Module] | None = None,
) -> Branches:
    """Train `model` by `recipe` to a share `at` of its steps (none for 0) and find the loss that branches go to.

    All start from the same weights with an empty momentum buffer, at a constant rate. The reference branches take
    `branch_steps` steps, by default a tenth of the run. Trains `model` in place.

    Args:
        fresh: a new model for each seed, for branches from fresh weights (`at` = 0): a rate that suits one draw of them
            may be too high for another. Left out, all start from `model`.

    Raises:
        RequestError: a schedule that listens to the run, a share outside [0, 1), or a target that is no progress.
    """
    refuse_feedback(recipe.schedule, "branches")
    refuse_growth(recipe, "a critical batch size")
    if not 0.0 <= at < 1.0:
        raise RequestError(f"the share of the run at which it branches must lie in [0, 1), got {at}")
    execution = execution or Execution()
    total = total_steps(recipe, len(data.train))
    length = branch_steps or max(LEAST_STEPS, total // 10)
    start = _start(model, data, recipe, round(at * total), length, seed, execution, micro_batch_size)
    made: dict[int, nn.Module] = {}

    def model_of(each: int) -> nn.Module:
        if fresh is None or start.step:
            return model
        if each not in made:
            made[each] = fresh(seed + each + 1)
        return made[each]

    flat = recipe.with_lr(start.lr)
    branches = Branches(start, model_of, data, flat, length, seeds, seed, execution, micro_batch_size)
    target = branches.reference()
    if not target < start.loss:
        raise RequestError(
            f"after {length} more steps at a constant rate the validation loss is {target:.4g}, not below the "
            f"{start.loss:.4g} before them, so there is no loss to reach; branch earlier (--at), or for "
            "longer (--branch-steps)"
        )
    return Branches(start, model_of, data, flat, length, seeds, seed, execution, micro_batch_size, target)


def _start(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    step: int,
    window: int,
    seed: int,
    execution: Execution,
    micro_batch_size: int | None,
) -> Start:
    """Train up to `step`, with the noise scale of the last `window` steps; a fresh model has the recipe's own rate."""
    if step == 0:
        place(model, recipe, seed, execution, World())
        loss = validation_loss(model, data, execution)
        return Start(0, recipe.optimizer.lr, loss, None, "the model is fresh")
    noise, reason = NoiseScale(window=window, split_every=1), ""
    options = {"seed": seed, "execution": execution, "micro_batch_size": micro_batch_size}
    try:
        row = _train_to(step, model, data, recipe, observers=[noise], **options)
    except NoiseScaleError as error:
        # The model is as it was: the observer refuses at the first step, before the weights move.
        reason = str(error)
        row = _train_to(step, model, data, recipe, **options)
    found = None if reason else noise.estimate()
    return Start(int(row["step"]), row["lr"], row["validation_loss"], found, reason)


def _train_to(step: int, model: nn.Module, data: Splits, recipe: Recipe, **options: Any) -> Row:
    """The last row of the run before the first evaluation at or after `step`."""
    for row in train(model, data, recipe, evaluations=100, **options):
        if row["step"] >= step and "validation_loss" in row:
            return row
    raise AssertionError("the last row is evaluated")
