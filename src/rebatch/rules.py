"""The rules of transfer, each a pure function from (recipe, move) to recipe, and the table that names them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from rebatch.batching import total_steps
from rebatch.errors import RequestError
from rebatch.recipe import BIGBATCH, Defects, Epochs, Examples, Recipe, Steps


@dataclass(frozen=True)
class Move:
    """Where a transfer starts, where it goes, and the facts that are known on the way.

    `tuned` is the recipe somebody tuned, `batch_size` the new batch size, `examples` the size N of the training set.
    """

    tuned: Recipe
    batch_size: int
    examples: int | None = None

    @property
    def kappa(self) -> float:
        """New batch size over old."""
        return self.batch_size / self.tuned.batch_size

    def require_examples(self, rule: str) -> int:
        """N, or one line that says which rule needs it."""
        if self.examples is None:
            raise RequestError(
                f"{rule} needs the number of training examples; give --examples N or --task T "
                "(in Python: examples=N), or choose rules that do without"
            )
        return self.examples


@dataclass(frozen=True)
class Rule:
    """One rule of transfer: `apply` maps (recipe, move) to a recipe and changes only the fields it `sets`."""

    name: str
    sets: tuple[str, ...]
    apply: Callable[[Recipe, Move], Recipe]
    why: Callable[[Move], str]


def linear_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by kappa (Krizhevsky, 2014; Goyal et al., 2017): right while steps stay small."""
    return _scaled_lr(recipe, move.kappa, "linear_lr")


def sqrt_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by sqrt(kappa): keeps the covariance of one weight increment (Hoffer et al., 2017)."""
    return _scaled_lr(recipe, math.sqrt(move.kappa), "sqrt_lr")


def exact_sqrt_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by sqrt(kappa (N - B_old) / (N - B_new)): the covariance rule on a finite data set.

    A batch of B drawn without replacement from N has gradient covariance (N - B) / (N - 1) C / B.

    Raises:
        RequestError: N is not known, or a batch is the whole training set, whose gradient has no noise.
    """
    return _scaled_lr(recipe, _exact_sqrt_factor(move), "exact_sqrt_lr")


def sqrt_lr_from_256(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by sqrt(B_new / 256), whatever batch size it was tuned at.

    That is what the plain script released with Hoffer et al. (2017) does, and so its column +lr: x 4 for a batch of
    4,096, where `sqrt_lr` from 128 gives x 5.66. Its script with ghosts counts from the size of a ghost, as `sqrt_lr`
    with `ghost_batch` does.
    """
    return recipe if move.kappa == 1 else _scaled_lr(recipe, _factor_from_256(move), "sqrt_lr_from_256")


def ghost_batch(recipe: Recipe, move: Move) -> Recipe:
    """Normalize over ghosts of the batch size that was tuned (Hoffer et al., 2017); a ghost size already set stays."""
    if move.tuned.ghost_batch_size is not None or move.kappa <= 1:
        return recipe
    if move.tuned.batch_size < 2:
        raise RequestError(
            "ghost_batch needs a recipe tuned at batch size 2 or more, got 1: one example has no variance; leave it out"
        )
    return recipe.replace(ghost_batch_size=move.tuned.batch_size)


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
    return recipe.replace(budget=Steps(total_steps(move.tuned, move.require_examples("same_steps"))))


def stretched_epochs(recipe: Recipe, move: Move) -> Recipe:
    """Multiply the epochs by kappa, above 1 rounded up: regime adaptation as the paper's released code has it.

    Where a partial last batch is kept this is more than the same number of steps: 6 % more for batches of 4,096 of
    50,000 examples.
    """
    if move.kappa == 1:
        return recipe
    factor = _stretch(move)
    match move.tuned.budget:
        case Epochs(epochs=epochs):
            return recipe.replace(budget=Epochs(epochs * factor))
        case Examples(examples=examples):
            return recipe.replace(budget=Examples(max(1, round(examples * factor))))
        case Steps():
            return recipe


def matching_noise(recipe: Recipe, move: Move) -> Recipe:
    """Noise on examples' losses instead of a larger learning rate: sigma^2 = kappa - 1 (Hoffer et al., 2017).

    A batch of kappa B examples with factors z ~ N(1, sigma^2) has gradient covariance about (1 + sigma^2) C / (kappa B)
    = C / B, where the mean gradient is small beside the noise, and the mean stays as it was. From a recipe that has
    such noise already, 1 + sigma^2 grows by kappa; where it would fall below 1 there is nothing left to take away.
    Clip the gradient: many of the factors are negative.
    """
    if move.kappa == 1:
        return recipe
    variance = move.kappa * (1 + move.tuned.noise.multiplicative**2) - 1
    noise = msgspec.structs.replace(recipe.noise, multiplicative=math.sqrt(max(0.0, variance)))
    return recipe.replace(noise=noise)


def authors_code(recipe: Recipe, move: Move) -> Recipe:
    """Repeat what the released code of Hoffer et al. (2017) does otherwise than their paper (`recipe.BIGBATCH`)."""
    return recipe if move.kappa == 1 else recipe.replace(defects=BIGBATCH)


# The order in which rules are applied.
RULES: dict[str, Rule] = {
    "linear_lr": Rule(
        "linear_lr",
        ("optimizer.lr",),
        linear_lr,
        lambda move: f"x kappa = {move.kappa:g}: kappa small steps make one large one while they stay small",
    ),
    "sqrt_lr": Rule(
        "sqrt_lr",
        ("optimizer.lr",),
        sqrt_lr,
        lambda move: f"x sqrt(kappa) = {math.sqrt(move.kappa):.4g}: keeps the covariance of a weight increment",
    ),
    "exact_sqrt_lr": Rule(
        "exact_sqrt_lr",
        ("optimizer.lr",),
        exact_sqrt_lr,
        lambda move: f"x {_exact_sqrt_factor(move):.4g}: the same covariance, batches drawn from N without replacement",
    ),
    "sqrt_lr_from_256": Rule(
        "sqrt_lr_from_256",
        ("optimizer.lr",),
        sqrt_lr_from_256,
        lambda move: (
            f"x sqrt({move.batch_size} / 256) = {_factor_from_256(move):.4g}: from a batch of 256, whatever was tuned, "
            "as in the plain script that the paper's authors released"
        ),
    ),
    "ghost_batch": Rule(
        "ghost_batch",
        ("ghost_batch_size",),
        ghost_batch,
        lambda _: "batch norm goes on seeing the statistics of the batch size that was tuned",
    ),
    "same_epochs": Rule(
        "same_epochs",
        ("budget",),
        same_epochs,
        lambda move: f"the same examples in 1/{move.kappa:g} of the steps, up to whole steps",
    ),
    "same_steps": Rule(
        "same_steps",
        ("budget",),
        same_steps,
        lambda move: f"the same number of updates (regime adaptation): about {move.kappa:g} times the examples",
    ),
    "stretched_epochs": Rule(
        "stretched_epochs",
        ("budget",),
        stretched_epochs,
        lambda move: f"x {_stretch(move):g}: regime adaptation counted in epochs, as in the paper's released code",
    ),
    "matching_noise": Rule(
        "matching_noise",
        ("noise.multiplicative",),
        matching_noise,
        lambda _: "1 + sigma^2 grows by kappa: keeps the covariance of an increment, and its mean too",
    ),
    "authors_code": Rule(
        "authors_code",
        tuple(f"defects.{name}" for name in Defects.__struct_fields__),
        authors_code,
        lambda _: "momentum thrown away at each epoch, ghosts by number, batch norm's scale from U(0, 1)",
    ),
}

# bigbatch is the released script with ghosts, which counts learning rate and epochs from a ghost's size: sqrt_lr and
# stretched_epochs. The plain one, without ghosts, counts from 256: sqrt_lr_from_256, same_epochs, authors_code.
PRESETS: dict[str, tuple[str, ...]] = {
    "hoffer": ("sqrt_lr", "ghost_batch", "same_steps"),
    "linear": ("linear_lr", "same_epochs"),
    "bigbatch": ("sqrt_lr", "ghost_batch", "stretched_epochs", "authors_code"),
}

DEFAULT_RULES = PRESETS["linear"]


def _scaled_lr(recipe: Recipe, factor: float, rule: str) -> Recipe:
    lr = recipe.optimizer.lr * factor
    if not 0 < lr < math.inf:
        raise RequestError(
            f"{rule} gives no positive finite optimizer.lr: {recipe.optimizer.lr:g} x {factor:g} = {lr:g}; "
            "check optimizer.lr, or take a batch size nearer to the tuned one"
        )
    return recipe.with_lr(lr)


def _factor_from_256(move: Move) -> float:
    return math.sqrt(move.batch_size / 256)


def _stretch(move: Move) -> float:
    return math.ceil(move.kappa) if move.kappa > 1 else move.kappa


def _exact_sqrt_factor(move: Move) -> float:
    examples = move.require_examples("exact_sqrt_lr")
    for size in (move.tuned.batch_size, move.batch_size):
        if size >= examples:
            raise RequestError(
                f"exact_sqrt_lr needs batches smaller than the training set of {examples} examples, got {size}: "
                "the full batch has no noise to match; use sqrt_lr"
            )
    return math.sqrt(move.kappa * (examples - move.tuned.batch_size) / (examples - move.batch_size))
