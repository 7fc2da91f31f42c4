"""The critical batch size, measured and not inferred: branches of one run at several batch sizes, to one loss.

The noise scale is a proxy for it that holds where the loss is a quadratic of curvature like the identity (McCandlish et
al., 2018, section 2); Zhang et al. (2025, arXiv 2505.23971) found it unreliable. So both are told, apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from rebatch.critical_batch import CriticalBatchSize, fit_critical_batch_size
from rebatch.data.sets import Splits
from rebatch.errors import RequestError
from rebatch.noise_scale import NoiseScaleEstimate
from rebatch.recipe import Recipe
from rebatch.study.branch import Branch, Branches, branch_off

# What a command tries if nothing else is asked for, in units of the recipe's batch size.
KAPPAS = (0.25, 1.0, 4.0, 16.0)


@dataclass(frozen=True)
class MeasuredCriticalBatch:
    """Where the branches start and at which rate, the loss that they go to, and what came out.

    `reference_steps` is after how many steps branches at the recipe's own batch size and rate have it on average, and
    `own_steps` when each of them first reached it, which is sooner where the loss flattens or jumps. Other batch sizes
    are judged by when they first reach it, so it is `own_steps` that they compare with.

    `fit` is None where fewer than three branches, or a single batch size, reached the loss; `noise_scale` is that of
    the steps before, None (with the reason in `no_noise_scale`) for a model that has none. `again` are batch sizes that
    were looked at more closely, with more seeds; `fit` does not stand on them.
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
    again: tuple[Branch, ...] = ()

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
    **options: Any,
) -> MeasuredCriticalBatch:
    """Train `model` by `recipe` to a share `at` of its steps (none for 0), then branch at each of `batch_sizes`.

    All branches start from the same weights with an empty momentum buffer, at a constant rate, each batch size at its
    best rate on a grid of doublings. Trains `model` in place up to there. `options` are those of
    `rebatch.study.branch.branch_off`.

    Raises:
        RequestError: fewer than two batch sizes, a schedule that listens to the run, a share outside [0, 1), or a
            target that is no progress.
    """
    if len(set(batch_sizes)) < 2 or min(batch_sizes) < 1:
        raise RequestError(f"branches need at least 2 batch sizes of 1 or more, got {list(batch_sizes)}")
    return fit_branches(branch_off(model, data, recipe, at=at, seeds=seeds, **options), batch_sizes)


def fit_branches(branches: Branches, batch_sizes: Sequence[int]) -> MeasuredCriticalBatch:
    """The steps of each batch size at its best rate, and the law that they follow."""
    taken = tuple(branch for size in batch_sizes for branch in branches.best(size))
    start = branches.start
    return MeasuredCriticalBatch(
        step=start.step,
        lr=start.lr,
        loss=start.loss,
        target=branches.target,
        reference_steps=branches.length,
        own_steps=branches.own(),
        branches=taken,
        fit=_fit(taken),
        noise_scale=start.noise_scale,
        no_noise_scale=start.no_noise_scale,
    )


def _fit(branches: Sequence[Branch]) -> CriticalBatchSize | None:
    reached = [branch for branch in branches if math.isfinite(branch.steps)]
    if len(reached) < 3 or len({branch.batch_size for branch in reached}) < 2:
        return None
    return fit_critical_batch_size([each.batch_size for each in reached], [each.steps for each in reached])
