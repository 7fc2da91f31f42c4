"""What the probes of Page's studies do (Page, 2018): other widths, summed steps, the partial tail, runs that part."""

import copy
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from rebatch import draws
from rebatch.batching import batch_bounds, examples_seen, measured_steps, steps_per_epoch, total_steps
from rebatch.data.batches import prepare
from rebatch.data.sets import DataSet, Splits
from rebatch.distributed import World
from rebatch.execution import Execution
from rebatch.measure.summed_steps import Gradient, log_slope, summed_steps_distances
from rebatch.observation import Observation, Observer, trainable
from rebatch.recipe import Recipe
from rebatch.reduction import with_loss_reduction
from rebatch.study.plan import RunSpec
from rebatch.study.probes import PartialTail, Parting, SummedSteps
from rebatch.study.splits import splits_of
from rebatch.tasks.task import Task
from rebatch.training import train
from rebatch.training.gradients import cross_entropy
from rebatch.transfer import transfer

Measured = tuple[list[dict[str, float]], dict[str, float]]

FLOAT64 = Execution(precision="float64")

# The power is read at so many of the smallest rates: at larger ones some unit of a ReLU net is switched on or off, and
# some maximum of a pool moves.
SLOPE_RATES = 3
# Growth is read from here on: with momentum a run starts behind, the further the larger its batch.
GROWTH_FROM = 0.1
# A seed for another order of the examples that no run has.
OTHER_ORDER = 1_000_003


def summed_steps(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """The distance at each rate, in itself and over the length of the large step; its power at the smallest rates.

    It is taken a step away from the fresh weights.
    """
    wanted = spec.probe
    assert isinstance(wanted, SummedSteps)
    recipe, data = with_loss_reduction(spec.recipe, "sum"), splits_of(spec, task, data_dir)
    model = task.model(spec.seed, data).double().train(wanted.training_mode)
    order = torch.from_numpy(draws.order(spec.seed, 0, len(data.train)))
    batches = torch.split(order[: wanted.kappa * recipe.batch_size], recipe.batch_size)
    gradient, fresh = _summed_gradient(model, data), _flat(trainable(model))
    # Not at the fresh weights: where those are the identity, as in the proxy, pixels tie in max-pooling, and any move
    # breaks the ties.
    start = fresh - recipe.optimizer.lr * gradient(fresh, torch.cat(batches))
    rates = [factor * recipe.optimizer.lr for factor in wanted.rates]
    distances = summed_steps_distances(start, gradient, batches, rates)
    step = float(torch.linalg.vector_norm(gradient(start, torch.cat(batches))))
    rows = [
        {"step": factor, "distance": distance, "relative": distance / (rate * step)}
        for factor, rate, distance in zip(wanted.rates, rates, distances, strict=True)
    ]
    lowest = slice(0, SLOPE_RATES)
    return rows, {"slope": log_slope(rates[lowest], distances[lowest]), "relative": rows[-1]["relative"]}


def partial_tail(spec: RunSpec, _: Task, __: Path | None) -> Measured:
    """Example i has input e_i and target 1, so that weight i is moved by it alone and by each in the same way."""
    wanted, recipe = spec.probe, spec.recipe
    assert isinstance(wanted, PartialTail)
    count = wanted.examples
    examples = DataSet(torch.eye(count, dtype=torch.float64), torch.ones(count, dtype=torch.int64))
    model = nn.Linear(count, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    toy = Splits(examples, examples, examples)
    list(train(model, toy, recipe, seed=spec.seed, loss=_squares, execution=FLOAT64, evaluations=1))
    moved = model.weight.detach()[0][torch.from_numpy(draws.order(spec.seed, 0, count))]
    tail = batch_bounds(total_steps(recipe, count) - 1, count, recipe)[1]
    return [], {"tail_weight": float(moved[tail:].mean() / moved[:tail].mean())}


def parting(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """Distances over training: between the batch sizes, and between two orders of the examples at the smaller one.

    `growth` is the power of the examples seen with which the distance grows, from a tenth of the run on.
    """
    wanted, small = spec.probe, spec.recipe
    assert isinstance(wanted, Parting)
    data = splits_of(spec, task, data_dir)
    count = len(data.train)
    large = transfer(small, batch_size=wanted.kappa * small.batch_size, rules=("linear_lr", "same_epochs")).recipe
    total = total_steps(large, count)
    places = [place for place in measured_steps(total, 1)[0] if place < total]
    same = [_small_steps(place, large, small, count) for place in places]
    first = _weights_along(spec, task, data, small, same)
    pairs = {
        "": _weights_along(spec, task, data, large, places),
        "_orders": _weights_along(spec, task, data, small, same, order=OTHER_ORDER),
    }
    seen = [examples_seen(place, count, large) for place in [*places, total]]
    found = {name: _distances(first, other) for name, other in pairs.items()}
    rows = [
        {"step": float(examples), "epoch": examples / count}
        | {f"distance{name}": distances[place] for name, distances in found.items()}
        for place, examples in enumerate(seen[: min(map(len, found.values()))])
    ]
    metrics: dict[str, float] = {}
    for name, distances in found.items():
        if len(distances) == len(seen):  # else a run diverged
            late = [place for place, examples in enumerate(seen) if examples >= GROWTH_FROM * seen[-1]]
            metrics |= {f"growth{name}": log_slope([seen[i] for i in late], [distances[i] for i in late])}
            metrics |= {f"distance{name}": distances[-1]}
    return rows, metrics


class _Snapshots(Observer):
    """Keeps the weights after given numbers of steps."""

    def __init__(self, steps: list[int]) -> None:
        self._steps = set(steps)
        self.weights: list[Tensor] = []

    def step(self, observation: Observation) -> None:
        if observation.step in self._steps:
            self.weights.append(_flat(observation.model.parameters()).cpu())


def _weights_along(
    spec: RunSpec, task: Task, data: Splits, recipe: Recipe, steps: list[int], *, order: int = 0
) -> list[Tensor]:
    """The weights after `steps` and at the end of a run; fewer where it diverged."""
    model, kept = task.model(spec.seed, data), _Snapshots(steps)
    seed, world = spec.seed + order, World.from_environment()
    rows = train(model, data, recipe, seed=seed, execution=spec.execution, world=world, observers=[kept], evaluations=1)
    *_, row = rows
    last = [] if "diverged" in row else [_flat(model.parameters()).cpu()]
    return [*kept.weights, *last]


def _small_steps(place: int, large: Recipe, small: Recipe, examples: int) -> int:
    """Steps of the smaller batch that have seen what `place` steps of the larger one have."""
    per_epoch = [steps_per_epoch(examples, each.batch_size, each.last_batch) for each in (large, small)]
    epoch, position = divmod(place, per_epoch[0])
    return epoch * per_epoch[1] + position * large.batch_size // small.batch_size


def _distances(first: list[Tensor], other: list[Tensor]) -> list[float]:
    pairs = zip(first, other, strict=False)  # a diverged run has fewer
    return [float(torch.linalg.vector_norm(one - two)) for one, two in pairs]


def _summed_gradient(model: nn.Module, data: Splits) -> Gradient:
    """Of the cross-entropy of unaugmented examples, by the weights that are trained; the model stays as it is."""
    probe = copy.deepcopy(model)
    parameters = trainable(probe)

    def gradient(weights: Tensor, indices: Tensor) -> Tensor:
        vector_to_parameters(weights, parameters)
        inputs, targets = prepare(data.train, indices, data.normalize)
        parts = torch.autograd.grad(cross_entropy(probe(inputs.double()), targets), parameters)
        return _flat(parts)

    return gradient


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """One vector, whatever the memory format."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets).square().sum() / 2
