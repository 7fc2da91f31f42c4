"""The built-in tasks by name. Nothing here imports torch: models and data are reached when they are asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.recipe import Recipe, Sgd, Steps
from rebatch.tasks.recipes import (
    ALEXNET,
    C1,
    C1_CODE,
    DIGITS,
    DIGITS_PLAIN,
    F1,
    FAST94,
    PAGE_128,
    PAGE_512,
    PROXY,
    RESNET8,
    RESNET9,
    RESNET44,
    RESNET44_PLANNED,
    VGG,
    WRN16_4,
    WRN16_4_PREACT,
)
from rebatch.tasks.task import Task
from rebatch.tasks.text import char_lm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from rebatch.data.sets import Splits


def _later(module: str, name: str, *first: object) -> Callable[..., Any]:
    """A function of a module that imports torch, imported when it is called; `first` are its first arguments."""

    def call(*arguments: object) -> Any:
        return getattr(import_module(module), name)(*first, *arguments)

    return call


def _f1(name: str, loader: str) -> Task:
    build: Callable[[], nn.Module] = _later("rebatch.models.mlp", "f1")
    load: Callable[[Path, int], Splits] = _later("rebatch.tasks.mnist", loader)
    return Task(name, F1, 55_000, 5_000, 10_000, classes=10, build=build, load=load, execution="auto")


def _cifar(
    name: str,
    recipe: Recipe,
    model: str,
    *,
    width: float | None = None,
    prepared_as: str | None = None,
    whitened: bool = False,
    regimes: Mapping[str, Recipe] | None = None,
) -> Task:
    """`model` is `module.function` of the reference networks, `width` what it is called with.

    `prepared_as` names the function of `tasks.cifar` that loads the data, `regimes` the recipes beside `recipe`.
    """
    data, _ = name.split("/")
    module, function = f"rebatch.models.{model}".rsplit(".", 1)
    build: Callable[[], nn.Module] = _later(module, function, *([] if width is None else [width]))
    load: Callable[[Path, int], Splits] = _later("rebatch.tasks.cifar", f"load_{prepared_as or data}")
    prepare: Callable[[nn.Module, Splits], object] = _later("rebatch.tasks.cifar", "whiten")
    classes = {"cifar10": 10, "cifar100": 100}[data]
    return Task(
        name,
        recipe,
        45_000,
        5_000,
        10_000,
        classes=classes,
        build=build,
        load=load,
        execution="auto",
        regimes=regimes or {},
        prepare=prepare if whitened else None,
    )


def _page_resnet18(name: str, width: float) -> Task:
    regimes = {"batch-512": PAGE_512}
    return _cifar(name, PAGE_128, "page.page_resnet18", width=width, prepared_as="page", regimes=regimes)


def _proxy(name: str, width: float) -> Task:
    return _cifar(name, PROXY, "fast.proxy", width=width, prepared_as="page", whitened=True)


def _by_name(*tasks: Task) -> dict[str, Task]:
    return {task.name: task for task in tasks}


TASKS: dict[str, Task] = _by_name(
    Task(
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
    Task(
        "digits/mlp-plain",
        DIGITS_PLAIN,
        1024,
        256,
        517,
        classes=10,
        build=_later("rebatch.tasks.digits", "build_plain"),
        load=_later("rebatch.tasks.digits", "load"),
        seed_draws_split=True,
        execution=Execution(precision="float32"),
    ),
    _f1("mnist/f1", "load_mnist"),
    _f1("fashion-mnist/f1", "load_fashion_mnist"),
    _cifar("cifar10/c1", C1, "keskar.c1", regimes={"code": C1_CODE}),
    _cifar("cifar10/resnet8", RESNET8, "resnet.resnet8"),  # a smaller net of ResNet44's family
    _cifar("cifar10/resnet44", RESNET44, "resnet.resnet44", regimes={"planned": RESNET44_PLANNED}),
    _cifar("cifar10/vgg", VGG, "vgg.vgg"),
    _page_resnet18("cifar10/page-resnet18", 1.0),
    _page_resnet18("cifar10/page-resnet18-half", 0.5),
    _page_resnet18("cifar10/page-resnet18-double", 2.0),
    _cifar("cifar10/resnet9", RESNET9, "page.resnet9", prepared_as="page_cutout"),
    _cifar("cifar10/fast94", FAST94, "fast.fast94", prepared_as="airbench", whitened=True),
    _proxy("cifar10/proxy", 1.0),
    _proxy("cifar10/proxy-half", 0.5),
    _proxy("cifar10/proxy-double", 2.0),
    _cifar("cifar100/c3", C1, "keskar.c3", regimes={"code": C1_CODE}),
    _cifar("cifar100/wrn16-4", WRN16_4, "resnet.wide_resnet16_4"),
    _cifar("cifar100/wrn16-4-preact", WRN16_4_PREACT, "resnet.wide_resnet16_4_preact"),
    Task(
        "imagenet/alexnet",
        ALEXNET,
        1_271_167,
        10_000,
        50_000,
        classes=1000,
        build=_later("rebatch.models.alexnet", "alexnet"),
        load=_later("rebatch.tasks.imagenet", "load"),
        # Said, not measured: measuring would decode for minutes, and on every machine with such images this is fastest.
        execution=Execution(precision="bfloat16", memory_format="channels_last"),
    ),
    char_lm("text/char-lm"),
)


def _no_data(*_: object) -> Any:
    raise RequestError(
        "the task 'simulation' has neither model nor data: it is for studies that simulate; name another"
    )


# Where studies run that train nothing; there are no examples, but as many as any batch whose noise they simulate.
SIMULATION = Task(
    "simulation/none",
    Recipe(batch_size=1, optimizer=Sgd(lr=1.0), budget=Steps(1)),
    2**20,
    1,
    1,
    classes=2,  # nothing is classified; a task has no fewer
    build=_no_data,
    load=_no_data,
)
