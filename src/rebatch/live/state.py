"""The state of a live torch optimizer, carried over to another batch size in the middle of a run."""

from typing import Any

import torch

from rebatch.errors import RequestError
from rebatch.live.numbers import require_same_optimizer
from rebatch.optimizers import require_optimizer
from rebatch.recipe import Recipe
from rebatch.rules.move import Facts
from rebatch.rules.state import Carry, carried

# What a state holds per weight, and which factor of `Carry` moves it. A momentum buffer has that of the weight's shape,
# moments with a counter are moved by `Carry.counted`.
_FACTORS = {"square_avg": "square", "sum": "square", "exp_avg": "mean", "exp_avg_sq": "square"}
# What LAMB writes down for others to look at.
_SHOWN = {"weight_norm", "adam_norm", "trust_ratio"}
_KNOWN = _FACTORS.keys() | _SHOWN | {"momentum_buffer", "step"}


@torch.no_grad()
def carry_over(
    optimizer: torch.optim.Optimizer,
    before: Recipe,
    after: Recipe,
    *,
    facts: Facts | None = None,
    examples: int | None = None,
) -> Carry:
    """Make the state of `optimizer`, trained by `before` so far, the one from which to go on by `after`; in place.

    Factors and their derivation are in `rebatch.rules.state`: momentum stays for an averaged loss, squares of the
    gradient shrink with its noise, and Adam's counter of steps moves so that its bias correction stays right. The
    numbers themselves are set by `apply_recipe`, before or after. An optimizer without a state has nothing to carry.

    Args:
        facts: with the noise scale at this moment of the run; without it noise is taken to dominate.
        examples: size of the training set, where a batch is a good part of it.

    Returns:
        The factors, and what they take for granted.

    Raises:
        RequestError: another optimizer than the recipes', or a state that nobody knows how to carry.
    """
    require_optimizer(optimizer)
    carry = carried(before, after, facts=facts, examples=examples)
    require_same_optimizer(before.optimizer, optimizer)
    for state in optimizer.state.values():
        if unknown := state.keys() - _KNOWN:
            raise RequestError(f"nobody knows how to carry {min(unknown)!r} over; start the optimizer without a state")
    for state in optimizer.state.values():
        _carry(state, carry)
    return carry


def _carry(state: dict[str, Any], carry: Carry) -> None:
    buffer = state.get("momentum_buffer")
    if buffer is not None:
        buffer.mul_(carry.buffer if buffer.dim() > 1 else carry.vector_buffer)
    if "exp_avg" in state and "step" in state:
        counted = carry.counted(float(state["step"]))
        state["exp_avg"].mul_(counted.mean)
        state["exp_avg_sq"].mul_(counted.square)
        state["step"].fill_(counted.step)
        return
    for name, factor in _FACTORS.items():
        if name in state:
            state[name].mul_(getattr(carry, factor))
