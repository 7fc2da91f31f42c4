"""`page-sweep` (experiment A): where does the learning rate break training, where is it best, and what limits it?

Training and held-out loss over a learning-rate factor f, for subsets of n examples and several batch sizes B; the rate
is f * B/B_0 times the task's schedule, B_0 its own batch size. Two modes: equal epochs, and equal updates (as many as
the whole set takes), because small sets might want a higher rate for their few updates alone.

A rate is broken whose last epoch's training loss is not finite, above that of a guess, or over twice that at the next
smaller factor. The edge lies between the largest factor that holds and the smallest that does not; the best factor is
the vertex of a parabola in log2 f through the lowest validation loss and its neighbours. Test losses are only shown.

The source leaves open, and here it is so: the schedule is the task's, times f; the loss is that after the last step
(`best_over_last` says how far the best rate moves by the best of a run's evaluations instead); f = 1 at the larger
batch is B/B_0 times the rate, without the 10 % that the author's run at 512 adds (`optimum_shift_from_x1.1` counts
from there).
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import msgspec
import numpy as np

from rebatch.batching import steps_per_epoch, total_steps
from rebatch.interval import Interval
from rebatch.recipe import Recipe, Sgd, Steps
from rebatch.stability import edge, optimum, stable_lr_of, unstable
from rebatch.study.claims import AllOf, Claim, Quantity, Test
from rebatch.study.plan import Arm, Design, Scale, Study, TrainingSet
from rebatch.study.records import FinishedRun, SeedRuns
from rebatch.study.studies.hoffer_2017.common import shortened
from rebatch.study.studies.page_2018.common import KAPPA, PUBLISHED_TASK, moved
from rebatch.tasks.task import Task

# Over twice the loss at the next smaller factor: broken, though batch norm often recovers. Not below a tenth of a
# guess's loss: there a network has all but learned its examples, and nearly nothing differs by any factor.
JUMP, LEAST = 2.0, 0.1

# Forgetting within an epoch is seen in at least so many steps (`measure.forgetting.LEAST_BATCHES`).
EPOCH_STEPS = 8

# Evaluations of a run: the last one chooses, the others are for `best_over_last`.
EVALUATIONS = 4

# The edge is refined by quarter octaves within the octave that the source names for its own task (f = 8 and f = 2 are
# the first that break).
REFINED: Mapping[int, tuple[float, float]] = {128: (4.0, 8.0), 512: (1.0, 2.0)}


@dataclass(frozen=True)
class _Size:
    """How much a scale runs.

    `budget` and `updates` are shares of the reference budget, with equal epochs and with equal updates; `parts` what
    the training set is divided by, `kappas` and `updates_kappas` batch sizes over the task's own in the two modes.
    """

    budget: float
    updates: float
    seeds: int
    lowest: float
    parts: tuple[int, ...]
    kappas: tuple[float, ...] = (1, KAPPA)
    updates_kappas: tuple[float, ...] = (1,)


# `cpu`: 12 epochs of 45,000 examples take `cifar10/proxy` 4 minutes of one core, and there are 4 hours of them.
_SIZES: dict[Scale, _Size] = {
    "quick": _Size(1 / 12, 1 / 12, seeds=2, lowest=0.5, parts=(4, 8, 16)),
    "cpu": _Size(2 / 3, 1 / 4, seeds=3, lowest=0.25, parts=(1, 4, 16)),
    "paper": _Size(
        1, 1, seeds=3, lowest=0.125, parts=(1, 2, 4, 8), kappas=(1 / 4, 1, KAPPA, 16), updates_kappas=(1, KAPPA)
    ),
}
_DIGITS: dict[Scale, _Size] = {
    "quick": _Size(1, 1, seeds=3, lowest=0.5, parts=(1, 2, 4)),
    "cpu": _Size(1, 1, seeds=20, lowest=0.25, parts=(1, 2, 4)),
    "paper": _Size(1, 1, seeds=20, lowest=0.25, parts=(1, 2, 4), kappas=(1 / 4, 1, KAPPA), updates_kappas=(1, KAPPA)),
}

# The largest factor at the task's own batch size; at others the factor of as large a rate, but at least the second.
_REACH = (16.0, 8.0)
_DIGITS_REACH = (64.0, 64.0)


@dataclass(frozen=True, order=True)
class Point:
    """One setting of the sweep; its name is that of its arm."""

    equal_updates: bool
    batch_size: int
    examples: int
    factor: float

    @property
    def name(self) -> str:
        """`batch 128, n 45000, f 0.25`."""
        mode = ", equal updates" if self.equal_updates else ""
        return f"batch {self.batch_size}, n {self.examples}, f {self.factor:g}{mode}"

    @staticmethod
    def of(name: str) -> "Point":
        """The point that an arm's name stands for.

        >>> Point.of("batch 128, n 45000, f 0.25")
        Point(equal_updates=False, batch_size=128, examples=45000, factor=0.25)
        """
        found = _NAME.fullmatch(name)
        assert found is not None, name
        size, examples, factor, mode = found.groups()
        return Point(mode is not None, int(size), int(examples), float(factor))


_NAME = re.compile(r"batch (\d+), n (\d+), f ([\d.]+)(, equal updates)?")


def sweep_design(task: Task, scale: Scale) -> Design:
    """Every factor at every subset size and batch size, with equal epochs; fewer batch sizes with equal updates."""
    size = (_DIGITS if _is_digits(task) else _SIZES)[scale]
    sets = [task.train // part for part in size.parts]
    arms = [_arm(point, task, size) for point in _points(task, size, sets, scale)]
    shares = [size.budget, size.updates]
    if min(shares) < 1:
        whole = f"every arm {100 * shares[0]:.3g} % of the reference budget, with equal updates {100 * shares[1]:.3g} %"
        arms[0] = msgspec.structs.replace(arms[0], note=whole)
    return Design(arms=tuple(arms), claims=_claims(task, size, sets), seeds=size.seeds, evaluations=EVALUATIONS)


def factors(batch_size: int, task: Task, lowest: float, *, refined: bool = False) -> list[float]:
    """The factors at a batch size, by octaves; around the published edge by quarter octaves.

    >>> from rebatch.tasks import TASKS
    >>> factors(512, TASKS["cifar10/page-resnet18"], 0.5, refined=True)
    [0.5, 1.0, 1.189, 1.414, 1.682, 2.0, 4.0, 8.0]
    """
    reach, least = _DIGITS_REACH if _is_digits(task) else _REACH
    highest = max(reach * task.recipe.batch_size / batch_size, least)
    octaves = {2.0**power for power in range(round(math.log2(lowest)), math.floor(math.log2(highest)) + 1)}
    low, high = REFINED.get(batch_size, (1.0, 1.0)) if refined else (1.0, 1.0)
    quarters = {round(low * 2 ** (quarter / 4), 3) for quarter in range(1, 4) if high > low}
    return sorted(octaves | quarters)


def _points(task: Task, size: _Size, sets: Sequence[int], scale: Scale) -> Iterator[Point]:
    refined = scale == "paper" and task.name == PUBLISHED_TASK
    for equal_updates, kappas in ((False, size.kappas), (True, size.updates_kappas)):
        for batch_size in (round(kappa * task.recipe.batch_size) for kappa in kappas):
            for examples in (count for count in sets if count >= batch_size):
                if equal_updates and examples == task.train and size.updates == size.budget:
                    continue  # one run for both modes
                for factor in factors(batch_size, task, size.lowest, refined=refined):
                    yield Point(equal_updates, batch_size, examples, factor)


def _arm(point: Point, task: Task, size: _Size) -> Arm:
    base = moved(task.recipe, point.batch_size)
    recipe = base.with_lr(base.optimizer.lr * point.factor)
    recipe = recipe.replace(budget=shortened(recipe.budget, size.updates if point.equal_updates else size.budget))
    if point.equal_updates:
        recipe = recipe.replace(budget=Steps(total_steps(recipe, task.train)))
    data = TrainingSet(examples=None if point.examples == task.train else point.examples)
    return Arm(name=point.name, recipe=recipe, finals=_finals(point, recipe, task, size), data=data)


def _finals(point: Point, recipe: Recipe, task: Task, size: _Size) -> tuple[str, ...]:
    """With equal epochs how soon a batch is forgotten, and on the largest set the curvature."""
    if point.equal_updates:
        return ("last_epoch",)
    seen = steps_per_epoch(point.examples, point.batch_size, recipe.last_batch) >= EPOCH_STEPS
    curved = point.examples == task.train // min(size.parts) and point.factor >= 1.0
    return ("last_epoch", *(["high_rate"] if seen else []), *(["peak_curvature"] if curved else []))


@dataclass(frozen=True)
class Sweep:
    """The runs of one seed at one batch size on one set, by rising factor."""

    runs: Mapping[float, FinishedRun]

    @property
    def rates(self) -> list[float]:
        """The factors."""
        return list(self.runs)

    @property
    def steps(self) -> float:
        """Of a run that did not diverge."""
        return max(run.metrics.get("step", 0.0) for run in self.runs.values())

    @property
    def train_losses(self) -> list[float]:
        """Of the last epoch, as it was trained on; inf where the run diverged."""
        return [_loss(run, "last_epoch_loss") for run in self.runs.values()]

    @property
    def chance_loss(self) -> float:
        """The loss of a guess."""
        known = [run.metrics["chance_loss"] for run in self.runs.values() if "chance_loss" in run.metrics]
        return known[0] if known else math.nan

    @property
    def broken(self) -> list[bool]:
        """Which factors break training."""
        return unstable(self.train_losses, self.chance_loss, jump=JUMP, least=LEAST * self.chance_loss)

    @property
    def edge(self) -> Interval:
        """Between the largest factor that holds and the smallest that does not."""
        return edge(self.rates, self.broken)

    def losses(self, name: str) -> list[float]:
        """A loss after the last step, inf where training broke."""
        found = zip(self.runs.values(), self.broken, strict=True)
        return [math.inf if gone else _loss(run, name) for run, gone in found]

    @property
    def optimum(self) -> float:
        """The best factor by validation loss; an end of the sweep where it may lie beyond."""
        return optimum(self.rates, self.losses("validation_loss"))

    @property
    def best(self) -> FinishedRun | None:
        """The run with the lowest validation loss."""
        losses = self.losses("validation_loss")
        return self.runs[self.rates[losses.index(min(losses))]] if math.isfinite(min(losses)) else None

    def predicted_edge(self, factor: float) -> float:
        """Where a quadratic with the curvature at the peak rate of the run at `factor` would break, as a factor."""
        run = self.runs.get(factor)
        if run is None or "peak_eigenvalue" not in run.metrics or not isinstance(run.recipe.optimizer, Sgd):
            return math.nan
        stable = stable_lr_of(run.recipe.optimizer, run.metrics["peak_eigenvalue"])
        return factor * stable / run.metrics["peak_lr"]


Sweeps = Mapping[tuple[bool, int, int], Sweep]
"""By whether updates are equal, batch size and number of examples."""


def sweeps(runs: SeedRuns) -> Sweeps:
    """One seed's runs in order."""
    found: dict[tuple[bool, int, int], dict[float, FinishedRun]] = {}
    for point, run in sorted(((Point.of(name), run) for name, run in runs.items()), key=lambda each: each[0]):
        found.setdefault((point.equal_updates, point.batch_size, point.examples), {})[point.factor] = run
    return _with_shared({key: Sweep(by_factor) for key, by_factor in found.items()})


def _with_shared(known: Sweeps) -> Sweeps:
    """The whole set's sweep stands for both modes where it has as many updates as the smaller sets' runs."""
    found = dict(known)
    for (equal_updates, batch_size, _), sweep in known.items():
        whole = max((n for mode, size, n in known if not mode and size == batch_size), default=0)
        shared = known.get((False, batch_size, whole))
        if equal_updates and shared is not None and shared.steps == sweep.steps:
            found.setdefault((True, batch_size, whole), shared)
    return found


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Edge, best factor and best test loss of every sweep, and what the claims compare; factors in octaves (log2).

    An edge beyond the factors that were tried has no number.
    """
    found = sweeps(runs)
    numbers: dict[str, float] = {}
    for (equal_updates, batch_size, examples), sweep in found.items():
        where = f"{batch_size}, n {examples}" + (", equal updates" if equal_updates else "")
        numbers |= {f"log2_edge:{where}": _log_edge(sweep), f"log2_optimum:{where}": _log_optimum(sweep)}
        if sweep.best is not None:
            numbers[f"best_test_loss:{where}"] = sweep.best.metrics.get("test_loss", math.nan)
    by_batch: dict[tuple[bool, int], dict[int, Sweep]] = {}
    for (equal_updates, batch_size, examples), sweep in found.items():
        by_batch.setdefault((equal_updates, batch_size), {})[examples] = sweep
    for (equal_updates, batch_size), sets in by_batch.items():
        numbers |= _over_sets(sets, f"{batch_size}, equal updates" if equal_updates else str(batch_size))
    whole = {size: sets[max(sets)] for (equal_updates, size), sets in by_batch.items() if not equal_updates}
    for batch_size, sweep in whole.items():
        numbers |= _of_whole_set(sweep, batch_size)
    for small in whole:
        if (large := KAPPA * small) in whole:
            numbers |= _over_batches(whole[small], whole[large], f"{small}/{large}")
    return numbers


def _over_sets(sets: Mapping[int, Sweep], label: str) -> dict[str, float]:
    """Slopes against log2 n; and the room on the largest set, as the line through the smaller ones predicts it."""
    edges, best, room = ({n: of(sweep) for n, sweep in sets.items()} for of in (_log_edge, _log_optimum, _room))
    ahead = max(sets)
    smaller = {n: value for n, value in room.items() if n != ahead}
    return {
        f"edge_slope:{label}": _slope(edges),
        f"optimum_slope:{label}": _slope(best),
        f"room_slope:{label}": _slope(room),
        f"room_missed:{label}": _line_at(smaller, ahead) - room[ahead],
    }


def _of_whole_set(sweep: Sweep, batch_size: int) -> dict[str, float]:
    held = sweep.edge.low
    predicted = {"": sweep.predicted_edge(held), ", f 1": sweep.predicted_edge(1.0)}
    return {
        f"room:{batch_size}": _room(sweep),
        f"jump:{batch_size}": _jump(sweep),
        f"best_over_last:{batch_size}": _log(_best_of_evaluations(sweep)) - _log_optimum(sweep),
        **{f"log2_predicted_edge:{batch_size}{at}": _log(value) for at, value in predicted.items()},
        **{f"prediction_error:{batch_size}{at}": _log(value) - _log_edge(sweep) for at, value in predicted.items()},
    }


def _over_batches(small: Sweep, large: Sweep, label: str) -> dict[str, float]:
    shift = _log_optimum(large) - _log_optimum(small)
    losses = [
        math.nan if each.best is None else each.best.metrics.get("test_loss", math.nan) for each in (small, large)
    ]
    return {
        f"edge_ratio:{label}": _log_edge(small) - _log_edge(large),
        f"optimum_shift:{label}": shift,
        f"optimum_shift_from_x1.1:{label}": shift - math.log2(1.1),
        f"loss_ratio:{label}": losses[1] / losses[0],
        f"room_lost:{label}": _room(small) - _room(large),
    }


def _loss(run: FinishedRun, name: str) -> float:
    return math.inf if run.diverged else run.metrics.get(name, math.nan)


def _log(value: float) -> float:
    return math.log2(value) if 0.0 < value < math.inf else math.nan


def _log_edge(sweep: Sweep) -> float:
    return _log(sweep.edge.estimate)


def _log_optimum(sweep: Sweep) -> float:
    return _log(sweep.optimum)


def _room(sweep: Sweep) -> float:
    """Octaves from the best factor to the edge."""
    return _log_edge(sweep) - _log_optimum(sweep)


def _jump(sweep: Sweep) -> float:
    """Octaves by which the training loss rises across the edge, less those of the octave of f before it.

    A diverged run counts with the loss of a guess.
    """
    losses = [loss if math.isfinite(loss) else sweep.chance_loss for loss in sweep.train_losses]
    first = sweep.broken.index(True) if True in sweep.broken else 0
    before = max((place for place in range(first) if sweep.rates[place] <= sweep.rates[first - 1] / 2), default=None)
    if first < 1 or before is None:
        return math.nan
    return math.log2(losses[first] / losses[first - 1]) - math.log2(losses[first - 1] / losses[before])


def _best_of_evaluations(sweep: Sweep) -> float:
    """The best factor if the best of a run's evaluations counts; nan without rows."""
    if not all(run.has_rows for run in sweep.runs.values()):
        return math.nan
    lowest = [
        math.inf if gone else min((loss for _, loss in run.column("validation_loss")), default=math.inf)
        for run, gone in zip(sweep.runs.values(), sweep.broken, strict=True)
    ]
    return optimum(sweep.rates, lowest)


def _slope(by_examples: Mapping[int, float]) -> float:
    """Of a number against log2 n; nan where one is missing or there is one set."""
    values = list(by_examples.values())
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return float(np.polyfit(np.log2(list(by_examples)), values, 1)[0])


def _line_at(by_examples: Mapping[int, float], examples: int) -> float:
    """What the straight line in log2 n through these numbers says at another n."""
    slope, middle = _slope(by_examples), fmean(map(math.log2, by_examples)) if by_examples else math.nan
    return fmean(by_examples.values()) + slope * (math.log2(examples) - middle) if by_examples else math.nan


def _is_digits(task: Task) -> bool:
    return task.name.startswith("digits/")


def _claims(task: Task, size: _Size, sets: Sequence[int]) -> tuple[Claim, ...]:
    small, large = task.recipe.batch_size, KAPPA * task.recipe.batch_size
    pair, octaves = f"{small}/{large}", math.log2(KAPPA)
    published = task.name == PUBLISHED_TASK and size.budget == 1
    why = (
        "Factors stand an octave apart, so an edge is known to half an octave either way; a best factor comes from a "
        f"parabola. {size.seeds} seeds: as many as the time of this scale allows, three at least where it is no quick "
        "look. Seeds whose edges fall between the same two factors are all equal, and the sign test needs six of them."
    )

    def claim(id_: str, statement: str, test: Test, expected: float | None = None, more: str = "") -> Claim:
        return Claim(
            id=id_,
            statement=statement,
            source=f"Page 2018, part 2, {id_.partition('-')[0]}",
            test=test,
            expected=expected if published else None,
            why=f"{more} {why}".strip(),
        )

    per_octave, unit = "octaves per octave of n", "octaves"
    claims = [
        claim(
            "P5",
            "Training breaks at one factor whatever the number of examples, and suddenly",
            AllOf(
                (
                    Quantity(f"edge_slope:{small}", low=-0.25, high=0.25, unit=per_octave),
                    Quantity(f"jump:{small}", low=0.5, unit="octaves of the loss"),
                )
            ),
            0.0,
            "The edge moves by less than an octave over a 16th of the examples, and the training loss rises across it "
            "by over sqrt(2) beyond its rise in the octave before; published: f = 8 for all sizes.",
        ),
        claim(
            "P6",
            "The factor that breaks training falls as 1/B: its rate does not depend on the batch size",
            Quantity(f"edge_ratio:{pair}", low=octaves - 0.5, high=octaves + 0.5, unit=unit),
            octaves,
            "Published: f = 8 at 128 against 2 at 512; a ratio of 2.8 to 5.7 is accepted.",
        ),
        claim(
            "P7",
            "At the small batch the best rate lies far below the breaking one",
            Quantity(f"room:{small}", low=1.5, unit=unit),
            3.0,
            "Far: over 2.8 times, nearer to the published 8 (f = 1 against 8) than to 1; his 8 is the first factor "
            "that breaks, here the edge is the middle between that and the last that holds.",
        ),
        claim(
            "P8",
            "Fewer examples want a higher rate, with equal epochs and with equal updates",
            AllOf(
                (
                    Quantity(f"optimum_slope:{small}", high=0.0, unit=per_octave),
                    Quantity(f"optimum_slope:{small}, equal updates", high=0.0, unit=per_octave),
                )
            ),
            more="With equal epochs few updates alone might ask for it, with equal updates many repeats.",
        ),
        claim(
            "P9",
            "Best factor and best loss do not depend on the batch size",
            AllOf(
                (
                    Quantity(f"optimum_shift:{pair}", low=-0.5, high=0.5, unit=unit),
                    Quantity(f"loss_ratio:{pair}", low=1 / 1.1, high=1.1, unit="x the small batch's test loss"),
                )
            ),
            0.0,
            "Half an octave is half the distance of two factors; losses within 10 %, published 0.188 against 0.20.",
        ),
        claim(
            "P10",
            "At the large batch the best rate comes close to the breaking one",
            AllOf(
                (
                    Quantity(f"room:{large}", high=1.5, unit=unit),
                    Quantity(f"room_lost:{pair}", low=0.5, unit=unit),
                )
            ),
            1.0,
            "Published: edge over best factor about 2, against 8 at the small batch.",
        ),
        claim(
            "P16",
            "Curvature sets the edge: just below it, training breaks where a quadratic of its curvature would",
            AllOf(
                tuple(Quantity(f"prediction_error:{each}", low=-1.0, high=1.0, unit=unit) for each in (small, large))
            ),
            0.0,
            "The top eigenvalue when the rate of the largest factor that holds is highest, and the optimizer's own "
            "limit, 1.357 over it for Nesterov at 0.9. Within a factor of 2: the edge alone is unsure by half of that.",
        ),
        claim(
            "P16-reference",
            "The curvature of the run at f = 1 already says where training breaks",
            AllOf(
                tuple(
                    Quantity(f"prediction_error:{each}, f 1", low=-1.0, high=1.0, unit=unit) for each in (small, large)
                )
            ),
            0.0,
            "If curvature were the landscape's and did not follow the rate, f = 1 would show the same edge.",
        ),
    ]
    if len(sets) > 2:
        claims.append(
            claim(
                "P21-rate",
                "The more examples, the further below the edge the best rate lies, and smaller sets predict the whole",
                AllOf(
                    (
                        Quantity(f"room_slope:{small}", low=0.0, unit=per_octave),
                        Quantity(f"room_missed:{small}", low=-0.75, high=0.75, unit=unit),
                    )
                ),
                more="A line in log2 n through all sets but the largest; a best factor is known to half an octave.",
            )
        )
    return tuple(claims)


SWEEP = Study(
    name="page-sweep",
    title="Where does the learning rate break training, where is it best, and what limits it?",
    source="Page 2018, How to train your ResNet 2: mini-batches, experiment A",
    design=sweep_design,
    quantities=quantities,
)
