"""`page-directions`: along which lines of rate, batch, momentum and decay does the loss hardly change? (P17 to P19)

Two settings are moved together so that a combination stays, which is said to be flat, and against each other so that it
changes sixteenfold. Weights before a norm are then looked at by themselves: a run from longer weights
that should be the same run, and the length of a step at rest beside its closed form.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from rebatch.batching import total_steps
from rebatch.equilibrium import rest_decay
from rebatch.recipe import Recipe, Sgd
from rebatch.reduction import with_loss_reduction
from rebatch.schedule import Constant
from rebatch.study.claims import AllOf, Claim, Quantity, Test
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import RelativeStep, Rescaled
from rebatch.study.records import SeedRuns
from rebatch.study.studies.hoffer_2017.common import is_digits, shortened
from rebatch.study.studies.page_2018.common import NO_BATCH_NORM
from rebatch.tasks.task import Task

BASE, RESTED, SAME_RUN = "base", "at rest", "same run"

# Along a flat direction the loss may change by this part of what it changes across. On a parabola whose valley is twice
# as long as it is wide, it is a quarter.
FLAT = 0.25

# A run of the arms `at rest` lasts so many times as long as the lengths of the weights need.
TIMES = 10

# A step at rest is as long as the closed form says, within this factor.
NEAR = 1.25

# The run from longer weights: twice the rate, half the weight decay.
LONGER = math.sqrt(2.0)
EQUAL, EXACT_SEEDS = 1e-6, 5


@dataclass(frozen=True)
class Direction:
    """Two settings: the recipe with both times a factor, the pairs that keep a combination, and those that do not.

    `from_arm` is the arm in the middle.
    """

    name: str
    second: str
    move: Callable[[Recipe, float, float], Recipe]
    along: tuple[tuple[float, float], ...]
    across: tuple[tuple[float, float], ...]
    from_arm: str = BASE

    def arm(self, pair: tuple[float, float]) -> str:
        """The arm of a pair of factors."""
        return f"{self.name}: lr x{pair[0]:g}, {self.second} x{pair[1]:g}"


# The author doubles and halves. In three seeds of digits that changed the loss across by a hundredth of a nat.
UP, DOWN = 4.0, 0.25
SAME, OPPOSITE = ((UP, UP), (DOWN, DOWN)), ((UP, DOWN), (DOWN, UP))


def _sgd(recipe: Recipe) -> Sgd:
    assert isinstance(recipe.optimizer, Sgd)
    return recipe.optimizer


def _batch(recipe: Recipe, lr: float, batch: float) -> Recipe:
    return recipe.with_lr(lr * recipe.optimizer.lr).replace(batch_size=round(batch * recipe.batch_size))


def _momentum(recipe: Recipe, lr: float, rest: float) -> Recipe:
    """`rest` multiplies 1 - m."""
    sgd = _sgd(recipe)
    momentum = round(1.0 - rest * (1.0 - sgd.momentum), 12)
    return recipe.replace(optimizer=msgspec.structs.replace(sgd, lr=lr * sgd.lr, momentum=momentum))


def _decay(recipe: Recipe, lr: float, decay: float) -> Recipe:
    sgd = _sgd(recipe)
    return recipe.replace(optimizer=msgspec.structs.replace(sgd, lr=lr * sgd.lr, weight_decay=decay * sgd.weight_decay))


BATCH = Direction("lr/B", "batch", _batch, SAME, OPPOSITE)
MOMENTUM = Direction("lr/(1-m)", "1-m", _momentum, SAME, OPPOSITE)
DECAY = Direction("lr wd", "decay", _decay, OPPOSITE, SAME, from_arm=RESTED)
DECAY_EARLY = Direction("lr wd, not at rest", "decay", _decay, OPPOSITE, SAME)
LINES = (BATCH, MOMENTUM, DECAY, DECAY_EARLY)

# By the momentum of an arm that trains at a constant rate until its weights are at rest.
STEADY = {"no momentum": (0.0, False), "heavy ball": (0.9, False), "Nesterov": (0.9, True)}


@dataclass(frozen=True)
class _Size:
    """Shares of the reference budget: of the arms around the recipe, and of those at rest; and seeds."""

    budget: float
    rested: float
    seeds: int


_SIZES: dict[Scale, _Size] = {"quick": _Size(1 / 12, 1 / 12, 2), "cpu": _Size(1 / 4, 1 / 2, 3), "paper": _Size(1, 1, 5)}
_DIGITS: dict[Scale, _Size] = {"quick": _Size(1, 1, 3), "cpu": _Size(1, 4, 20), "paper": _Size(1, 4, 20)}


def directions_design(task: Task, scale: Scale) -> Design:
    """The recipe and its neighbors; a constant rate with strong decay and its neighbors; steps at rest."""
    size = (_DIGITS if is_digits(task) else _SIZES)[scale]
    recipe = with_loss_reduction(task.recipe, "mean")
    base = recipe.replace(budget=shortened(recipe.budget, size.budget))
    centers, found = {BASE: base}, [BATCH]
    if moves := _moves_momentum(recipe):
        found.append(MOMENTUM)
    if normed := moves and task.name not in NO_BATCH_NORM:
        centers[RESTED] = _rested(recipe, task, size)
        found += [DECAY, DECAY_EARLY]
    arms = [Arm(name=name, recipe=center) for name, center in centers.items()]
    for each in found:
        center = centers[each.from_arm]
        arms += [Arm(name=each.arm(pair), recipe=each.move(center, *pair)) for pair in (*each.along, *each.across)]
    if normed:
        rested, few = centers[RESTED], min(EXACT_SEEDS, size.seeds)
        arms += [Arm(name=name, recipe=_steady(rested, *of), probe=RelativeStep()) for name, of in STEADY.items()]
        arms.append(Arm(name=SAME_RUN, recipe=rested, probe=Rescaled(factor=LONGER), seeds=few))
    return Design(arms=tuple(arms), claims=_claims(size, moves=moves, normed=normed), seeds=size.seeds)


def _moves_momentum(recipe: Recipe) -> bool:
    """Whether 1 - m can be made `UP` times as large; where it cannot, only rate and batch move."""
    return isinstance(recipe.optimizer, Sgd) and UP * (1.0 - recipe.optimizer.momentum) < 1.0


def _rested(recipe: Recipe, task: Task, size: _Size) -> Recipe:
    """A constant rate, no clipping (which knows the gradient's length), and decay that lengths come to rest under."""
    longer = recipe.replace(schedule=Constant(), budget=shortened(recipe.budget, size.rested), max_grad_norm=None)
    sgd = _sgd(longer)
    decay = rest_decay(sgd, total_steps(longer, task.train), TIMES)
    # At a constant rate both forms of the buffer are one rule.
    return longer.replace(optimizer=msgspec.structs.replace(sgd, weight_decay=decay, lr_in_buffer=False))


def _steady(rested: Recipe, momentum: float, nesterov: bool) -> Recipe:
    """With another momentum and the same lr / (1 - m)."""
    sgd = _sgd(rested)
    lr = sgd.lr * (1.0 - momentum) / (1.0 - sgd.momentum)
    return rested.replace(optimizer=msgspec.structs.replace(sgd, lr=lr, momentum=momentum, nesterov=nesterov))


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Changes of the validation loss along and across each direction, in nats, and the probes' numbers.

    `across:` is the mean of both ends. `rise:` and `fall:` of an end along the direction say how far its change stays
    below a quarter of that, upward and downward.
    """
    found: dict[str, float] = {}
    losses = {name: run.metrics["validation_loss"] for name, run in runs.items() if "validation_loss" in run.metrics}
    for each in LINES:
        names = [each.from_arm, *map(each.arm, each.across), *map(each.arm, each.along)]
        if all(name in losses for name in names):
            middle, *ends = (losses[name] for name in names)
            across = sum(ends[:2]) / 2 - middle
            found[f"across:{each.name}"] = across
            for pair, end in zip(each.along, ends[2:], strict=True):
                change = end - middle
                found[f"change:{each.arm(pair)}"] = change
                found[f"rise:{each.arm(pair)}"] = FLAT * across - change
                found[f"fall:{each.arm(pair)}"] = FLAT * across + change
    found |= {f"ratio:{name}": runs[name].metrics["ratio"] for name in STEADY if "ratio" in _metrics(runs, name)}
    kinds = ("weights_apart", "outputs_apart")
    return found | {kind: runs[SAME_RUN].metrics[kind] for kind in kinds if kind in _metrics(runs, SAME_RUN)}


def _metrics(runs: SeedRuns, name: str) -> Mapping[str, float]:
    return runs[name].metrics if name in runs else {}


def _claims(size: _Size, *, moves: bool, normed: bool) -> tuple[Claim, ...]:
    def claim(id_: str, statement: str, test: Test, why: str, *premise: Quantity) -> Claim:
        source = f"Page 2018, parts 5 and 6, {id_.partition('-')[0]}"
        return Claim(id=id_, statement=statement, source=source, test=test, expected=None, why=why, premise=premise)

    seeds = f"{size.seeds} seeds: as many as the time of the scale allows."

    def flat(each: Direction) -> tuple[Test, Quantity]:
        parts = [
            Quantity(f"{side}:{each.arm(pair)}", low=0.0, unit="nats below a quarter of across")
            for pair in each.along
            for side in ("rise", "fall")
        ]
        return AllOf(tuple(parts)), Quantity(f"across:{each.name}", low=0.0, unit="nats")

    def flat_claim(id_: str, statement: str, each: Direction) -> Claim:
        test, premise = flat(each)
        why = (
            f"Flat: both times {UP:g}, or both times {DOWN:g}, changes the validation loss by less than {FLAT:g} of "
            "what one up and the other down do: a valley twice as long as wide. Premise: across, the loss does rise. "
        )
        return claim(id_, statement, test, why + seeds, premise)

    near = f"Within a factor of {NEAR:g}; the closed form takes gradients for noise without memory. {seeds}"
    at_rest = AllOf(tuple(Quantity(f"ratio:{name}", low=1 / NEAR, high=NEAR, unit="x closed form") for name in STEADY))
    exact = f"Equal in float64 but for rounding that a run makes larger: {EQUAL:g}. {EXACT_SEEDS} seeds: an identity."
    of_batch = flat_claim(
        "P17-batch", "lr/B is a flat direction: rate and batch may grow or fall fourfold together", BATCH
    )
    of_momentum = flat_claim("P17-momentum", "So is lr/(1-m): rate and 1 - momentum may", MOMENTUM)
    of_lengths = (
        flat_claim("P18", "lr x weight decay is a flat direction where lengths of weights have come to rest", DECAY),
        flat_claim("P18-early", "So it is for the recipe as it is, whose weights remember their start", DECAY_EARLY),
        claim(
            "P18-same-run",
            "Weights before a norm, sqrt(2) times as long, at twice the rate and half the decay: the same run",
            AllOf((Quantity("weights_apart", high=EQUAL), Quantity("outputs_apart", high=EQUAL))),
            exact,
        ),
        claim(
            "P19",
            "At rest a step is sqrt(2 lr wd) of the weight's length, times a constant that momentum sets",
            at_rest,
            near,
        ),
    )
    return (of_batch, *([of_momentum] if moves else []), *(of_lengths if normed else ()))


DIRECTIONS = Study(
    name="page-directions",
    title="Along which lines of rate, batch, momentum and weight decay does the loss hardly change?",
    source="Page 2018, How to train your ResNet 5 and 6: hyperparameters, weight decay",
    design=directions_design,
    quantities=quantities,
)
