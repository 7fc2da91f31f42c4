"""How far from the best does a rule carry a tuned learning rate, and what does that cost? Over the pairs of a sweep.

The rate tuned at one batch size (the parabola of `rebatch.sweeps`) is carried to another, at least twice as large or
small, and compared with the best one there. Its regret is the mean validation loss at that rate, linear in ln lr
between the rates tried and held beyond them, above the lowest; a run that diverged, or does worse than a guess,
counts as a guess. Batch sizes whose best rate is an end of the rates tried count for no pair.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.knee_fit import SHAPES, KneeFit, fit_knee, predict
from rebatch.recipe import Recipe, Sgd
from rebatch.rules.move import Facts, Move
from rebatch.rules.table import RULES
from rebatch.sweeps import BestRate, Run, Sweep, best_rates

Array = NDArray[np.float64]

# A carried rate is near the best one within this factor.
NEAR = 1.5
# Batch sizes of a pair lie at least so far apart.
LEAST_KAPPA = 2.0
# The noise scale is kept in so many parts of a run; late in it: the second half.
TENTHS = 10
LATE = range(TENTHS // 2, TENTHS)
# Where |G|^2 cannot be told from 0 the noise scale lies far above every batch size.
UNRESOLVED = 1e9

# By the name in tables: the rule of `rebatch.rules`, None for a rate that stays; "sweep" is `default_lr` given the knee
# of the sweep without the new batch size, all others are given the noise scale.
CARRIED: Mapping[str, str | None] = {
    "constant": None,
    "sqrt": "sqrt_lr",
    "linear": "linear_lr",
    "gain": "gain_lr",
    "default": "default_lr",
    "sweep": "default_lr",
}
SIMPLE = ("constant", "sqrt", "linear")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: its last validation loss, tr(Sigma) and |G|^2 of each tenth, and the loss of a guess."""

    batch_size: int
    lr: float
    loss: float
    traces: tuple[float, ...]
    squares: tuple[float, ...]
    chance_loss: float


@dataclass(frozen=True)
class Curve:
    """The mean losses of one batch size over rising ln lr, its tuned rate, and the noise scale of late in its run."""

    log_lr: Array
    losses: Array
    best: BestRate
    noise_scale: float

    def regret(self, lr: float) -> float:
        """The loss at a rate above the lowest, in nats."""
        return float(np.interp(math.log(lr), self.log_lr, self.losses) - self.losses.min())

    def is_beyond(self, lr: float) -> bool:
        """Whether a rate lies beyond those tried, where the loss is held."""
        return not self.log_lr[0] <= math.log(lr) <= self.log_lr[-1]


@dataclass(frozen=True)
class Landing:
    """Where a rule takes the rate tuned at `old` to at `new`; `relative` is the regret over the lowest loss there.

    `bounds` are those of 90 % that the rule gives the best rate, None where it gives none.
    """

    rule: str
    old: int
    new: int
    lr: float
    best_lr: float
    regret: float
    relative: float
    beyond: bool
    bounds: Interval | None

    @property
    def covered(self) -> bool | None:
        """Whether the best rate lies within the bounds; None without bounds."""
        return None if self.bounds is None else self.bounds.low <= self.best_lr <= self.bounds.high

    @property
    def near(self) -> bool:
        """Whether it lies within a factor `NEAR` of the best."""
        return abs(math.log(self.lr / self.best_lr)) <= math.log(NEAR)


def curves(trials: Sequence[Trial], tenths: Iterable[int] = LATE, *, highest: float = math.inf) -> dict[int, Curve]:
    """Of every batch size whose best rate lies inside the rates tried; none where there is no valley to read.

    `tenths` of a run say where its noise scale is taken from. Rates whose loss is over `highest` times the lowest, and
    all beyond them, are not read for the best rate, the lowest's two neighbors excepted.
    """
    tenths = list(tenths)
    try:
        found = best_rates(_sweep(trials, highest))
    except RequestError:
        return {}
    inside = {int(best.batch_size): best for best in found if best.edge is None}
    return {
        size: _curve([trial for trial in trials if trial.batch_size == size], inside[size], tenths) for size in inside
    }


def landings(
    trials: Sequence[Trial],
    recipe: Recipe,
    examples: int,
    tenths: Iterable[int] = LATE,
    *,
    highest: float = math.inf,
) -> list[Landing]:
    """Every rule over every ordered pair of batch sizes; `recipe` gives the optimizer, `examples` the training set.

    `tenths` and `highest` are those of `curves`.
    """
    known = curves(trials, tenths, highest=highest)
    pairs = [(old, new) for old, new in product(known, repeat=2) if _kappa(old, new) >= LEAST_KAPPA]
    fits = {new: _fit_without(trials, new, recipe, highest) for new in known}
    found = []
    for rule, (old, new) in product(CARRIED, pairs):
        tuned = recipe.replace(batch_size=old).with_lr(known[old].best.lr)
        if rule != "sweep":
            lr, bounds = _carried(rule, Move(tuned, new, examples, Facts(noise_scale=known[old].noise_scale)))
        elif (fit := fits[new]) is not None:
            lr, _ = _carried(rule, Move(tuned, new, examples, Facts(knee=fit.knee, knee_from="sweep")))
            bounds = predict(fit, new)  # as `rebatch transfer --from-sweep`
        else:
            continue
        found.append(_landing(rule, old, new, lr, bounds, known[new]))
    return found


def late_noise_scale(trials: Sequence[Trial], tenths: Iterable[int] = LATE) -> float:
    """The ratio of means over runs and tenths; `UNRESOLVED` where |G|^2 is not above 0."""
    tenths = list(tenths)
    trace = _mean(trial.traces[tenth] for trial in trials for tenth in tenths if tenth < len(trial.traces))
    square = _mean(trial.squares[tenth] for trial in trials for tenth in tenths if tenth < len(trial.squares))
    return min(UNRESOLVED, trace / square) if trace > 0.0 and square > 0.0 else UNRESOLVED


def _curve(trials: Sequence[Trial], best: BestRate, tenths: Sequence[int]) -> Curve:
    losses = _mean_losses(trials)[trials[0].batch_size]
    nearest = min(losses, key=lambda lr: abs(math.log(lr / best.lr)))
    noise = late_noise_scale([trial for trial in trials if trial.lr == nearest], tenths)
    return Curve(np.log(list(losses)), np.array(list(losses.values())), best, noise)


def _counted(trial: Trial) -> float:
    return min(trial.loss, trial.chance_loss) if not math.isnan(trial.loss) else trial.chance_loss


def _fit_without(trials: Sequence[Trial], new: int, recipe: Recipe, highest: float) -> KneeFit | None:
    """Of the sweep's other batch sizes, None where they are too few."""
    shape = SHAPES["sgd" if isinstance(recipe.optimizer, Sgd) else "adamw"]
    try:
        return fit_knee(_sweep([trial for trial in trials if trial.batch_size != new], highest), shape)
    except RequestError:
        return None


def _carried(rule: str, move: Move) -> tuple[float, Interval | None]:
    """The rate, and its bounds."""
    name = CARRIED[rule]
    if name is None:
        return move.tuned.optimizer.lr, None
    moved = RULES[name].apply(move.tuned, move)
    return moved.optimizer.lr, RULES[name].bounds(moved, move)


def _landing(rule: str, old: int, new: int, lr: float, bounds: Interval | None, there: Curve) -> Landing:
    regret = there.regret(lr)
    relative = regret / float(there.losses.min())
    return Landing(rule, old, new, lr, there.best.lr, regret, relative, there.is_beyond(lr), bounds)


def _sweep(trials: Sequence[Trial], highest: float) -> Sweep:
    read = {(size, lr) for size, rates in _mean_losses(trials).items() for lr in _valley(rates, highest)}
    chosen = [trial for trial in trials if (trial.batch_size, trial.lr) in read]
    return Sweep(tuple(Run(lr=each.lr, batch_size=each.batch_size, loss=each.loss) for each in chosen))


def _mean_losses(trials: Sequence[Trial]) -> dict[int, dict[float, float]]:
    """By batch size and rising rate, with guesses for what is worse."""
    found: dict[int, dict[float, list[float]]] = {}
    for trial in sorted(trials, key=lambda each: each.lr):
        found.setdefault(trial.batch_size, {}).setdefault(trial.lr, []).append(_counted(trial))
    return {size: {lr: fmean(losses) for lr, losses in rates.items()} for size, rates in found.items()}


def _valley(losses: Mapping[float, float], highest: float) -> Iterable[float]:
    """The rates around the lowest loss that have at most `highest` times it, and at least its neighbors."""
    rates, values = list(losses), list(losses.values())
    lowest = values.index(min(values))
    outside = [place for place, loss in enumerate(values) if loss > highest * values[lowest]]
    first = max((place + 1 for place in outside if place < lowest), default=0)
    last = min((place - 1 for place in outside if place > lowest), default=len(rates) - 1)
    return rates[max(0, min(first, lowest - 1)) : max(last, lowest + 1) + 1]


def _kappa(old: int, new: int) -> float:
    return max(old, new) / min(old, new)


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan
