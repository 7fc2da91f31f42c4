"""What the probes of the studies on mini-batches do: errors of gradients along a run, walkers, a model."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rebatch import draws
from rebatch.batching import examples_seen
from rebatch.data.sets import DataSet, Splits
from rebatch.measure.escape import SURFACES, escape_steps
from rebatch.measure.gradient_error import (
    Population,
    error_exponent,
    expected_agreement,
    expected_cosine,
    expected_square_error,
    population,
    sample_cosines,
    sample_square_errors,
)
from rebatch.measure.increments import Gradient
from rebatch.quadratic import best_lr, harmonic
from rebatch.recipe import Sgd
from rebatch.study.frozen import Frozen, along, gradient_of, per_example_gradients
from rebatch.study.plan import RunSpec
from rebatch.study.probes import Escape, GradientErrors, QuadraticSteps
from rebatch.study.splits import splits_of
from rebatch.tasks.task import Task

Measured = tuple[list[dict[str, float]], dict[str, float]]

# Examples of one backward pass where the gradient of all of them is wanted.
FULL_CHUNK = 1024


def gradient_errors(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """At each place the noise scale, the errors by batch size, and the cosines of two sizes of batches.

    Gradients are those of the net in evaluation mode, where no batch norm couples examples.
    """
    wanted = spec.probe
    assert isinstance(wanted, GradientErrors)
    data = splits_of(spec, task, data_dir)
    if wanted.shuffled:
        data = replace(data, train=_shuffled(data.train, spec.seed))
    metrics: dict[str, float] = {}
    model = task.model(spec.seed, data)
    for frozen in along(model, data, spec.recipe, wanted.after, seed=spec.seed, execution=spec.execution):
        found = _measured(spec, wanted, data, frozen)
        found["epoch"] = examples_seen(frozen.step, len(data.train), spec.recipe) / len(data.train)
        metrics |= {f"{name}@{frozen.place:g}": value for name, value in found.items()}
    return [], metrics


def escape(spec: RunSpec, _: Task, __: Path | None) -> Measured:
    """The share of walkers that left, and their mean steps; no mean where one has not left."""
    wanted, recipe = spec.probe, spec.recipe
    assert isinstance(wanted, Escape)
    steps = escape_steps(
        SURFACES[wanted.surface],
        lr=recipe.optimizer.lr,
        deviation=wanted.noise / math.sqrt(recipe.batch_size),
        walkers=wanted.walkers,
        most=wanted.most,
        rng=draws.generator(spec.seed, f"escape {wanted.surface}", recipe.batch_size),
        spread=wanted.spread,
    )
    left = np.isfinite(steps)
    return [], {"left": float(left.mean())} | ({"steps": float(steps.mean())} if left.all() else {})


def quadratic_steps(spec: RunSpec, _: Task, __: Path | None) -> Measured:
    """The best rate and its steps; the start is the same for all batch sizes and momenta of a seed."""
    wanted, optimizer = spec.probe, spec.recipe.optimizer
    assert isinstance(wanted, QuadraticSteps)
    assert isinstance(optimizer, Sgd)
    start = draws.generator(spec.seed, "quadratic start").standard_normal(wanted.coordinates) ** 2
    batch_size = math.inf if wanted.exact else spec.recipe.batch_size
    best = best_lr(harmonic(wanted.coordinates, start), batch_size, optimizer.momentum, target=wanted.target)
    return [], {"steps": best.steps, "lr": best.lr}


def _measured(spec: RunSpec, wanted: GradientErrors, data: Splits, frozen: Frozen) -> dict[str, float]:
    model, count = frozen.model.eval(), len(data.train)
    rng = draws.generator(spec.seed, "gradient_errors", round(1000 * frozen.place))
    gradient = gradient_of(model, data)
    chosen = torch.from_numpy(rng.permutation(count))[: wanted.examples]
    found = population(per_example_gradients(model, data, chosen))
    if len(chosen) < count:
        found = Population(_full(gradient, count), found.trace, count)
    numbers = {"noise_scale": found.noise_scale, "gradient_norm": float(torch.linalg.vector_norm(found.full))}
    if wanted.batch_sizes:
        numbers |= _errors(gradient, found, wanted, rng)
    sizes = {"sample": max(1, round(wanted.share * count)), "batch": spec.recipe.batch_size}
    for name, size in sizes.items():
        seen = sample_cosines(gradient, found, size, draws=wanted.draws, rng=rng)
        numbers |= {
            f"{name}_cosine": float(seen.to_full.mean()),
            f"{name}_agreement": float(seen.between.mean()),
            f"{name}_cosine_expected": expected_cosine(found.noise_scale, size),
            f"{name}_agreement_expected": expected_agreement(found.noise_scale, size),
        }
    return numbers


def _errors(
    gradient: Gradient, found: Population, wanted: GradientErrors, rng: np.random.Generator
) -> dict[str, float]:
    """By batch size the root mean square error over |G|; over all sizes its exponents and its square over the formula.

    `exponent` has the factor of drawing without replacement taken out, `raw_exponent` has not.
    """
    sizes = wanted.batch_sizes
    squares = [float(sample_square_errors(gradient, found, size, draws=wanted.draws, rng=rng).mean()) for size in sizes]
    ratios = [square / expected_square_error(found, size) for size, square in zip(sizes, squares, strict=True)]
    length = float(torch.linalg.vector_norm(found.full))
    return {
        "exponent": error_exponent(sizes, squares, found.examples),
        "raw_exponent": error_exponent(sizes, squares, None),
        "error_ratio": float(np.mean(ratios)),
    } | {f"relative_error:{size}": math.sqrt(square) / length for size, square in zip(sizes, squares, strict=True)}


def _full(gradient: Gradient, count: int) -> Tensor:
    """G of all examples, in float64, a chunk at a time."""
    parts = torch.split(torch.arange(count), FULL_CHUNK)
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        total = total + len(part) * gradient(part, torch.ones(len(part))).double()
    return total / count


def _shuffled(train: DataSet, seed: int) -> DataSet:
    order = torch.from_numpy(draws.generator(seed, "shuffled_labels").permutation(len(train)))
    return DataSet(train.inputs, train.targets[order])
