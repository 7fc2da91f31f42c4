"""Is what a task was given what it must be? Its fields at birth, without torch; models and data when they are made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.fields import show_value, typed
from rebatch.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from rebatch.data.sets import Splits
    from rebatch.tasks.task import Task

SPLITS = ("train", "validation", "test")

# Fields that must be functions: what they are given, in words.
_CALLED_WITH = {
    "build": (),
    "load": ("a data folder", "a seed"),
    "prepare": ("a model", "its splits"),
    "sizes": ("a data folder",),
}


def checked_fields(task: Task) -> dict[str, object]:
    """The fields that are texts, numbers and switches, as Python's own types, once all fields are what they must be.

    Raises:
        RequestError: one line that names the task, the field and its value.
    """
    if not isinstance(task.name, str) or not task.name.strip():
        raise RequestError(f"a task's name must be a text, such as 'tumors/mlp', got {show_value(task.name)}")
    counts = {name: _whole(task, name, 0 if task.sizes is not None else 1) for name in SPLITS}
    numbers = {"classes": _whole(task, "classes", 2), "tokens_per_example": _whole(task, "tokens_per_example", 1)}
    switch = typed(task.seed_draws_split, bool, f"task {task.name}: seed_draws_split")
    _require_recipes(task)
    for name, arguments in _CALLED_WITH.items():
        if getattr(task, name) is not None or name in ("build", "load"):
            _require_function(task, name, arguments)
    return {**counts, **numbers, "seed_draws_split": switch}


def check_sizes(name: str, sizes: object) -> None:
    """What a task's `sizes` returns: numbers of examples, all above 0, and a digest."""
    from rebatch.tasks.task import Sizes

    if not isinstance(sizes, Sizes):
        raise RequestError(f"task {name}: sizes must return Sizes(train, validation, test, digest), got {_kind(sizes)}")
    for part, count in zip(SPLITS, sizes[:3], strict=True):
        if typed(count, int, f"task {name}: {part}") < 1:
            raise RequestError(f"task {name}: {part} must be at least 1, sizes found {count}; each split needs data")


def check_model(name: str, model: object) -> None:
    """What a task's `build` returns: a model."""
    from torch import nn

    if not isinstance(model, nn.Module):
        way = "end it with `return model`" if model is None else "return the model alone"
        raise RequestError(f"task {name}: build must return an nn.Module, got {_kind(model)}; {way}")


def check_splits(task: Task, splits: object) -> Splits:
    """What a task's `load` returns: three sets of examples that a model can be trained on, with labels in range."""
    from rebatch.data.sets import DataSet, Splits

    if not isinstance(splits, Splits):
        raise RequestError(
            f"task {task.name}: load must return rebatch.data.sets.Splits, got {_kind(splits)}; "
            "end it with `return Splits(train, validation, test)`"
        )
    for part in SPLITS:
        data = getattr(splits, part)
        if not isinstance(data, DataSet):
            way = "make it DataSet(inputs, targets)"
            raise RequestError(f"task {task.name}: the {part} split must be a DataSet, got {_kind(data)}; {way}")
        _check_targets(task, part, data.targets)
        if splits.normalize is None:  # which makes float32 of them
            _check_inputs(task, part, data.inputs)
    return splits


def _check_targets(task: Task, part: str, targets: Tensor) -> None:
    """Labels (N,), or (N, T) of sequences; only their least and their largest is looked at."""
    import torch

    if targets.dtype != torch.int64:
        kind = str(targets.dtype).removeprefix("torch.")
        raise RequestError(
            f"task {task.name}: {part} targets must be int64, numbers of classes, got {kind}; write targets.long()"
        )
    if not len(targets):
        return
    low, high = (int(end) for end in targets.aminmax())
    if low < 0 or high >= task.classes:
        raise RequestError(
            f"task {task.name}: {part} targets must be from 0 to {task.classes - 1} (classes={task.classes}), "
            f"got {low if low < 0 else high}; number the classes from 0, or set classes"
        )


def _check_inputs(task: Task, part: str, inputs: Tensor) -> None:
    import torch

    double = isinstance(task.execution, Execution) and task.execution.precision == "float64"
    if inputs.dtype == torch.float64 and not double:
        way = "write inputs.float() (a run in float64 makes them float64 again)"
        raise RequestError(f"task {task.name}: {part} inputs must not be float64, as weights are float32; {way}")


def _whole(task: Task, name: str, least: int) -> int:
    value: int = typed(getattr(task, name), int, f"task {task.name}: {name}")
    if value < least:
        way = "; only a task with `sizes` leaves it 0" if name in SPLITS and least else ""
        raise RequestError(f"task {task.name}: {name} must be at least {least}, got {value}{way}")
    return value


def _require_recipes(task: Task) -> None:
    if not isinstance(task.regimes, Mapping):
        raise RequestError(f"task {task.name}: regimes must be recipes by name, got {show_value(task.regimes)}")
    regimes = {f"regimes[{name!r}]": recipe for name, recipe in task.regimes.items()}
    for name, recipe in {"recipe": task.recipe, **regimes}.items():
        if not isinstance(recipe, Recipe):
            way = "rebatch.read_recipe(path) reads one from a file"
            raise RequestError(f"task {task.name}: {name} must be a Recipe, got {show_value(recipe)}; {way}")
    if not isinstance(task.execution, Execution) and task.execution != "auto":
        raise RequestError(
            f"task {task.name}: execution must be an Execution or 'auto', got {show_value(task.execution)}"
        )


def _require_function(task: Task, name: str, arguments: tuple[str, ...]) -> None:
    """A function that can be called with so many arguments; a model can be called too, but is not what makes one."""
    function, wanted = getattr(task, name), f"a function that takes {' and '.join(arguments) or 'no arguments'}"
    if not callable(function) or _is_model(function):
        way = f"write {name}={name}, without calling it"
        raise RequestError(f"task {task.name}: {name} must be {wanted}, got {_kind(function)}; {way}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError, NameError):  # some of C's functions tell none, and annotations may name anything
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        takes = f"it is called with {len(arguments)} arguments" if arguments else "it is called without arguments"
        raise RequestError(
            f"task {task.name}: {name} must be {wanted}, got {name}{_names(signature)}; {takes}"
        ) from None


def _is_model(thing: Any) -> bool:
    """Told by name: torch is not imported for it."""
    return any(kind.__name__ == "Module" for kind in type(thing).__mro__)


def _names(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"


def _kind(value: object) -> str:
    """`None`, `a tuple`, `an int`."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
