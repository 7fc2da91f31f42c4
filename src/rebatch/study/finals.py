"""What a study may ask to be measured after a run's last step, by name."""

from collections.abc import Callable, Iterable, Mapping

import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebatch import draws
from rebatch.data.batches import prepare
from rebatch.data.sets import Splits
from rebatch.distributed import World
from rebatch.errors import RequestError, did_you_mean
from rebatch.measure.curvature import top_eigenvalue
from rebatch.study.plan import RunSpec
from rebatch.training import evaluate
from rebatch.training.gradients import as_executed

Final = Callable[[RunSpec, nn.Module, Splits, World], Mapping[str, float]]


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
    return {"ghost_statistics_accuracy": 100.0 * correct / whole}


def curvature(spec: RunSpec, model: nn.Module, data: Splits, __: World) -> Mapping[str, float]:
    """The top eigenvalue of the loss on 1,000 training examples, in evaluation mode."""
    inputs, targets = prepare(data.train, slice(0, min(CURVATURE_EXAMPLES, len(data.train))), data.normalize)
    inputs = as_executed(inputs, spec.execution)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    try:
        found = top_eigenvalue(lambda: F.cross_entropy(model(inputs), targets), weights, tolerance=1e-2)
    finally:
        model.train()
    return {"top_eigenvalue": found.value, "top_eigenvalue_residual": found.residual}


CURVATURE_EXAMPLES = 1000

FINALS: dict[str, Final] = {
    "train_evaluation": train_evaluation,
    "ghost_statistics": ghost_statistics,
    "top_eigenvalue": curvature,
}


def check_finals(names: Iterable[str]) -> None:
    """Refuse, before a run starts, what could not be measured after it.

    Raises:
        RequestError: a name that is not in the table.
    """
    for name in names:
        if name not in FINALS:
            raise RequestError(f"nothing named {name!r} can be measured after a run{did_you_mean(name, FINALS)}")


def finals(spec: RunSpec, model: nn.Module, data: Splits, world: World) -> dict[str, float]:
    """All that `spec` asks for."""
    measured: dict[str, float] = {}
    for name in spec.finals:
        measured |= FINALS[name](spec, model, data.to(world.device), world)
    return measured
