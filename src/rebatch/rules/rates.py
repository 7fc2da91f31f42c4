"""Learning rates at another batch size.

The best rate rises with the batch size and then bends flat. Where it bends belongs to the run: for SGD at the noise
scale, for AdamW at a knee of its own. Linear and square root are what is left of the curve below it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import msgspec

from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.knee import Knee, Known, rate_interval
from rebatch.recipe import Adagrad, AdamW, Lamb, Lars, Lion, Muon, Optimizer, Recipe, RmsProp, Sgd
from rebatch.rules.move import SELDOM_MOVED, Move

# Without a measurement a rule of thumb is trusted so far: beyond, most tasks lie above their knee (Goyal et al., 2017,
# needed a long warm-up, and from 8,192 on lost accuracy). Downward it is only doubted: there the rate comes out too
# low, and what that costs does not grow with the distance (`docs/choosing-a-rule.md`).
SAFE_KAPPA = 8


def linear_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by kappa (Krizhevsky, 2014; Goyal et al., 2017): right while steps stay small."""
    return scaled_lr(recipe, move.kappa, "linear_lr")


def sqrt_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by sqrt(kappa): keeps the covariance of one weight increment (Hoffer et al., 2017)."""
    return scaled_lr(recipe, math.sqrt(move.kappa), "sqrt_lr")


def exact_sqrt_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by sqrt(kappa (N - B_old) / (N - B_new)): the covariance rule on a finite data set.

    A batch of B drawn without replacement from N has gradient covariance (N - B) / (N - 1) C / B.

    Raises:
        RequestError: N is not known, or a batch is the whole training set, whose gradient has no noise.
    """
    return scaled_lr(recipe, exact_sqrt_factor(move), "exact_sqrt_lr")


def gain_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by (1 + B_n/B) / (1 + B_n/B'), the gain of AdaScale (Johnson et al., 2020).

    Linear far below the noise scale B_n, constant far above: the best rate of SGD on a quadratic, lr_max/(1 + B_n/B).

    Raises:
        RequestError: the noise scale is not known.
    """
    return scaled_lr(recipe, move.gain(move.require_noise_scale("gain_lr")), "gain_lr")


def knee_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate along a given knee (`rebatch.knee`), from a sweep or a law.

    Raises:
        RequestError: the knee is not known.
    """
    return scaled_lr(recipe, _require_knee(move).factor(move.tuned.batch_size, move.batch_size), "knee_lr")


def default_lr(recipe: Recipe, move: Move) -> Recipe:
    """Scale the learning rate by what is known best of the optimizer, see `default_curve`.

    Of Muon's two parts each follows its own curve.

    Raises:
        RequestError: nothing is known of the run, and kappa is beyond `SAFE_KAPPA`.
    """
    factor = default_curve(move).factor
    moved = scaled_lr(recipe, factor, "default_lr")
    tuned = move.tuned.optimizer
    if not isinstance(tuned, Muon):
        return moved
    own = tuned.adamw_lr_factor * adamw_part(move).factor / factor
    return moved.replace(optimizer=msgspec.structs.replace(moved.optimizer, adamw_lr_factor=own))


@dataclass(frozen=True)
class Curve:
    """The factor on the learning rate, what gives it, the doubt about it, and how its knee is known, if it has one."""

    factor: float
    why: str
    doubt: str = ""
    known: Known | None = None


def default_curve(move: Move) -> Curve:
    """The default for the recipe's optimizer and the facts at hand.

    A given knee goes first, see `own_knee`. SGD: the gain at the noise scale, else linear. Other optimizers: half the
    noise scale in place of the knee, else the square root.
    """
    noise, sgd = move.facts.noise, isinstance(move.tuned.optimizer, Sgd)
    knee = None if move.facts.knee is None else own_knee(move.facts.knee, move.facts.knee_from, move.tuned.optimizer)
    if knee is not None:
        return Curve(
            knee.factor(move.tuned.batch_size, move.batch_size), _why_of(knee, move), known=move.facts.knee_from
        )
    if noise is not None and sgd:
        return Curve(move.gain(noise.estimate), gain_why(move))
    if noise is not None:
        assumed = Knee(batch_size=noise.estimate / 2, exponent=ADAM_EXPONENT)
        guessed = own_knee(assumed, "unknown", move.tuned.optimizer)
        return Curve(
            guessed.factor(move.tuned.batch_size, move.batch_size),
            f"the curve of Adam-like optimizers with its knee at half the noise scale, {guessed.batch_size:g}",
            "that the knee of an Adam-like optimizer lies at half the noise scale did not hold on two small nets: a "
            "sweep over four batch sizes would show where it is (--from-sweep)",
            "unknown",
        )
    if move.kappa > SAFE_KAPPA:
        name = "linear" if sgd else "square-root"
        published = "legw" if isinstance(move.tuned.optimizer, Lars | Lamb) else "sqrt_lr,same_epochs"
        raise RequestError(
            f"default_lr knows nothing of this run, and kappa is {move.kappa:g}: beyond {SAFE_KAPPA} the {name} rule "
            f"fails on many; give {'--noise-scale' if sgd else '--from-sweep, --knee or --noise-scale'}, or take it "
            f"all the same with --rules {'linear' if sgd else published}"
        )
    if sgd:
        doubt = "the linear rule holds below the noise scale, which is not given"
        return Curve(move.kappa, linear_why(move), doubt, "unknown")
    return Curve(
        math.sqrt(move.kappa),
        f"x sqrt(kappa) = {math.sqrt(move.kappa):.4g}: right for Adam-like optimizers while noise dominates",
        "the square root holds below a knee that is not given, and with weight decay that moves with the rate",
        "unknown",
    )


# Of AdamW, below a knee of unknown place; in 17 language models .85 fits best (`docs/choosing-a-rule.md`).
ADAM_EXPONENT = 0.75
# Of steps whose length does not depend on the gradient's (a sign, a trust ratio, Muon's matrices): the square root.
SIGN_EXPONENT = 0.5


def own_knee(knee: Knee, known: Known, optimizer: Optimizer) -> Knee:
    """The curve for `optimizer`, where `knee` was given for AdamW (a law, a number, a guess); a sweep's is its own.

    Lion, LARS and LAMB: the square root below AdamW's knee, then flat. Muon: so too, with a smooth bend.
    """
    match optimizer:
        case Sgd() | AdamW() | RmsProp() | Adagrad():
            return knee
        case Lion() | Lars() | Lamb():
            return knee if known == "sweep" else msgspec.structs.replace(knee, exponent=SIGN_EXPONENT)
        case Muon():
            return knee if known == "sweep" else msgspec.structs.replace(knee, exponent=SIGN_EXPONENT, bend=1.0)
        case _:
            assert_never(optimizer)


def adamw_part(move: Move) -> Curve:
    """Of Muon: the curve of the weights that AdamW moves."""
    as_adamw = move.tuned.replace(optimizer=AdamW(lr=move.tuned.optimizer.lr))
    return default_curve(Move(as_adamw, move.batch_size, move.examples, move.facts))


def knee_bounds(recipe: Recipe, move: Move) -> Interval:
    """Of `knee_lr`, by how such rates were off where it was tried."""
    return rate_interval(recipe.optimizer.lr, move.kappa, move.facts.knee_from)


def linear_bounds(recipe: Recipe, move: Move) -> Interval | None:
    """Of `linear_lr`, for SGD: by how such rates were off."""
    return _unknown(recipe, move) if isinstance(recipe.optimizer, Sgd) else None


def sqrt_bounds(recipe: Recipe, move: Move) -> Interval | None:
    """Of `sqrt_lr`, for AdamW."""
    return _unknown(recipe, move) if isinstance(recipe.optimizer, AdamW) else None


def _unknown(recipe: Recipe, move: Move) -> Interval:
    return rate_interval(recipe.optimizer.lr, move.kappa, "unknown")


def gain_bounds(recipe: Recipe, move: Move) -> Interval | None:
    """Of `gain_lr`, for SGD: how such rates were off, and in quadrature the noise scale's own bounds."""
    noise = move.facts.noise
    if noise is None or not isinstance(recipe.optimizer, Sgd):
        return None
    tried = _unknown(recipe, move)
    moves = [_log(move.gain(end) / move.gain(noise.estimate)) for end in (noise.low, noise.high)]
    down = math.hypot(math.log(tried.low / tried.estimate), min(moves))
    up = math.hypot(math.log(tried.high / tried.estimate), max(moves))
    return Interval(tried.estimate, tried.estimate * math.exp(-down), tried.estimate * math.exp(up))


def _log(value: float) -> float:
    return math.log(value) if value > 0.0 else -math.inf


def default_bounds(recipe: Recipe, move: Move) -> Interval | None:
    """Of `default_lr`."""
    known = default_curve(move).known
    if known is None:
        return gain_bounds(recipe, move)
    return rate_interval(recipe.optimizer.lr, move.kappa, known)


def linear_why(move: Move) -> str:
    """Of `linear_lr`."""
    return f"x kappa = {move.kappa:g}: kappa small steps make one large one while they stay small"


def gain_why(move: Move) -> str:
    """Of `gain_lr`."""
    noise = move.require_noise_scale("gain_lr")
    return (
        f"x {move.gain(noise):.4g} of kappa = {move.kappa:g}: the gain at a noise scale of {noise:g}, linear far below "
        "it and flat far above"
    )


def knee_why(move: Move) -> str:
    """Of `knee_lr`."""
    return _why_of(_require_knee(move), move)


def linear_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """A large kappa, and an optimizer that the rule was not made for."""
    found = []
    if move.kappa > SAFE_KAPPA:
        found.append(
            f"kappa is {move.kappa:g}: beyond {SAFE_KAPPA} the linear rule often loses accuracy or diverges; "
            "add a warm-up, or compare with --rules hoffer"
        )
    if isinstance(move.tuned.optimizer, AdamW | RmsProp | Lion | Lamb | Muon):
        found.append("linear_lr was derived for SGD; for Adam-like optimizers the square root (sqrt_lr) is the better")
    if isinstance(move.tuned.optimizer, Sgd):
        found += far_down_doubts(move)
    return [*found, *edge_doubts(recipe, move), *seldom_doubts(recipe, move)]


def sqrt_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """An optimizer that the rule is not for."""
    if isinstance(move.tuned.optimizer, AdamW):
        return far_down_doubts(move)
    if not isinstance(move.tuned.optimizer, Sgd):
        return seldom_doubts(recipe, move)
    return (
        "the square root matches the noise of one step, not the path: later work finds SGD's best rate linear in the "
        "batch size, then flat (docs/choosing-a-rule.md)",
        *edge_doubts(recipe, move),
    )


def default_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """What the default leans on, and the edge of stability where the curvature is known."""
    doubt = default_curve(move).doubt
    far = far_down_doubts(move) if isinstance(move.tuned.optimizer, Sgd | AdamW) else ()
    return [*([doubt] if doubt else []), *far, *edge_doubts(recipe, move), *seldom_doubts(recipe, move)]


def far_down_doubts(move: Move) -> Sequence[str]:
    """A much smaller batch by a rule of thumb: linear for SGD, the square root for AdamW."""
    facts = move.facts
    if move.kappa * SAFE_KAPPA >= 1.0 or facts.noise is not None or facts.knee is not None:
        return ()
    name = "linear" if isinstance(move.tuned.optimizer, Sgd) else "square-root"
    return (
        f"kappa is {move.kappa:g}: below 1/{SAFE_KAPPA} the {name} rule gave half to two thirds of the best rate where "
        "it was tried, which is slow but breaks nothing: try twice the rate",
    )


def gain_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """An optimizer that the gain was not made for, and the edge of stability."""
    sgd = isinstance(move.tuned.optimizer, Sgd)
    foreign = [] if sgd else [f"the gain was derived for SGD, and optimizer.type is {_kind(move)!r}: --rules default"]
    return [*foreign, *edge_doubts(recipe, move)]


def knee_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """The edge of stability, and an optimizer that few have moved."""
    return [*edge_doubts(recipe, move), *seldom_doubts(recipe, move)]


def _kind(move: Move) -> str:
    return str(move.tuned.optimizer.__struct_config__.tag)


def seldom_doubts(_: Recipe, move: Move) -> Sequence[str]:
    """An optimizer that few have moved between batch sizes."""
    optimizer = move.tuned.optimizer
    if not isinstance(optimizer, SELDOM_MOVED):
        return ()
    doubt = f"how to move {_kind(move)!r} between batch sizes rests on weak evidence"
    if isinstance(optimizer, Lars | Lamb):
        doubt += (
            " (--rules legw is its authors' own); tuned SGD with Nesterov momentum and tuned AdamW match it "
            "(Nado et al. 2021)"
        )
    return (doubt,)


def edge_doubts(recipe: Recipe, move: Move) -> Sequence[str]:
    """A rate beyond what the measured curvature lets stand."""
    from rebatch.stability import stable_lr  # loads numpy, which a transfer seldom needs

    top, optimizer = move.facts.top_eigenvalue, recipe.optimizer
    if top is None:
        return ()
    if not isinstance(optimizer, Sgd):
        return (f"the top eigenvalue is not used: it bounds SGD's rate, and optimizer.type is {_kind(move)!r}",)
    edge = stable_lr(top, optimizer.momentum, nesterov=optimizer.nesterov)
    # The eigenvalue is that of the mean loss; a summed gradient is as many times larger.
    lr = optimizer.lr * (max(recipe.batch_sizes) if recipe.loss_reduction == "sum" else 1)
    if lr <= edge:
        return ()
    return (
        f"optimizer.lr {lr:.4g} is beyond the edge of stability at a top eigenvalue of {top:g}, {edge:.4g}: "
        "a warm-up gives the curvature time to fall, or take a smaller batch",
    )


def scaled_lr(recipe: Recipe, factor: float, rule: str) -> Recipe:
    """The learning rate times `factor`, for the rule of that name."""
    lr = recipe.optimizer.lr * factor
    if not 0 < lr < math.inf:
        raise RequestError(
            f"{rule} gives no positive finite optimizer.lr: {recipe.optimizer.lr:g} x {factor:g} = {lr:g}; "
            "check optimizer.lr, or take a batch size nearer to the tuned one"
        )
    return recipe.with_lr(lr)


def exact_sqrt_factor(move: Move) -> float:
    """Of `exact_sqrt_lr`."""
    examples = move.require_examples("exact_sqrt_lr")
    for size in (move.tuned.batch_size, move.batch_size):
        if size >= examples:
            raise RequestError(
                f"exact_sqrt_lr needs batches smaller than the training set of {examples} examples, got {size}: "
                "the full batch has no noise to match; use sqrt_lr"
            )
    return math.sqrt(move.kappa * (examples - move.tuned.batch_size) / (examples - move.batch_size))


def _require_knee(move: Move) -> Knee:
    if move.facts.knee is None:
        raise RequestError(
            "knee_lr needs the knee of this run; give --from-sweep RUNS.csv, --knee K, or --tokens D for a language "
            "model (in Python: facts=Facts(knee=...)), or choose rules that do without"
        )
    return move.facts.knee


def _why_of(knee: Knee, move: Move) -> str:
    factor = knee.factor(move.tuned.batch_size, move.batch_size)
    return (
        f"x {factor:.4g}: the best rate grows as the batch size to the power {knee.exponent:g} and bends flat at a "
        f"knee of {knee.batch_size:g}"
    )
