"""What a run begins with: nothing, its own checkpoint, or that of another run, from which it goes on by another recipe.

A run that goes on from another has the other's place in the order of examples, its weights and the statistics of batch
norm. The optimizer's state and the average of the weights are carried over to the new batch size (`rebatch.live`), the
schedule is read at the progress of the place, by the new recipe's budget.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rebatch.batching import START, Place, place, progress, total_steps
from rebatch.errors import RequestError
from rebatch.live import carry_over
from rebatch.optimizers import build_optimizer
from rebatch.recipe import Recipe, Sgd
from rebatch.rules.move import Facts
from rebatch.schedule import Constant, Feedback, lr_factor
from rebatch.training.checkpoint import Checkpointer


@dataclass(frozen=True)
class EarlierRun:
    """A run by `recipe` from which another goes on, and the file that a `Checkpointer` kept its state in.

    `noise_scale` is that of the moment, in examples, where it is known: see `rebatch.carry_over`.
    """

    recipe: Recipe
    checkpoint: Path
    noise_scale: float | None = None


@dataclass(frozen=True)
class Beginning:
    """The place that a run was begun at, and a saved state to take up, if any.

    `before` is the recipe that led to the state where that is another run's; `noise_scale` that of the moment.
    """

    start: Place = START
    state: Mapping[str, Any] | None = None
    before: Recipe | None = None
    noise_scale: float | None = None


def beginning(
    recipe: Recipe, examples: int, seed: int, *, checkpoint: Checkpointer | None, start_from: EarlierRun | None
) -> Beginning:
    """Of a run by `recipe` on N `examples`: its own checkpoint goes before that of the run that it started from.

    Raises:
        RequestError: the earlier run has no checkpoint, was on other data or with another seed, or cannot go on so.
    """
    own = None if checkpoint is None else checkpoint.load()
    if own is not None:
        return Beginning(_start(own), own)
    if start_from is None:
        return Beginning()
    before, state = start_from.recipe, Checkpointer(start_from.checkpoint).load()
    if state is None:
        raise RequestError(f"there is no checkpoint {start_from.checkpoint} to go on from; runs write one every minute")
    for name, ours in (("seed", seed), ("examples", examples)):
        if (theirs := state.get(name, ours)) != ours:
            raise RequestError(f"the earlier run has {name} {theirs}, this one {ours}; go on with the same")
    require_continuable(before, recipe)
    at = place(state["step"], examples, before, _start(state))
    require_budget(recipe, examples, at)
    return Beginning(at, state, before, start_from.noise_scale)


def require_continuable(before: Recipe, after: Recipe) -> None:
    """The state of a run by `before` has a meaning for one by `after`.

    Raises:
        RequestError: it has none.
    """
    old, new = (each.optimizer.__struct_config__.tag for each in (before, after))
    if old != new:
        raise RequestError(f"a run by optimizer {old!r} cannot go on by {new!r}: it has another state; keep {old!r}")
    factors = [getattr(each.optimizer, "norm_bias_lr_factor", 1.0) for each in (before, after)]
    if factors[0] != factors[1]:
        raise RequestError(f"optimizer.norm_bias_lr_factor was {factors[0]:g}, got {factors[1]:g}; keep it")
    for schedule in (before.schedule, after.schedule):
        if isinstance(schedule, Feedback):
            kind = schedule.__struct_config__.tag
            raise RequestError(
                f"schedule.type {kind!r} listens to the run, and what it heard at another batch size does not count "
                "here; only runs by a schedule that is a function of progress can go on"
            )
    kinds = [each.averaging.__struct_config__.tag for each in (before, after) if each.averaging is not None]
    if len(set(kinds)) > 1:
        raise RequestError(f"averaging.type {kinds[0]!r} cannot go on as {kinds[1]!r}; keep it, or leave it out")


def require_budget(recipe: Recipe, examples: int, at: Place) -> None:
    """Something is left to do.

    Raises:
        RequestError: the recipe's budget is spent by then.
    """
    if total_steps(recipe, examples, at) <= at.step:
        raise RequestError(
            f"the earlier run has seen {at.seen:,} examples in {at.seen / examples:.4g} epochs, and the recipe's "
            f"budget of {_budget(recipe)}, which is that of the whole run, is spent by then; give it one that reaches "
            "beyond that place"
        )


def carried_state(begun: Beginning, recipe: Recipe, model: nn.Module, examples: int) -> Mapping[Tensor, Any]:
    """The optimizer's state by parameter of `model`, from which to go on by `recipe`."""
    state, before = begun.state, begun.before
    assert state is not None
    assert before is not None
    optimizer = build_optimizer(before, model)
    optimizer.load_state_dict(state["optimizer"])
    old = _at_moment(before, progress(state["step"], examples, before, _start(state)))
    new = _at_moment(recipe, progress(state["step"], examples, recipe, begun.start))
    if old != new:
        carry_over(optimizer, old, new, facts=Facts(noise_scale=begun.noise_scale), examples=examples)
    return optimizer.state


def _at_moment(recipe: Recipe, at: float) -> Recipe:
    """What of a recipe matters to the optimizer's state: the batch size and the rate of the moment."""
    factor = lr_factor(recipe.schedule, at)
    in_buffer = isinstance(recipe.optimizer, Sgd) and recipe.optimizer.lr_in_buffer and factor > 0
    return Recipe(
        batch_size=recipe.batch_size_at(at),
        optimizer=recipe.with_lr(recipe.optimizer.lr * factor).optimizer if in_buffer else recipe.optimizer,
        budget=recipe.budget,
        schedule=Constant(),
        loss_reduction=recipe.loss_reduction,
    )


def _start(state: Mapping[str, Any]) -> Place:
    return Place(*state.get("start", START))


def _budget(recipe: Recipe) -> str:
    tag = recipe.budget.__struct_config__.tag
    assert isinstance(tag, str)
    return f"{getattr(recipe.budget, tag):g} {tag}"
