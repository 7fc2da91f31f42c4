"""Recipes as TOML files and as nested plain data, and what a faulty file is told."""

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from rebatch.averaging import Ema, Lookahead
from rebatch.errors import RequestError, did_you_mean
from rebatch.fields import join, mismatch, show_value, value_at
from rebatch.files import write_whole
from rebatch.plain import plain
from rebatch.recipe import (
    Adagrad,
    AdamW,
    Defects,
    GradientPenalty,
    Lamb,
    Lars,
    Lion,
    Muon,
    Noise,
    Recipe,
    RmsProp,
    Sgd,
    require_recipe,
)
from rebatch.schedule import (
    Constant,
    Cosine,
    DistanceDrop,
    Linear,
    MultiStep,
    PiecewiseConstant,
    PiecewiseLinear,
    Plateau,
)


def loads_recipe(text: str) -> Recipe:
    """Read a recipe from the text of a TOML file.

    Raises:
        RequestError: one line that names the faulty field by path, its value, the limit.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"not valid TOML: {error}") from None
    return from_table(table)


def dumps_recipe(recipe: Recipe) -> str:
    """The recipe as the text of a TOML file; `loads_recipe` gives back an equal recipe."""
    require_recipe(recipe)
    return tomli_w.dumps(to_table(recipe)).replace("\n[tuned]\n", f"\n{_ABOUT_TUNED}\n[tuned]\n")


_ABOUT_TUNED = """\
# A further transfer starts from the numbers below, not from those above.
# After tuning by hand, delete [tuned] and all that follows."""


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file."""
    try:
        return loads_recipe(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RequestError(f"cannot read the recipe {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not a text file in UTF-8; a recipe is a TOML file") from None
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe file, whole or not at all."""
    write_whole(path, dumps_recipe(recipe).encode())


def from_table(table: dict[str, Any]) -> Recipe:
    """A recipe from nested plain data in the layout of the file: `[budget]` holds one of epochs, steps, examples."""
    try:
        return msgspec.convert(_tagged(table), Recipe)
    except msgspec.ValidationError as error:
        own = isinstance(error.__cause__, RequestError)  # raised by a field's own check, wrapped by msgspec
        raise RequestError(str(error.__cause__) if own else _explain(error, table)) from None


def to_table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested plain data in the layout of the file; fields at their default are left out."""
    table: dict[str, Any] = plain(recipe)
    for part in (table, table.get("tuned", {})):
        if "budget" in part:
            del part["budget"]["unit"]
            if float(part["budget"].get("epochs", 0.5)).is_integer():
                part["budget"]["epochs"] = int(part["budget"]["epochs"])
    return _sorted_for_reading(table)


def field_values(recipe: Recipe, whole: Collection[str] = ()) -> dict[str, Any]:
    """Values by field path, as in the file; of the tables named in `whole` one value each.

    >>> from rebatch.recipe import Epochs
    >>> recipe = Recipe(batch_size=8, optimizer=Sgd(lr=0.1), budget=Epochs(2))
    >>> field_values(recipe)["budget.epochs"], field_values(recipe, ("budget",))["budget"]
    (2, {'epochs': 2})
    """
    flat: dict[str, Any] = {}
    for name, value in to_table(recipe.as_tuned()).items():
        if isinstance(value, dict) and name not in whole:
            flat |= {join(name, inner): inner_value for inner, inner_value in value.items()}
        else:
            flat[name] = value
    return flat


def spelled(value: object) -> str:
    """A field's value as in the file, None for one that is left out."""
    return "left out" if value is None else show_value(value)


_BUDGETS = ("epochs", "steps", "examples")
_TYPES: dict[str, dict[str, type[msgspec.Struct]]] = {
    "optimizer": {
        "sgd": Sgd,
        "adamw": AdamW,
        "rmsprop": RmsProp,
        "adagrad": Adagrad,
        "lion": Lion,
        "lars": Lars,
        "lamb": Lamb,
        "muon": Muon,
    },
    "schedule": {
        "constant": Constant,
        "multistep": MultiStep,
        "piecewise_constant": PiecewiseConstant,
        "cosine": Cosine,
        "linear": Linear,
        "piecewise_linear": PiecewiseLinear,
        "plateau": Plateau,
        "distance_drop": DistanceDrop,
    },
    "averaging": {"ema": Ema, "lookahead": Lookahead},
}
_PARTS: dict[str, type[msgspec.Struct]] = {
    "noise": Noise,
    "gradient_penalty": GradientPenalty,
    "defects": Defects,
}


def _tagged(table: dict[str, Any]) -> dict[str, Any]:
    """Name the budget's unit as a tag, here and in the tuned recipe."""
    tagged = dict(table)
    budget = tagged.get("budget")
    if isinstance(budget, dict):
        named = [unit for unit in _BUDGETS if unit in budget]
        if len(named) != 1 or len(budget) != 1:
            raise RequestError(
                f"budget must hold exactly one of {', '.join(_BUDGETS)}, got {', '.join(budget) or '{}'}"
            )
        tagged["budget"] = {"unit": named[0], **budget}
    if isinstance(tagged.get("tuned"), dict):
        tagged["tuned"] = _tagged(tagged["tuned"])
    return tagged


def _explain(error: msgspec.ValidationError, table: dict[str, Any]) -> str:
    """msgspec's message with our field paths, the value and a suggestion for a misspelt name."""
    message, _, where = str(error).partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    if message.startswith("Object contains unknown field"):
        name = message.split("`")[1]
        return f"unknown field {join(path, name)!r}{did_you_mean(name, _fields_at(path, table))}"
    if message.startswith("Object missing required field"):
        return f"{join(path, message.split('`')[1])} is missing"
    if message.startswith("Invalid value") and path.endswith(".type"):
        kind = str(value_at(path, table))
        return f"{path} {kind!r} is unknown{did_you_mean(kind, _TYPES.get(path.split('.')[-2], {}))}"
    return mismatch(message, path, value_at(path, table))


def _fields_at(path: str, table: dict[str, Any]) -> tuple[str, ...]:
    part = path.removeprefix("tuned").removeprefix(".")
    if part in _TYPES:
        kind = _TYPES[part].get(str(value_at(join(path, "type"), table)))
        return ("type", *(kind.__struct_fields__ if kind else ()))
    if part in _PARTS:
        return _PARTS[part].__struct_fields__
    return Recipe.__struct_fields__


def _sorted_for_reading(table: dict[str, Any]) -> dict[str, Any]:
    """Plain values before tables, as TOML needs them and people read them; the tuned recipe last."""
    plain = {name: value for name, value in table.items() if not isinstance(value, dict)}
    nested = {name: value for name, value in table.items() if isinstance(value, dict) and name != "tuned"}
    tuned = {"tuned": _sorted_for_reading(table["tuned"])} if "tuned" in table else {}
    return {**plain, **nested, **tuned}
