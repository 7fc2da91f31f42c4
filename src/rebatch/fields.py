"""Every field of a struct has the type that it declares, from a file and from Python alike; what a wrong one says."""

from datetime import date, time
from functools import cache
from typing import Any, get_args

import msgspec

from rebatch.errors import RequestError

_CHOICES = {
    "last_batch": "'keep' or 'drop'",
    "loss_reduction": "'mean' or 'sum'",
    "betas": "two numbers",
    "clip_mode": "'clip' or 'normalize'",
    "ghost_running": "'sequential', 'mean', 'scaled' or 'printed'",
    "ghost_split": "'size' or 'chunks'",
    "batch_norm_scale": "'ones' or 'uniform'",
    "metric": "'validation_loss', 'validation_accuracy' or 'train_loss'",
    "noise_scale": "a number or an Interval (leave it out if it is unknown)",
    "critical_batch_size": "a number or an Interval (leave it out if it is unknown)",
}
_KINDS = {"float": "a number", "int": "a whole number", "str": "a text", "bool": "true or false"}
_KINDS |= {"object": "a table", "array": "a list"}

# Plain data in a message: so many characters at most.
SHOWN = 80


def require_types(struct: msgspec.Struct, path: str) -> None:
    """Give each field the type it declares: an int becomes a float, a list a tuple, numpy's numbers Python's.

    Raises:
        RequestError: one line that names the field, which is part of `path`, its type and its value.
    """
    for name, kind in _declared(type(struct)):
        msgspec.structs.force_setattr(struct, name, typed(getattr(struct, name), kind, join(path, name)))


def typed(value: Any, kind: Any, path: str) -> Any:
    """`value` as `kind`, or one line that names it by `path`."""
    value = _builtin(value)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, RequestError):
            raise error.__cause__ from None
        if "Expected `object" in str(error):
            names = " or ".join(each.__name__ for each in get_args(kind) or (kind,)).replace("NoneType", "None")
            raise RequestError(f"{path} must be {names}, got {show_value(value)}") from None
        message, _, inner = str(error).partition(" - at `$")
        inner = inner.rstrip("`")
        raise RequestError(mismatch(message, path + inner, value_at(inner, value))) from None


def require_choice(name: str, value: object, choices: Any) -> None:
    """`value` is one of those that the type `choices`, a `Literal`, names.

    Raises:
        RequestError: it is none of them.

    >>> from typing import Literal
    >>> require_choice("norm", "euclidean", Literal["euclidean", "adam"])
    """
    known = get_args(choices)
    if value not in known:
        raise RequestError(f"{name} must be {' or '.join(map(repr, known))}, got {show_value(value)}")


def mismatch(message: str, path: str, value: object) -> str:
    """msgspec's complaint about a type, in our words."""
    kind = message.partition("`")[2].partition("`")[0].removesuffix(" | null")
    two = "two numbers" if "of length 2" in message else None
    limit = _CHOICES.get(path.split(".")[-1]) or two or _KINDS.get(kind)
    return f"{path} must be {limit}, got {show_value(value)}" if limit else f"{path}: {message}"


def value_at(path: str, value: Any) -> Any:
    """What lies at `path`, such as `optimizer.betas[0]`, in nested tables and lists."""
    for name in filter(None, path.replace("[", ".").replace("]", "").split(".")):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list | tuple) and name.isdigit():
            value = value[int(name)]
    return value


def show_value(value: object) -> str:
    """A value as a recipe file spells it.

    >>> show_value([True, 0.1]), show_value("x")
    ('[true, 0.1]', "'x'")
    """
    if isinstance(value, bool | date | time):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {show_value(inner)}' for name, inner in value.items())}}}"
    return repr(value)


def show_given(value: object) -> str:
    """What was given in place of an object: short plain data as it is, all else by the name of its class.

    >>> show_given({"noise_scale": 700}), show_given(str), show_given(object())
    ('{noise_scale = 700}', 'the class str', 'object')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    plain = value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
    shown = show_value(value) if plain else ""
    return shown if 0 < len(shown) <= SHOWN else type(value).__name__


def join(path: str, name: str) -> str:
    """The path of a field: `optimizer`, `lr` -> `optimizer.lr`."""
    return f"{path}.{name}" if path else name


@cache
def _declared(kind: type[msgspec.Struct]) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in msgspec.structs.fields(kind)]


def _builtin(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's."""
    if isinstance(value, list | tuple):
        return [_builtin(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
