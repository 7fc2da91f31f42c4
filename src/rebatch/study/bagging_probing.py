"""What the probe of `bagging` does: train the same learner again and again, and see how far its predictions scatter."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rebatch import draws
from rebatch.averaging import Ema
from rebatch.batching import total_steps
from rebatch.data.batches import prepare
from rebatch.data.sets import Splits
from rebatch.recipe import Recipe, Steps
from rebatch.study.plan import RunSpec
from rebatch.study.probes import Bagging
from rebatch.study.splits import splits_of
from rebatch.tasks.task import Task
from rebatch.training import train

Measured = tuple[list[dict[str, float]], dict[str, float]]


def prediction_variance(probabilities: Tensor) -> float:
    """How far predicted probabilities (R, N, C) of R repetitions scatter: variances added over classes, mean over N."""
    return float(probabilities.double().var(dim=0).sum(dim=1).mean())


def bagging(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """Variance of predictions on the test set, and mean accuracy, of each kind of predictor.

    Each repetition has half of the training set, drawn anew, and starts and orders of its own. On it are trained: a run
    (`last` weights, and their `averaged` ones), a run of as many times the steps as there are models (`long`), and the
    models of the `ensemble`, each on a sample of that half with replacement; `bootstrap` is the first of them.
    """
    wanted = spec.probe
    assert isinstance(wanted, Bagging)
    data = splits_of(spec, task, data_dir)
    repetitions = [_predictors(spec, wanted, task, data, number) for number in range(wanted.repetitions)]
    found: dict[str, float] = {}
    for kind in repetitions[0]:
        probabilities = torch.stack([each[kind] for each in repetitions])
        hits = probabilities.argmax(dim=2) == data.test.targets
        found |= {
            f"variance:{kind}": prediction_variance(probabilities),
            f"accuracy:{kind}": 100.0 * float(hits.double().mean()),
        }
    return [], found


def _predictors(spec: RunSpec, wanted: Bagging, task: Task, data: Splits, number: int) -> dict[str, Tensor]:
    """Probabilities on the test set, (N, C), by kind, of one repetition."""
    rng = draws.generator(spec.seed, "bagging", number)
    count = len(data.train) // 2
    half = replace(data, train=data.train.subset(rng.permutation(len(data.train))[:count]))
    seeds = [int(seed) for seed in rng.integers(2**31, size=wanted.models + 1)]
    recipe, own = spec.recipe, seeds.pop()
    longer = recipe.replace(budget=Steps(wanted.models * total_steps(recipe, count)))
    averaged = recipe.replace(averaging=Ema(decay=wanted.decay))
    found = {
        kind: _probabilities(spec, task, half, one, own)
        for kind, one in (("last", recipe), ("averaged", averaged), ("long", longer))
    }
    models = [_probabilities(spec, task, _resampled(half, rng), recipe, seed) for seed in seeds]
    return {**found, "bootstrap": models[0], "ensemble": _mean(models)}


def _resampled(data: Splits, rng: np.random.Generator) -> Splits:
    """As many training examples, drawn with replacement."""
    count = len(data.train)
    return replace(data, train=data.train.subset(rng.integers(count, size=count)))


def _probabilities(spec: RunSpec, task: Task, data: Splits, recipe: Recipe, seed: int) -> Tensor:
    model = task.model(seed, data)
    for _ in train(model, data, recipe, seed=seed, execution=spec.execution, evaluations=1):
        pass
    model.eval()
    with torch.no_grad():
        inputs, _ = prepare(data.test, slice(None), data.normalize)
        return torch.softmax(model(inputs).double(), dim=1)


def _mean(predictions: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(predictions)).mean(dim=0)
