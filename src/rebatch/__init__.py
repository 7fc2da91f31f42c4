"""rebatch: change the batch size of neural-network training, keep the accuracy, know the price.

Recipes and their transfer import no torch; what needs it is imported when its name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rebatch.averaging import Ema, Lookahead
from rebatch.errors import RequestError, RunError
from rebatch.execution import Execution
from rebatch.interval import Interval
from rebatch.recipe import AdamW, Epochs, Examples, Recipe, Sgd, Steps
from rebatch.recipe_file import loads_recipe, read_recipe, write_recipe
from rebatch.rules.move import Facts
from rebatch.schedule import Constant, Cosine, Linear, MultiStep, PiecewiseConstant, PiecewiseLinear
from rebatch.transfer import transfer

if TYPE_CHECKING:
    from rebatch import measure, nn, tasks
    from rebatch.live import apply_recipe, carry_over, recipe_of
    from rebatch.measure.watch import watch
    from rebatch.optimizers import build_optimizer, build_scheduler
    from rebatch.training import train

__version__ = "0.1.0.dev0"

__all__ = [
    "AdamW",
    "Constant",
    "Cosine",
    "Ema",
    "Epochs",
    "Examples",
    "Execution",
    "Facts",
    "Interval",
    "Linear",
    "Lookahead",
    "MultiStep",
    "PiecewiseConstant",
    "PiecewiseLinear",
    "Recipe",
    "RequestError",
    "RunError",
    "Sgd",
    "Steps",
    "apply_recipe",
    "build_optimizer",
    "build_scheduler",
    "carry_over",
    "loads_recipe",
    "measure",
    "nn",
    "read_recipe",
    "recipe_of",
    "tasks",
    "train",
    "transfer",
    "watch",
    "write_recipe",
]

_LATER = {
    "apply_recipe": "rebatch.live",
    "build_optimizer": "rebatch.optimizers",
    "build_scheduler": "rebatch.optimizers",
    "carry_over": "rebatch.live",
    "recipe_of": "rebatch.live",
    "train": "rebatch.training",
    "watch": "rebatch.measure.watch",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    if name in {"measure", "nn", "tasks"}:
        return import_module(f"rebatch.{name}")
    raise AttributeError(f"module 'rebatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
