"""What a study may ask to be measured after a run's last step, by name."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebatch import draws
from rebatch.data.batches import past_batches, prepare
from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.errors import RequestError, did_you_mean
from rebatch.measure.curvature import top_eigenvalue
from rebatch.measure.forgetting import Forgetting, Replay, fit_decay
from rebatch.measure.rescaling import rescalable, rescale_relu
from rebatch.observation import Observer, trainable
from rebatch.study.limits import unseen_loss
from rebatch.study.noise_tenths import NoiseTenths, noise_found
from rebatch.study.plan import RunSpec
from rebatch.study.watching import HighRate, LastEpoch, PeakCurvature, RecomputedStatistics, what_was_found
from rebatch.training import evaluate
from rebatch.training.gradients import as_executed

Final = Callable[[RunSpec, nn.Module, Splits, World], Mapping[str, float]]


@dataclass(frozen=True)
class Watched:
    """A measurement that must have watched the run: what watches, and what it finds after the last step."""

    watch: Callable[[RunSpec, Splits], Observer]
    measure: Callable[[RunSpec, nn.Module, Splits, Observer], Mapping[str, float]]


def train_evaluation(spec: RunSpec, model: nn.Module, data: Splits, world: World) -> Mapping[str, float]:
    """Loss and accuracy on the training set as it is, unaugmented, in evaluation mode."""
    found = evaluate(model, data.train, data.normalize, execution=spec.execution, world=world)
    return {"final_train_loss": found.loss, "final_train_accuracy": found.accuracy}


def ghost_statistics(spec: RunSpec, model: nn.Module, data: Splits, _: World) -> Mapping[str, float]:
    """Test accuracy where every ghost of test examples is normalized with its own statistics, not the running ones."""
    size = min(spec.recipe.ghost_batch_size or spec.recipe.batch_size, len(data.test))
    whole = len(data.test) - len(data.test) % size
    test = data.test.subset(draws.generator(spec.seed, "ghost_statistics").permutation(len(data.test))[:whole])
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    kept, correct = [(layer.running_mean, layer.running_var) for layer in layers], 0
    try:
        for layer in layers:  # without statistics of its own a layer takes those of the batch, in evaluation too
            layer.running_mean = layer.running_var = None
        for start in range(0, whole, size):
            part = test.subset(range(start, start + size))
            found = evaluate(model, part, data.normalize, execution=spec.execution, batch_size=size)
            correct += int(found.correct.sum())
    finally:
        for layer, (mean, variance) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var = mean, variance
    return {"ghost_statistics_accuracy": 100.0 * correct / test.targets.numel()}


def curvature(spec: RunSpec, model: nn.Module, data: Splits, __: World) -> Mapping[str, float]:
    """The top eigenvalue of the loss on 1,000 training examples, in evaluation mode; nan if it was not found."""
    inputs, targets = prepare(data.train, slice(0, min(CURVATURE_EXAMPLES, len(data.train))), data.normalize)
    inputs = as_executed(inputs, spec.execution)
    weights = trainable(model)
    model.eval()
    try:
        found = top_eigenvalue(lambda: F.cross_entropy(model(inputs), targets), weights, tolerance=1e-2)
    finally:
        model.train()
    value = found.value if found.converged else math.nan
    return {"top_eigenvalue": value, "top_eigenvalue_residual": found.residual}


CURVATURE_EXAMPLES = 1000


def rescaled_curvature(spec: RunSpec, model: nn.Module, data: Splits, world: World) -> Mapping[str, float]:
    """The same where what enters the first ReLU is `RESCALED_BY` times as large, and what leaves it so many times less.

    `rescaled_outputs_move` is by how much outputs differ, as a part of the largest. Nan where no ReLU lies between two
    layers that can be rescaled.
    """
    if not rescalable(model):
        return {"rescaled_eigenvalue": math.nan, "rescaled_outputs_move": math.nan}
    rescaled = copy.deepcopy(model)
    rescale_relu(rescaled, RESCALED_BY)
    before, after = (_outputs(spec, each, data) for each in (model, rescaled))
    return {
        "rescaled_eigenvalue": curvature(spec, rescaled, data, world)["top_eigenvalue"],
        "rescaled_outputs_move": float((after - before).abs().max() / before.abs().max()),
    }


# A power of two: floating point rescales by it without rounding.
RESCALED_BY = 8.0


def _outputs(spec: RunSpec, model: nn.Module, data: Splits) -> Tensor:
    inputs, _ = prepare(data.train, slice(0, min(CURVATURE_EXAMPLES, len(data.train))), data.normalize)
    model.eval()
    try:
        with torch.no_grad():
            return model(as_executed(inputs, spec.execution)).double()  # type: ignore[no-any-return]
    finally:
        model.train()


def forgetting(spec: RunSpec, model: nn.Module, data: Splits, watcher: Observer) -> Mapping[str, float]:
    """Losses of the last epochs' batches under the final weights, by age; how they decay; and what they stand beside.

    Curves are means over bins of a tenth of an epoch, called `replay@0.1` by the bin's middle: `replay` as the run saw
    them, `online` their losses then, `fresh` the same examples augmented anew, `plain` not at all, `batch_statistics`
    as they were with batch norm as in training. `forgotten` is the age in epochs at which nine tenths of the way to the
    loss of unseen, augmented examples (`unseen_loss`) are covered, at most the 4 epochs that are looked at. Numbers of
    `batch_statistics` have that in their names: `tau:batch_statistics`.
    """
    assert isinstance(watcher, Forgetting)
    recipe, seed = spec.recipe, spec.seed
    past = past_batches(data, recipe, seed=seed)
    found = watcher.replay(model, past)
    # Other draws for the same examples in the same order; a seed that no run has.
    fresh = past_batches(data, recipe, seed=seed, augmentation_seed=seed + FRESH_SEED)
    plain = past_batches(dataclasses.replace(data, augmentations=()), recipe, seed=seed)
    curves = {
        "replay": found,
        "online": dataclasses.replace(found, losses=found.online),
        "fresh": watcher.replay(model, fresh),
        "plain": watcher.replay(model, plain),
        "batch_statistics": watcher.replay(model, past, training_mode=True),
    }
    edges = np.linspace(0.0, FORGETTING_EPOCHS, 10 * FORGETTING_EPOCHS + 1)
    middles = (edges[:-1] + edges[1:]) / 2.0
    binned = {
        f"{name}@{middle:.2f}": float(loss)
        for name, curve in curves.items()
        for middle, loss in zip(middles, curve.binned(edges), strict=True)
    }
    return {**_decays(spec, model, data, found, curves["batch_statistics"]), **binned}


def recent_forgetting(spec: RunSpec, model: nn.Module, data: Splits, watcher: Observer) -> Mapping[str, float]:
    """How soon the last epoch's batches are forgotten, without the curves: an eighth of the work of `forgetting`."""
    assert isinstance(watcher, Forgetting)
    past = past_batches(data, spec.recipe, seed=spec.seed)
    found, as_trained = (watcher.replay(model, past, training_mode=mode) for mode in (False, True))
    return _decays(spec, model, data, found, as_trained)


def _decays(spec: RunSpec, model: nn.Module, data: Splits, found: Replay, as_trained: Replay) -> dict[str, float]:
    """The numbers of both ways to replay batch norm, each beside unseen examples that are normalized alike."""
    unseen = unseen_loss(model, data, seed=spec.seed)
    unseen_as_trained = unseen_loss(model, data, seed=spec.seed, batch_size=spec.recipe.batch_size)
    return {**_decay(found, unseen), **_decay(as_trained, unseen_as_trained, ":batch_statistics")}


def _decay(found: Replay, unseen: float, mode: str = "") -> dict[str, float]:
    decay = fit_decay(found.ages, found.losses)
    numbers = {
        "tau": decay.tau.estimate,
        "tau_low": decay.tau.low,
        "tau_high": min(decay.tau.high, float(FORGETTING_EPOCHS)),
        "newest_loss": decay.newest,
        "limit_loss": decay.limit,
        "unseen_loss": unseen,
        "forgotten": min(decay.age_at(unseen), float(FORGETTING_EPOCHS)),
    }
    return {f"{name}{mode}": number for name, number in numbers.items()}


FORGETTING_EPOCHS = 4
FRESH_SEED = 1_000_003

FINALS: dict[str, Final] = {
    "train_evaluation": train_evaluation,
    "ghost_statistics": ghost_statistics,
    "top_eigenvalue": curvature,
    "rescaled_eigenvalue": rescaled_curvature,
}

WATCHED: dict[str, Watched] = {
    "forgetting": Watched(lambda _, data: Forgetting(len(data.train), epochs=FORGETTING_EPOCHS), forgetting),
    "recent_forgetting": Watched(lambda _, data: Forgetting(len(data.train), epochs=1.0), recent_forgetting),
    "last_epoch": Watched(LastEpoch, what_was_found),
    "high_rate": Watched(HighRate, what_was_found),
    "peak_curvature": Watched(PeakCurvature, what_was_found),
    "noise_tenths": Watched(NoiseTenths, noise_found),
    "recomputed_statistics": Watched(RecomputedStatistics, what_was_found),
}


def check_finals(names: Iterable[str]) -> None:
    """Refuse, before a run starts, what could not be measured after it.

    Raises:
        RequestError: a name that is not in the table.
    """
    for name in names:
        if name not in FINALS and name not in WATCHED:
            known = [*FINALS, *WATCHED]
            raise RequestError(f"nothing named {name!r} can be measured after a run{did_you_mean(name, known)}")


def watchers(spec: RunSpec, data: Splits) -> dict[str, Observer]:
    """What has to watch the run for that, by name."""
    return {name: WATCHED[name].watch(spec, data) for name in spec.finals if name in WATCHED}


def finals(
    spec: RunSpec, model: nn.Module, data: Splits, world: World, watched: Mapping[str, Observer] | None = None
) -> dict[str, float]:
    """All that `spec` asks for; `watched` are its `watchers`, which have seen the run."""
    measured: dict[str, float] = {}
    data = data.to(world.device)
    for name in spec.finals:
        if name in FINALS:
            measured |= FINALS[name](spec, model, data, world)
        else:
            measured |= WATCHED[name].measure(spec, model, data, (watched or {})[name])
    return measured
