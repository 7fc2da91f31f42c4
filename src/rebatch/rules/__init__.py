"""The rules of transfer, each a pure function from (recipe, move) to recipe, and the table that names them."""

import math

from rebatch.recipe import Defects
from rebatch.rules.hoffer import (
    authors_code,
    factor_from_256,
    matching_noise,
    sqrt_lr_from_256,
    stretch,
    stretched_epochs,
)
from rebatch.rules.lengths import same_epochs, same_steps
from rebatch.rules.move import Move, Rule
from rebatch.rules.norms import ghost_batch
from rebatch.rules.rates import exact_sqrt_factor, exact_sqrt_lr, linear_lr, sqrt_lr

__all__ = ["DEFAULT_RULES", "PRESETS", "RULES", "Move", "Rule"]

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
        lambda move: f"x {exact_sqrt_factor(move):.4g}: the same covariance, batches drawn from N without replacement",
    ),
    "sqrt_lr_from_256": Rule(
        "sqrt_lr_from_256",
        ("optimizer.lr",),
        sqrt_lr_from_256,
        lambda move: (
            f"x sqrt({move.batch_size} / 256) = {factor_from_256(move):.4g}: from a batch of 256, whatever was tuned, "
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
        lambda move: f"x {stretch(move):g}: regime adaptation counted in epochs, as in the paper's released code",
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
