"""Runs that are not a training: what each kind of probe does, from its spec to rows and numbers."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebatch import draws
from rebatch.data.batches import prepare
from rebatch.data.sets import Splits
from rebatch.execution import Execution
from rebatch.measure.epoch_correlation import batch_correlation, cross_covariance_trace, sample_epochs
from rebatch.measure.increments import Setting, covariance_trace, sample_moments
from rebatch.measure.landscape import fit_alpha, landscape, spread, taylor_line, taylor_ratio
from rebatch.measure.random_walk import exponent, flat_potential, fractional_potential, mean_square_distance
from rebatch.nn import convert_ghost_batch_norm
from rebatch.recipe import Steps
from rebatch.study.bagging_probing import bagging
from rebatch.study.equilibrium_probing import relative_steps, rescaled
from rebatch.study.frozen import along, gradient_of
from rebatch.study.hardware_probing import cuts, kept_images, step_times
from rebatch.study.mini_batch_probing import escape, gradient_errors, quadratic_steps
from rebatch.study.page_probing import partial_tail, parting, summed_steps
from rebatch.study.plan import RunSpec
from rebatch.study.probes import (
    Bagging,
    Cuts,
    EpochCorrelation,
    Escape,
    GradientErrors,
    Increments,
    KeptImages,
    Landscape,
    PartialTail,
    Parting,
    QuadraticSteps,
    RandomWalk,
    RelativeStep,
    Rescaled,
    StepTime,
    StepTimes,
    SummedSteps,
    Throughput,
    ToTarget,
)
from rebatch.study.splits import splits_of
from rebatch.study.throughput import throughput
from rebatch.study.to_target import to_target
from rebatch.tasks.task import Task
from rebatch.training import train

Measured = tuple[list[dict[str, float]], dict[str, float]]
"""Rows, each with a `step`, and named numbers."""


def probe(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """What the probe of `spec` finds; torch's global generator, which dropout draws from, is left as it was."""
    assert spec.probe is not None
    with torch.random.fork_rng():
        torch.manual_seed(int(draws.generator(spec.seed, "probe").integers(2**62)))
        return _PROBES[type(spec.probe)](spec, task, data_dir)


def _random_walk(spec: RunSpec, _: Task, __: Path | None) -> Measured:
    walk = spec.probe
    assert isinstance(walk, RandomWalk)
    rng = draws.generator(spec.seed, "random_walk")
    low, high = walk.log_times
    if walk.alpha is None:
        potential, log_times = flat_potential(walk.sites, walk.walkers), np.linspace(low, high, walk.points)
        scale = np.exp(log_times)
    else:
        potential = fractional_potential(walk.alpha, walk.sites, walk.walkers, rng, scale=walk.scale)
        scale = log_times = np.geomspace(low, high, walk.points)
    squares = mean_square_distance(potential, np.exp(log_times))
    if walk.alpha is None:  # all walkers have the same potential: no spread between them
        slope = float(np.polyfit(np.log(scale), 0.5 * np.log(squares.mean(0)), 1)[0])
    else:
        slope = exponent(scale, squares).estimate
    distances = np.sqrt(squares.mean(0))
    rows = [
        {"step": math.exp(log_time), "log_time": float(log_time), "distance": float(distance)}
        for log_time, distance in zip(log_times, distances, strict=True)
    ]
    return rows, {"exponent": slope}


def _landscape(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    wanted = spec.probe
    assert isinstance(wanted, Landscape)
    data = splits_of(spec, task, data_dir)
    model = task.model(spec.seed, data)
    generator = torch.Generator().manual_seed(int(draws.generator(spec.seed, "landscape").integers(2**62)))
    if wanted.glorot:
        _glorot(model, generator)
    inputs, targets = prepare(data.train, slice(0, min(wanted.examples, len(data.train))), data.normalize)
    loss = _batch_loss(model.train(), inputs, targets, wanted.batch_size, generator)
    smooth = _batch_loss(model, inputs, targets, None, generator)
    rows: list[dict[str, float]] = []
    metrics: dict[str, float] = {}
    for low, high in wanted.ranges:
        found = landscape(
            model,
            loss,
            draws=wanted.draws,
            low=low,
            high=high,
            generator=generator,
            noisy=wanted.batch_size is not None,
            smooth=smooth,
        )
        bins = spread(found.distances, found.differences, np.linspace(low, high, _bins(wanted.draws) + 1))
        taylor = taylor_line(found.distances, found.gradient_norm, found.dimensions)
        ratio = taylor_ratio(found.differences, taylor)
        label = f"{low:g}-{high:g}"
        metrics |= {
            f"alpha:{label}": fit_alpha(bins).estimate,
            f"taylor_ratio:{label}": ratio.estimate if ratio else math.nan,
            f"slope:{label}": float(bins.distances @ bins.rms / (bins.distances @ bins.distances)),
            f"noise:{label}": found.noise,
            "gradient_norm": found.gradient_norm,
            "dimensions": found.dimensions,
        }
        line = taylor_line(bins.distances, found.gradient_norm, found.dimensions)
        rows += [
            {"step": float(z), "rms": float(rms), "standard_error": float(error), "taylor": float(straight)}
            for z, rms, error, straight in zip(bins.distances, bins.rms, bins.standard_errors, line, strict=True)
        ]
    return rows, metrics


def _bins(draws: int) -> int:
    """Ten bins of distances, fewer where one of them might stay empty."""
    return max(2, min(10, draws // 20))


def _increments(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    wanted, recipe = spec.probe, spec.recipe
    assert isinstance(wanted, Increments)
    metrics: dict[str, float] = {}
    setting = Setting(recipe.batch_size, recipe.optimizer.lr, recipe.noise.multiplicative)
    data = splits_of(spec, task, data_dir)
    for after, model in _along_the_reference_run(spec, task, data, wanted.after):
        if recipe.ghost_batch_size is not None:
            convert_ghost_batch_norm(model, recipe.ghost_batch_size)
        gradient = gradient_of(model.train(), data)
        rng = draws.generator(spec.seed, "increments", round(1000 * after))
        found = sample_moments(gradient, len(data.train), setting, draws=wanted.draws, rng=rng)
        metrics |= {f"trace@{after:g}": found.trace, f"mean_square@{after:g}": found.mean_square}
    return [], metrics


def _epoch_correlation(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    wanted, size = spec.probe, spec.recipe.batch_size
    assert isinstance(wanted, EpochCorrelation)
    data = splits_of(spec, task, data_dir)
    ((_, model),) = _along_the_reference_run(spec, task, data, [wanted.after])
    # In evaluation mode batch norm does not couple the examples, which the closed form needs.
    gradient, examples = gradient_of(model.eval(), data), len(data.train)
    rng = draws.generator(spec.seed, "epoch_correlation")
    batches = max(2, min(examples // size, 8))
    found = sample_epochs(
        gradient, examples, size, batches=batches, epochs=wanted.epochs, rng=rng, replacement=wanted.replacement
    )
    own = covariance_trace(found[:, 0]).estimate
    cross = cross_covariance_trace(found)
    expected = 0.0 if wanted.replacement else batch_correlation(size, examples)
    return [], {"correlation": cross.estimate / own, "expected_correlation": expected, "own_trace": own}


def _step_time(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    wanted = spec.probe
    assert isinstance(wanted, StepTime)
    data = splits_of(spec, task, data_dir)
    ghost = spec.recipe.ghost_batch_size
    assert ghost is not None
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(wanted.repeats):
        for ghosts in (True, False):
            recipe = spec.recipe.replace(ghost_batch_size=ghost if ghosts else None, budget=Steps(wanted.steps))
            model = task.model(spec.seed, data)
            rows = train(model, data, recipe, seed=spec.seed, execution=spec.execution, evaluations=1)
            stamps = [(time.perf_counter(), row["step"]) for row in rows]
            # The first half warms up; the last row holds the evaluation.
            (start, first), (stop, last) = stamps[len(stamps) // 2], stamps[-2]
            seconds[ghosts].append((stop - start) / (last - first))
    ratio = median(a / b for a, b in zip(seconds[True], seconds[False], strict=True))
    return [], {"ratio": ratio, "seconds_ghost": median(seconds[True]), "seconds_plain": median(seconds[False])}


_PROBES: dict[type, Callable[[RunSpec, Task, Path | None], Measured]] = {
    RandomWalk: _random_walk,
    Landscape: _landscape,
    Increments: _increments,
    EpochCorrelation: _epoch_correlation,
    StepTime: _step_time,
    Throughput: throughput,
    SummedSteps: summed_steps,
    PartialTail: partial_tail,
    Parting: parting,
    RelativeStep: relative_steps,
    Rescaled: rescaled,
    GradientErrors: gradient_errors,
    Escape: escape,
    QuadraticSteps: quadratic_steps,
    Cuts: cuts,
    StepTimes: step_times,
    KeptImages: kept_images,
    Bagging: bagging,
    ToTarget: to_target,
}


def _along_the_reference_run(
    spec: RunSpec, task: Task, data: Splits, places: Iterable[float]
) -> Iterator[tuple[float, nn.Module]]:
    """A copy of the task's model after each of `places`, fractions of its reference run."""
    model, execution = task.model(spec.seed, data), Execution()
    for frozen in along(model, data, task.recipe, places, seed=spec.seed, execution=execution):
        yield frozen.place, frozen.model


def _batch_loss(
    model: nn.Module, inputs: Tensor, targets: Tensor, batch_size: int | None, generator: torch.Generator
) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        if batch_size is None:
            return F.cross_entropy(model(inputs), targets)
        chosen = torch.randperm(len(targets), generator=generator)[:batch_size]
        return F.cross_entropy(model(inputs[chosen]), targets[chosen])

    return loss


def _glorot(model: nn.Module, generator: torch.Generator) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
