"""The numbers that define an optimization: frozen data, valid from birth, with no seed, device or path in it."""

import math
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import tomli_w

from rebatch.errors import RequestError, did_you_mean
from rebatch.fields import join, mismatch, require_types, show_value, value_at
from rebatch.files import write_whole
from rebatch.plain import plain
from rebatch.schedule import Constant, Cosine, Linear, MultiStep, PiecewiseLinear, Schedule

LastBatch = Literal["keep", "drop"]
LossReduction = Literal["mean", "sum"]


class _Optimizer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """How optimizers are written in a recipe file; the numbers keep torch's names."""

    def __post_init__(self) -> None:
        require_types(self, "optimizer")


class Sgd(_Optimizer, frozen=True, tag="sgd"):
    """Stochastic gradient descent as in `torch.optim.SGD`: weight decay is coupled (added to the gradient)."""

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_lr(self.lr)
        _require(0 <= self.momentum < 1, "optimizer.momentum", "0 <= momentum < 1", self.momentum)
        _require(
            not self.nesterov or self.momentum > 0, "optimizer.nesterov", "false where momentum is 0", self.nesterov
        )
        _require_decay(self.weight_decay)


class AdamW(_Optimizer, frozen=True, tag="adamw"):
    """Adam with decoupled weight decay as in `torch.optim.AdamW` (Loshchilov and Hutter, 2019)."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_lr(self.lr)
        for beta in self.betas:
            _require(0 <= beta < 1, "optimizer.betas", "two numbers, 0 <= beta < 1", list(self.betas))
        _require(self.eps >= 0 and math.isfinite(self.eps), "optimizer.eps", "at least 0 and finite", self.eps)
        _require_decay(self.weight_decay)


Optimizer = Sgd | AdamW


class Epochs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="unit", tag="epochs"):
    """A budget in passes over the training set; fractions are allowed."""

    epochs: float

    def __post_init__(self) -> None:
        require_types(self, "budget")
        _require(self.epochs > 0 and math.isfinite(self.epochs), "budget.epochs", "positive and finite", self.epochs)


class Steps(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="unit", tag="steps"):
    """A budget in optimizer updates."""

    steps: int

    def __post_init__(self) -> None:
        require_types(self, "budget")
        _require(self.steps >= 1, "budget.steps", "at least 1", self.steps)


class Examples(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="unit", tag="examples"):
    """A budget in training examples, repeats counted."""

    examples: int

    def __post_init__(self) -> None:
        require_types(self, "budget")
        _require(self.examples >= 1, "budget.examples", "at least 1", self.examples)


Budget = Epochs | Steps | Examples


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that defines an optimization except seed, device and data.

    `tuned` is the recipe that this one was transferred from, `None` for a recipe that somebody tuned: a further
    transfer starts there. Delete it after tuning a transferred recipe by hand.

    >>> recipe = Recipe(batch_size=128, optimizer=Sgd(lr=0.1, momentum=0.9), budget=Epochs(50))
    >>> recipe.with_lr(0.4).optimizer.lr
    0.4
    """

    batch_size: int
    optimizer: Optimizer
    budget: Budget
    schedule: Schedule = Constant()
    ghost_batch_size: int | None = None
    max_grad_norm: float | None = None
    last_batch: LastBatch = "keep"
    loss_reduction: LossReduction = "mean"
    tuned: "Recipe | None" = None

    def __post_init__(self) -> None:
        require_types(self, "")
        _require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        if self.ghost_batch_size is not None:
            limit = f"between 2 and batch_size {self.batch_size}"
            _require(2 <= self.ghost_batch_size <= self.batch_size, "ghost_batch_size", limit, self.ghost_batch_size)
        if self.max_grad_norm is not None:
            holds = self.max_grad_norm > 0 and math.isfinite(self.max_grad_norm)
            _require(holds, "max_grad_norm", "positive and finite (leave it out for none)", self.max_grad_norm)
        _require(self.tuned is None or self.tuned.tuned is None, "tuned.tuned", "left out", "a recipe")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return msgspec.structs.replace(self, **changes)

    def with_lr(self, lr: float) -> Self:
        """A copy with another base learning rate."""
        return self.replace(optimizer=msgspec.structs.replace(self.optimizer, lr=lr))

    def as_tuned(self) -> Self:
        """The same numbers without the memory of where they came from."""
        return self.replace(tuned=None)


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


_BUDGETS = ("epochs", "steps", "examples")
_TYPES: dict[str, dict[str, type[msgspec.Struct]]] = {
    "optimizer": {"sgd": Sgd, "adamw": AdamW},
    "schedule": {
        "constant": Constant,
        "multistep": MultiStep,
        "cosine": Cosine,
        "linear": Linear,
        "piecewise_linear": PiecewiseLinear,
    },
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
    return Recipe.__struct_fields__


def _sorted_for_reading(table: dict[str, Any]) -> dict[str, Any]:
    """Plain values before tables, as TOML needs them and people read them; the tuned recipe last."""
    plain = {name: value for name, value in table.items() if not isinstance(value, dict)}
    nested = {name: value for name, value in table.items() if isinstance(value, dict) and name != "tuned"}
    tuned = {"tuned": _sorted_for_reading(table["tuned"])} if "tuned" in table else {}
    return {**plain, **nested, **tuned}


def _require(holds: bool, field: str, limit: str, value: object) -> None:
    if not holds:
        raise RequestError(f"{field} must be {limit}, got {show_value(value)}")


def _require_lr(lr: float) -> None:
    _require(lr > 0 and math.isfinite(lr), "optimizer.lr", "a positive finite number", lr)


def _require_decay(weight_decay: float) -> None:
    holds = weight_decay >= 0 and math.isfinite(weight_decay)
    _require(holds, "optimizer.weight_decay", "at least 0 and finite", weight_decay)
