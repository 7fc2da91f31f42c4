"""The numbers of a torch optimizer as those of a recipe, and back into its parameter groups.

A recipe has one rate and one weight decay; groups may have several. The rate of a recipe is that of the largest group,
its weight decay that of the largest group that has any, and the others keep their ratio to them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rebatch.errors import RequestError
from rebatch.optimizers import LR_FACTOR, PageSgd
from rebatch.recipe import Adagrad, AdamW, Lamb, Lars, Lion, Muon, Optimizer, RmsProp, Sgd

Group = dict[str, Any]
Kind = type[Sgd] | type[AdamW] | type[RmsProp] | type[Adagrad]

KINDS: dict[type[torch.optim.Optimizer], Kind] = {
    torch.optim.SGD: Sgd,
    PageSgd: Sgd,
    torch.optim.Adam: AdamW,
    torch.optim.AdamW: AdamW,
    torch.optim.RMSprop: RmsProp,
    torch.optim.Adagrad: Adagrad,
}

# What `build_optimizer` makes besides, by package and name: known, and not read.
BUILT: dict[tuple[str, str], type[Optimizer]] = {
    ("pytorch_optimizer", "Lion"): Lion,
    ("pytorch_optimizer", "LARS"): Lars,
    ("pytorch_optimizer", "Lamb"): Lamb,
    ("rebatch", "MuonAdamW"): Muon,
}

# What all groups share, by torch's names, which are the recipe's.
SHARED: dict[Kind, tuple[str, ...]] = {
    Sgd: ("momentum", "nesterov"),
    AdamW: ("betas", "eps"),
    RmsProp: ("alpha", "eps", "momentum"),
    Adagrad: ("eps",),
}

# Options that no recipe holds, at the only value that is read. Others (foreach, fused, capturable) change no number.
OPTIONS: dict[str, object] = {
    "amsgrad": False,
    "centered": False,
    "dampening": 0,
    "differentiable": False,
    "initial_accumulator_value": 0,
    "lr_decay": 0,
    "maximize": False,
}


def kind_of(optimizer: torch.optim.Optimizer) -> Kind:
    """The recipe's optimizer for one of torch's.

    Raises:
        RequestError: there is none, or an option that no recipe holds is set.
    """
    kind = KINDS.get(type(optimizer))
    if kind is None:
        raise RequestError(
            f"a recipe holds SGD, Adam, AdamW, RMSprop and Adagrad of torch.optim, got {type(optimizer).__name__}; "
            "write its recipe by hand for the nearest of them, or take one of them"
        )
    for name, value in OPTIONS.items():
        for group in optimizer.param_groups:
            if group.get(name, value) != value:
                raise RequestError(
                    f"a recipe cannot hold {name}={group[name]!r} of {type(optimizer).__name__}; unset it"
                )
    return kind


def read_numbers(optimizer: torch.optim.Optimizer) -> Optimizer:
    """The recipe's numbers, rates as before any schedule.

    Raises:
        RequestError: an optimizer that no recipe holds; groups that differ in more than rate and weight decay.
    """
    kind, groups = kind_of(optimizer), optimizer.param_groups
    if couples_decay_to_adam(optimizer) and any(group["weight_decay"] for group in groups):
        raise RequestError(
            f"Adam with coupled weight_decay={decay_group(groups)['weight_decay']:g} divides the decay by the "
            "gradient's size, and no rule moves that; use torch.optim.AdamW, or weight_decay=0"
        )
    numbers: dict[str, Any] = {name: _shared(groups, name) for name in SHARED[kind]}
    numbers |= {"lr": base_lr(base_group(groups)), "weight_decay": float(decay_group(groups)["weight_decay"])}
    if kind is Sgd:
        numbers["lr_in_buffer"] = isinstance(optimizer, PageSgd)
        numbers["norm_bias_lr_factor"] = _norm_bias_factor(groups)
    return kind(**numbers)


def write_numbers(numbers: Optimizer, optimizer: torch.optim.Optimizer) -> None:
    """Set the numbers in all groups, in place; each keeps its ratio to the base.

    Raises:
        RequestError: numbers of another optimizer, or ones that its groups cannot have.
    """
    old, groups = read_numbers(optimizer), optimizer.param_groups
    require_same_optimizer(numbers, optimizer)
    if numbers.weight_decay > 0 and couples_decay_to_adam(optimizer):
        raise RequestError("Adam would couple optimizer.weight_decay to its divisor; use torch.optim.AdamW")
    if numbers.weight_decay > 0 and old.weight_decay == 0 and len(groups) > 1:
        raise RequestError(
            f"optimizer.weight_decay is {numbers.weight_decay:g}, and none of {len(groups)} groups has any to keep its "
            "ratio; set weight_decay on the groups that shall decay first"
        )
    for group in groups:
        for name in {"lr", "initial_lr"} & group.keys():
            _set(group, name, scaled(float(group[name]), old.lr, numbers.lr))
        _set(group, "weight_decay", scaled(float(group["weight_decay"]), old.weight_decay, numbers.weight_decay))
        for name in SHARED[kind_of(optimizer)]:
            _set(group, name, getattr(numbers, name))


def require_same_optimizer(numbers: Optimizer, optimizer: torch.optim.Optimizer) -> None:
    """Numbers and optimizer are of one kind, and fill their state alike.

    Raises:
        RequestError: they are not.
    """
    name = type(optimizer).__name__
    ours = BUILT.get((type(optimizer).__module__.partition(".")[0], name))
    if type(numbers) is not (ours or kind_of(optimizer)):
        tag = numbers.__struct_config__.tag
        raise RequestError(f"optimizer.type is {tag!r}, and the optimizer is {name}; read its own recipe (recipe_of)")
    if ours is not None:
        return
    if isinstance(numbers, Sgd) and numbers.lr_in_buffer != isinstance(optimizer, PageSgd):
        raise RequestError(
            f"optimizer.lr_in_buffer is {numbers.lr_in_buffer}, and the optimizer is {name}; use build_optimizer"
        )
    factor = getattr(numbers, "norm_bias_lr_factor", 1.0)
    if factor != (built := _norm_bias_factor(optimizer.param_groups)):
        raise RequestError(
            f"optimizer.norm_bias_lr_factor is {factor:g}, and the optimizer was built with {built:g}; use "
            "build_optimizer"
        )


def base_group(groups: Sequence[Group]) -> Group:
    """The largest group, the first of equals."""
    return max((group for group in groups if LR_FACTOR not in group), key=_size)


def decay_group(groups: Sequence[Group]) -> Group:
    """The largest group that decays; the base where none does."""
    decaying = [group for group in groups if group["weight_decay"] and LR_FACTOR not in group]
    return base_group(decaying or groups)


def base_lr(group: Group) -> float:
    """The rate before any schedule."""
    return float(group["initial_lr"] if "initial_lr" in group else group["lr"])


def scaled(value: float, old: float, new: float) -> float:
    """`value` at the same ratio to `new` as to `old`; `new` itself, bit for bit, where it was `old`."""
    return new if value == old else value * (new / old)


def couples_decay_to_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is Adam proper, whose weight decay, if any, is part of the gradient."""
    groups = optimizer.param_groups
    return type(optimizer) is torch.optim.Adam and not all(group.get("decoupled_weight_decay") for group in groups)


def _norm_bias_factor(groups: Sequence[Group]) -> float:
    return next((float(group[LR_FACTOR]) for group in groups if LR_FACTOR in group), 1.0)


def _size(group: Group) -> int:
    return sum(parameter.numel() for parameter in group["params"])


def _shared(groups: Sequence[Group], name: str) -> bool | float | tuple[float, ...]:
    values = [_plain(group[name]) for group in groups]
    if any(value != values[0] for value in values):
        shown = ", ".join(f"{value}" for value in dict.fromkeys(values))
        raise RequestError(
            f"groups may differ in lr and weight_decay alone, got {name} {shown}; give all groups one {name}, or read "
            "an optimizer of each"
        )
    return values[0]


def _plain(value: Any) -> bool | float | tuple[float, ...]:
    if isinstance(value, bool):
        return value
    return tuple(float(each) for each in value) if isinstance(value, tuple | list) else float(value)


def _set(group: Group, name: str, value: object) -> None:
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value
