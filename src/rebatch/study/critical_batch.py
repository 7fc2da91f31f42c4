"""The critical batch size, measured and not inferred: branches of one run at several batch sizes, to one loss.

The noise scale is a proxy for it that holds where the loss is a quadratic of curvature like the identity (McCandlish et
al., 2018, section 2); Zhang et al. (2025, arXiv 2505.23971) found it unreliable. So both are told, apart.
"""

import copy
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from rebatch.batching import total_steps
from rebatch.critical_batch import CriticalBatchSize, climb, first_passage, fit_critical_batch_size
from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.measure.noise_scale import NoiseScale, NoiseScaleError
from rebatch.noise_scale import NoiseScaleEstimate
from rebatch.recipe import Recipe
from rebatch.study.branch import branch_recipe, refuse_feedback
from rebatch.training import Row, evaluate, train
from rebatch.training.run import place

# Each batch size tries rates on a grid of this ratio, from the square-root rule's on, until both neighbors of the best
# are slower: all batch sizes get the same tuning.
RATIO = 2.0
MOST_RATES = 9
# A doubled rate must be quicker by a tenth: close to the edge of stability a few seeds do not say how often it fails.
CAUTION = 1.1
# What a command tries if nothing else is asked for, in units of the recipe's batch size.
KAPPAS = (0.25, 1.0, 4.0, 16.0)
# The reference branch takes at least so many steps.
LEAST_STEPS = 50
# A branch is given up after so many times the reference's steps (at a larger batch) or examples (at a smaller one).
PATIENCE = 2.0


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
class MeasuredCriticalBatch:
    """Where the branches start and at which rate, the loss that they go to, and what came out.

    `reference_steps` is after how many steps branches at the recipe's own batch size and rate have it on average, and
    `own_steps` when each of them first reached it, which is sooner where the loss flattens or jumps. Other batch sizes
    are judged by when they first reach it, so it is `own_steps` that they compare with.

    `fit` is None where fewer than three branches, or a single batch size, reached the loss; `noise_scale` is that of
    the steps before, None (with the reason in `no_noise_scale`) for a model that has none.
    """

    step: int
    lr: float
    loss: float
    target: float
    reference_steps: int
    own_steps: tuple[float, ...]
    branches: tuple[Branch, ...]
    fit: CriticalBatchSize | None
    noise_scale: NoiseScaleEstimate | None
    no_noise_scale: str = ""

    @property
    def noise_scale_in_words(self) -> str:
        """What it is, or why there is none."""
        return str(self.noise_scale or f"not measured: {self.no_noise_scale or 'too few steps'}")


def measure_critical_batch_size(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    *,
    at: float,
    batch_sizes: Sequence[int],
    seeds: int = 3,
    branch_steps: int | None = None,
    seed: int = 0,
    execution: Execution | None = None,
    micro_batch_size: int | None = None,
    fresh: Callable[[int], nn.Module] | None = None,
) -> MeasuredCriticalBatch:
    """Train `model` by `recipe` to a share `at` of its steps (none for 0), then branch at each of `batch_sizes`.

    All branches start from the same weights with an empty momentum buffer, at a constant rate, each batch size at its
    best rate on a grid of doublings. The loss to reach is the mean validation loss of branches at the recipe's own
    batch size and rate after `branch_steps` steps (by default a tenth of the run). Trains `model` in place up to there.

    Args:
        fresh: a new model for each seed, for branches from fresh weights (`at` = 0): a rate that suits one draw of them
            may be too high for another. Left out, all start from `model`.

    Raises:
        RequestError: a schedule that listens to the run, a share outside [0, 1), or a target that is no progress.
    """
    _refuse(recipe, at, batch_sizes)
    execution = execution or Execution()
    total = total_steps(recipe, len(data.train))
    length = branch_steps or max(LEAST_STEPS, total // 10)
    start = _start(model, data, recipe, round(at * total), length, seed, execution, micro_batch_size)
    loss = start.loss
    starts = [model if fresh is None or start.step else fresh(seed + each + 1) for each in range(seeds)]
    runs = _Branches(starts, data, recipe.with_lr(start.lr), loss, length, seed, execution, micro_batch_size)
    target = runs.reference()
    if not target < loss:
        raise RequestError(
            f"after {length} more steps at a constant rate the validation loss is {target:.4g}, not below the "
            f"{loss:.4g} before them, so there is no loss to reach; branch earlier (--at), or for "
            "longer (--branch-steps)"
        )
    branches = tuple(branch for size in batch_sizes for branch in runs.best(size, target))
    return MeasuredCriticalBatch(
        step=start.step,
        lr=start.lr,
        loss=loss,
        target=target,
        reference_steps=length,
        own_steps=runs.own(target),
        branches=branches,
        fit=_fit(branches),
        noise_scale=start.noise_scale,
        no_noise_scale=start.no_noise_scale,
    )


@dataclass(frozen=True)
class _Start:
    """Where branches start."""

    step: int
    lr: float
    loss: float
    noise_scale: NoiseScaleEstimate | None
    no_noise_scale: str


def _start(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    step: int,
    window: int,
    seed: int,
    execution: Execution,
    micro_batch_size: int | None,
) -> _Start:
    """Train up to `step`, with the noise scale of the last `window` steps; a fresh model has the recipe's own rate."""
    if step == 0:
        place(model, recipe, seed, execution, World())
        loss = validation_loss(model, data, execution)
        return _Start(0, recipe.optimizer.lr, loss, None, "the model is fresh")
    noise, reason = NoiseScale(window=window, split_every=1), ""
    options = {"seed": seed, "execution": execution, "micro_batch_size": micro_batch_size}
    try:
        row = _train_to(step, model, data, recipe, observers=[noise], **options)
    except NoiseScaleError as error:
        # The model is as it was: the observer refuses at the first step, before the weights move.
        reason = str(error)
        row = _train_to(step, model, data, recipe, **options)
    found = None if reason else noise.estimate()
    return _Start(int(row["step"]), row["lr"], row["validation_loss"], found, reason)


def _train_to(step: int, model: nn.Module, data: Splits, recipe: Recipe, **options: Any) -> Row:
    """The last row of the run before the first evaluation at or after `step`."""
    for row in train(model, data, recipe, evaluations=100, **options):
        if row["step"] >= step and "validation_loss" in row:
            return row
    raise AssertionError("the last row is evaluated")


@dataclass(frozen=True)
class _Branches:
    """What all branches have in common, and the model of each seed; `recipe` has the rate of the moment."""

    models: Sequence[nn.Module]
    data: Splits
    recipe: Recipe
    loss: float
    length: int
    seed: int
    execution: Execution
    micro_batch_size: int | None
    known: dict[tuple[int, float, int], float] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.models)

    def reference(self) -> float:
        """Mean validation loss at the end of branches with the recipe's own batch and rate; nan if one diverges."""
        courses = [dict(self._losses(self.recipe, self.length, seed)) for seed in range(self.seeds)]
        return statistics.fmean(losses.get(self.length, math.nan) for losses in courses)

    def own(self, target: float) -> tuple[float, ...]:
        """When the recipe's own batch size and rate first reach the target, for each seed."""
        return tuple(self._steps_to(self.recipe, 1.0, target, seed) for seed in range(self.seeds))

    def best(self, size: int, target: float) -> list[Branch]:
        """All seeds of the rate that reaches the target in the fewest steps, on average, for its height (`CAUTION`).

        A seed that does not reach it counts with twice the steps after which it was given up.
        """
        kappa = size / self.recipe.batch_size
        center = self.recipe.optimizer.lr * math.sqrt(kappa)
        tried: dict[int, list[Branch]] = {}

        def cost(place: int) -> float:
            recipe = self.recipe.replace(batch_size=size).with_lr(center * RATIO**place)
            taken = [self._steps_to(recipe, kappa, target, seed) for seed in range(self.seeds)]
            tried[place] = [Branch(size, recipe.optimizer.lr, seed, steps) for seed, steps in enumerate(taken)]
            mean = statistics.fmean(min(branch.steps, 2.0 * self._most(kappa)) for branch in tried[place])
            return mean * CAUTION**place

        return tried[climb(cost, most=MOST_RATES)]

    def _steps_to(self, recipe: Recipe, kappa: float, target: float, seed: int) -> float:
        """When the validation loss first reaches `target`; inf where the patience ends first.

        The recipe's own rate is asked for twice: as itself, and as the first that its batch size tries.
        """
        asked = recipe.batch_size, recipe.optimizer.lr, seed
        if asked not in self.known:
            looks = self._losses(recipe, self._most(kappa), seed)
            self.known[asked] = first_passage(looks, target, start=self.loss)
        return self.known[asked]

    def _most(self, kappa: float) -> int:
        return math.ceil(PATIENCE * self.length * max(1.0, 1.0 / kappa))

    def _losses(self, recipe: Recipe, steps: int, seed: int) -> Iterator[tuple[int, float]]:
        """(Steps, validation loss), four looks an octave: a large batch may be there after a few steps.

        Ends early where the run diverges.
        """
        copied, execution = copy.deepcopy(self.models[seed]), self.execution
        # The run itself had another order of the examples.
        options = {"seed": self.seed + seed + 1, "execution": execution, "micro_batch_size": self.micro_batch_size}
        for row in train(copied, self.data, branch_recipe(recipe, steps), evaluations=1, **options):  # type: ignore[arg-type]
            if "diverged" in row:
                return
            yield int(row["step"]), validation_loss(copied, self.data, execution)


def validation_loss(model: nn.Module, data: Splits, execution: Execution) -> float:
    """Mean over the validation split."""
    return evaluate(model, data.validation, data.normalize, views=data.views, execution=execution).loss


def _fit(branches: Sequence[Branch]) -> CriticalBatchSize | None:
    reached = [branch for branch in branches if math.isfinite(branch.steps)]
    if len(reached) < 3 or len({branch.batch_size for branch in reached}) < 2:
        return None
    return fit_critical_batch_size([each.batch_size for each in reached], [each.steps for each in reached])


def _refuse(recipe: Recipe, at: float, batch_sizes: Sequence[int]) -> None:
    refuse_feedback(recipe.schedule, "branches")
    if not 0.0 <= at < 1.0:
        raise RequestError(f"the share of the run at which it branches must lie in [0, 1), got {at}")
    if len(set(batch_sizes)) < 2 or min(batch_sizes) < 1:
        raise RequestError(f"branches need at least 2 batch sizes of 1 or more, got {list(batch_sizes)}")
