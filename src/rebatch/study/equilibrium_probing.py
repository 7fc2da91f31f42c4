"""What the probes of `page-directions` do: how long steps are at rest, and a run that is the same at another length."""

import copy
from pathlib import Path

import torch
from msgspec import structs
from torch import Tensor, nn

from rebatch.batching import total_steps
from rebatch.data.batches import prepare
from rebatch.data.sets import Splits
from rebatch.equilibrium import relative_step
from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.measure.relative_steps import RelativeSteps, weights_before_a_norm
from rebatch.nn.ghost_batch_norm import plain_batch_norms
from rebatch.observation import trainable
from rebatch.recipe import Recipe, Sgd
from rebatch.study.plan import RunSpec
from rebatch.study.probes import RelativeStep, Rescaled
from rebatch.study.splits import splits_of
from rebatch.tasks.task import Task
from rebatch.training import train

Measured = tuple[list[dict[str, float]], dict[str, float]]

FLOAT64 = Execution(precision="float64")

# As good as none beside a variance in float64; torch refuses 0.
NO_EPS = 1e-30

# The examples of a forward pass that only tells which weights lie before a norm, and how far outputs are apart.
LOOK = 64


def relative_steps(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """The measured length beside that of the closed form; no number where the run diverged."""
    wanted, recipe, data = spec.probe, spec.recipe, splits_of(spec, task, data_dir)
    assert isinstance(wanted, RelativeStep)
    assert isinstance(recipe.optimizer, Sgd)
    model = task.model(spec.seed, data)
    first = round(wanted.after * total_steps(recipe, len(data.train)))
    observer = RelativeSteps(_before_a_norm(model, data, task), first)
    rows = list(train(model, data, recipe, seed=spec.seed, execution=spec.execution, observers=[observer]))
    if "diverged" in rows[-1]:
        return [], {}
    found, expected = rows[-1]["relative_step"], relative_step(recipe.optimizer)
    return [], {"relative_step": found, "ratio": found / expected}


def rescaled(spec: RunSpec, task: Task, data_dir: Path | None) -> Measured:
    """How far the outputs and, scaled back, the weights of the two runs are apart at the end, relative to their moves.

    All but without a norm's eps, which knows lengths.
    """
    wanted, recipe, data = spec.probe, spec.recipe, splits_of(spec, task, data_dir)
    assert isinstance(wanted, Rescaled)
    model = _without_a_length(task, spec.seed, data)
    other = _stretched(model, wanted.factor)
    start = [weight.detach().clone() for weight in trainable(model)]
    before = _outputs(model, data)
    _run(model, data, recipe, spec.seed)
    _run(other, data, _for_stretched(recipe, wanted.factor), spec.seed)
    apart = _length([one - two / wanted.factor for one, two in zip(trainable(model), trainable(other), strict=True)])
    travelled = _length([weight - old for weight, old in zip(trainable(model), start, strict=True)])
    outputs, others = _outputs(model, data), _outputs(other, data)
    return [], {
        "weights_apart": apart / travelled,
        "outputs_apart": _length([outputs - others]) / _length([outputs - before]),
    }


def _without_a_length(task: Task, seed: int, data: Splits) -> nn.Module:
    """In float64, of which only the weights before a norm are trained, whose length nothing but an eps knows."""
    model = task.model(seed, data).double()
    places = _before_a_norm(model, data, task)
    for place, weight in enumerate(trainable(model)):
        weight.requires_grad_(place in places)
    for layer in plain_batch_norms(model).values():
        layer.eps = NO_EPS
    return model


def _stretched(model: nn.Module, factor: float) -> nn.Module:
    """A copy whose trainable weights are `factor` times as long."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in trainable(other):
            weight.mul_(factor)
    return other


def _for_stretched(recipe: Recipe, factor: float) -> Recipe:
    """What runs the same way there."""
    optimizer, square = recipe.optimizer, factor**2
    assert isinstance(optimizer, Sgd)
    longer = structs.replace(optimizer, lr=square * optimizer.lr, weight_decay=optimizer.weight_decay / square)
    return recipe.replace(optimizer=longer)


def _run(model: nn.Module, data: Splits, recipe: Recipe, seed: int) -> None:
    list(train(model, data, recipe, seed=seed, execution=FLOAT64, evaluations=1))


def _before_a_norm(model: nn.Module, data: Splits, task: Task) -> list[int]:
    inputs, _ = prepare(data.train, slice(0, LOOK), data.normalize)
    dtype = next(model.parameters()).dtype
    places = weights_before_a_norm(model, inputs.to(dtype) if inputs.is_floating_point() else inputs)
    if not places:
        raise RequestError(f"{task.name} has no weights before a norm, whose length a step could be compared with")
    return places


@torch.no_grad()
def _outputs(model: nn.Module, data: Splits) -> Tensor:
    """In training mode, by the batch's own statistics; running ones are moved along."""
    inputs, _ = prepare(data.validation, slice(0, LOOK), data.normalize)
    outputs: Tensor = model.train()(inputs.double())
    return outputs


def _length(parts: list[Tensor]) -> float:
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part.detach()) for part in parts])))
