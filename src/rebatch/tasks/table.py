"""The built-in tasks by name. Nothing here imports torch: models and data are reached when they are asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebatch.execution import Execution
from rebatch.recipe import Epochs, Recipe, Sgd
from rebatch.schedule import MultiStep
from rebatch.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from rebatch.data.sets import Splits

# Tuned at batch 32, on the validation split, with seeds that no study uses: results/digits-reference/tuning.json.
DIGITS = Recipe(
    batch_size=32,
    optimizer=Sgd(lr=0.025, momentum=0.9, weight_decay=1e-4),
    schedule=MultiStep(milestones=(0.5, 0.75), factor=0.1),
    budget=Epochs(20),
)

# The paper's regime for F1: .1, then .01, .001, .0001 from epochs 10, 20, 30 of 50; clipping at 5.
F1 = Recipe(
    batch_size=128,
    optimizer=Sgd(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=MultiStep(milestones=(0.2, 0.4, 0.6), factor=0.1),
    budget=Epochs(50),
    max_grad_norm=5.0,
)


def _later(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that imports torch, imported when it is called."""

    def call(*arguments: object) -> Any:
        return getattr(import_module(module), name)(*arguments)

    return call


def _f1(name: str, loader: str) -> Task:
    build: Callable[[], nn.Module] = _later("rebatch.models.mlp", "f1")
    load: Callable[[Path, int], Splits] = _later("rebatch.tasks.mnist", loader)
    return Task(name, F1, 55_000, 5_000, 10_000, classes=10, build=build, load=load, execution="auto")


TASKS: dict[str, Task] = {
    "digits/mlp": Task(
        "digits/mlp",
        DIGITS,
        1024,
        256,
        517,
        classes=10,
        build=_later("rebatch.tasks.digits", "build"),
        load=_later("rebatch.tasks.digits", "load"),
        seed_draws_split=True,
        execution=Execution(precision="float32"),  # at this size bfloat16 costs more than it saves
    ),
    "mnist/f1": _f1("mnist/f1", "load_mnist"),
    "fashion-mnist/f1": _f1("fashion-mnist/f1", "load_fashion_mnist"),
}
