"""How long training lasts at another batch size, and how long it warms up."""

import math
from collections.abc import Sequence

import msgspec

from rebatch.batching import total_steps
from rebatch.errors import RequestError
from rebatch.price import Expected
from rebatch.recipe import AdamW, Epochs, Examples, Lamb, Muon, Recipe, Steps
from rebatch.rules.move import Move
from rebatch.schedule import Constant

# A warm-up that is cut short by a larger batch keeps so many lifetimes of Adam's second moment, 1/(1 - beta2) steps.
LIFETIMES = 2.0
# However few steps there are, a warm-up takes no more of them.
LONGEST_WARMUP = 0.5


def same_epochs(recipe: Recipe, move: Move) -> Recipe:
    """Train on the same number of examples: a budget in steps shrinks by kappa, others stay as they are."""
    if not isinstance(recipe.budget, Steps):
        return recipe
    return recipe.replace(budget=Steps(max(1, round(recipe.budget.steps / move.kappa))))


def same_steps(recipe: Recipe, move: Move) -> Recipe:
    """Train for the same number of steps: regime adaptation (Hoffer et al., 2017), kappa times the examples.

    Raises:
        RequestError: the budget is not in steps and N is not known.
    """
    if isinstance(move.tuned.budget, Steps) or move.kappa == 1:
        return recipe
    if move.tuned.batch_schedule:  # whose batches all grow by kappa
        return with_examples_times(recipe, move.kappa)
    return recipe.replace(budget=Steps(total_steps(move.tuned, move.require_examples("same_steps"))))


def same_loss(recipe: Recipe, move: Move) -> Recipe:
    """Train as long as the same loss takes, by the critical batch size or the noise scale in its place (`price`).

    Raises:
        RequestError: neither is known.
    """
    if move.kappa == 1:
        return recipe
    taken = _require_expected(move)
    if isinstance(move.tuned.budget, Steps):
        return recipe.replace(budget=Steps(max(1, round(move.tuned.budget.steps * taken.steps_factor.estimate))))
    return with_examples_times(recipe, taken.examples_factor.estimate)


def with_examples_times(recipe: Recipe, factor: float) -> Recipe:
    """A budget in epochs or examples, stretched."""
    match recipe.budget:
        case Epochs(epochs=epochs):
            return recipe.replace(budget=Epochs(epochs * factor))
        case Examples(examples=examples):
            return recipe.replace(budget=Examples(max(1, round(examples * factor))))
        case Steps():
            return recipe


def same_loss_why(move: Move) -> str:
    """Of `same_loss`."""
    taken, critical = _require_expected(move), move.facts.critical_course
    assert critical is not None
    at = f"at a critical batch size of {critical[0][1].estimate:g}"
    along = at if len(critical) == 1 else f"by the noise scale in {len(critical)} windows of the run"
    return (
        f"a step is worth {1.0 / taken.steps_factor.estimate:.4g} of the old ones {along}: x "
        f"{taken.examples_factor.estimate:.4g} the examples for the same loss"
    )


def same_loss_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """A schedule that does not come down before the end, under which curves of different batch sizes cross."""
    if move.kappa == 1 or not isinstance(recipe.schedule, Constant):
        return ()
    return (
        "at a constant rate the loss stops at the noise of the batch size, and which batch is ahead may turn round",
    )


def same_warmup(recipe: Recipe, move: Move) -> Recipe:
    """Warm up over as many examples as before, but for Adam-like optimizers 2/(1 - beta2) steps at least.

    A tuned warm-up of fewer steps than that stays as long as it was, and none stays none.

    Raises:
        RequestError: budgets in different units, and N is not known.
    """
    warmup = move.tuned.schedule.warmup
    if warmup == 0.0 or move.kappa == 1:
        return recipe
    return _with_warmup(recipe, min(max(LONGEST_WARMUP, warmup), _warmup(recipe, move)))


def legw_warmup(recipe: Recipe, move: Move) -> Recipe:
    """kappa times the epochs of warm-up (LEGW; You et al., 2019, arXiv 1901.08256), made for LARS and LAMB.

    Raises:
        RequestError: the warm-up would take the whole run.
    """
    warmup = move.tuned.schedule.warmup * move.kappa / _examples_factor(recipe, move, "legw_warmup")
    if warmup >= 1.0:
        raise RequestError(
            f"legw_warmup needs a warm-up shorter than the run: {move.tuned.schedule.warmup:g} of it times kappa = "
            f"{move.kappa:g} is {warmup:.4g}; take same_warmup, or a smaller batch"
        )
    return _with_warmup(recipe, warmup)


def warmup_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """A warm-up that should be longer than the run allows, or whose least length is not known."""
    adam = isinstance(recipe.optimizer, AdamW | Lamb | Muon)
    if adam and move.kappa > 1 and move.tuned.schedule.warmup > 0 and _steps(recipe, move) is None:
        return ("without N the steps of the warm-up are not known, nor whether Adam's second moment has two lifetimes",)
    if recipe.schedule.warmup < LONGEST_WARMUP or move.tuned.schedule.warmup >= LONGEST_WARMUP:
        return ()
    return (f"the warm-up would take {LONGEST_WARMUP:.0%} of the run or more: so few steps hardly train at all",)


def _warmup(recipe: Recipe, move: Move) -> float:
    same = move.tuned.schedule.warmup / _examples_factor(recipe, move, "same_warmup")
    optimizer = recipe.optimizer
    if not isinstance(optimizer, AdamW | Lamb | Muon) or move.kappa < 1:
        return same
    steps = _steps(recipe, move), _steps(move.tuned, move)
    if steps[0] is None or steps[1] is None:
        return same
    least = min(LIFETIMES / (1.0 - optimizer.betas[1]), move.tuned.schedule.warmup * steps[1])
    return max(same, least / steps[0])


def _steps(recipe: Recipe, move: Move) -> int | None:
    """Of the whole run, where they are known."""
    if move.examples is None:
        return recipe.budget.steps if isinstance(recipe.budget, Steps) else None
    return total_steps(recipe, move.examples)


def _examples_factor(recipe: Recipe, move: Move, rule: str) -> float:
    """Examples of the run over those of the tuned one; partial batches count as whole ones between steps and epochs."""
    match move.tuned.budget, recipe.budget:
        case Epochs(epochs=old), Epochs(epochs=new):
            return new / old
        case Examples(examples=old), Examples(examples=new):
            return new / old
        case Steps(steps=old), Steps(steps=new):
            return new * move.kappa / old
    examples = move.require_examples(rule)
    return total_steps(recipe, examples) * move.kappa / total_steps(move.tuned, examples)


def _with_warmup(recipe: Recipe, warmup: float) -> Recipe:
    if math.isclose(warmup, recipe.schedule.warmup, rel_tol=1e-12):
        return recipe
    return recipe.replace(schedule=msgspec.structs.replace(recipe.schedule, warmup=warmup))


def _require_expected(move: Move) -> Expected:
    if move.facts.contrastive:
        raise RequestError(
            "same_loss has no meaning for a contrastive loss, which is another at another batch size; take same_epochs"
        )
    if move.expected is None:
        raise RequestError(
            "same_loss needs the critical batch size or the noise scale; measure one (rebatch measure "
            "critical-batch-size) and give --critical-batch-size B (in Python: facts=Facts(critical_batch_size=B)), or "
            "choose same_epochs"
        )
    return move.expected
