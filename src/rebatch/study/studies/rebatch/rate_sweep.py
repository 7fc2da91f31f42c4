"""`rate-sweep`: is the learning rate right that the default rule carries to another batch size?

Validation loss over batch size x learning rate, in doublings, for SGD with momentum and for AdamW, at equal epochs. All
else that the default rules move is moved: every arm has the same weight decay per example (`same_memory`: lr lam / B is
one number) and beta2 the same half-life in examples (`beta2_half_life`), so that every rule's carried recipe is an arm
of the sweep but for its rate. The rate rises over the first tenth of the budget and falls by half a cosine: at a
constant rate the loss at the end is mostly the noise of the last steps, which punishes high rates for their end alone,
and without a warm-up the first steps decide which rates survive. No clipping: it would bend the curve at high rates.

Nets with batch norm have ghosts of half the smallest batch at every batch size, so that normalization is the same
everywhere and the noise scale can be measured: along every run, in tenths (`noise_tenths`).
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rebatch.recipe import AdamW, Epochs, Recipe, Sgd
from rebatch.schedule import Cosine
from rebatch.study.carried_rates import NEAR, SIMPLE, TENTHS, UNRESOLVED, Landing, Trial, curves, landings
from rebatch.study.claims import AllOf, Claim, Quantity, Test
from rebatch.study.plan import Arm, Design, Scale, Study, TrainingSet
from rebatch.study.records import FinishedRun, SeedRuns
from rebatch.study.studies.page_2018.common import mean_lr
from rebatch.tasks.task import Task

SOURCE = "rebatch: the default rule on sweeps of its own"
OPTIMIZERS = ("sgd", "adamw")
# So many of the carried rates shall lie near the best one.
SHARE = 0.8

# AdamW at the task's own batch size: the rate around which it is swept, decay of the weights in a step, and beta2,
# whose half-life in examples stays within what was tried at all batch sizes (.9 to .99995).
ADAMW_LR = {"digits": 0.002}
ADAMW_LR_ELSEWHERE = 0.001
ADAMW_DECAY, ADAMW_BETA2 = 1e-4, 0.995
SGD_DECAY = 1e-4  # lam beside the task's own rate
MOMENTUM = 0.9
WARMUP = 0.1

PLAIN = ("digits/mlp-plain",)
"""Tasks whose net has no batch norm."""


@dataclass(frozen=True)
class _Size:
    """How much a scale runs; `octaves` of the rate around the middle one, by optimizer; `examples` None for all."""

    batch_sizes: tuple[int, ...]
    octaves: Mapping[str, Sequence[int]]
    epochs: float
    seeds: int
    examples: int | None = None


_DIGITS_OCTAVES = {"sgd": range(-5, 5), "adamw": range(-4, 6)}
_OCTAVES = {"sgd": range(-3, 5), "adamw": range(-2, 6)}
_DOUBLINGS = (16, 32, 64, 128, 256)
_DIGITS: dict[Scale, _Size] = {
    "quick": _Size((16, 64, 256), {"sgd": range(-5, 5, 3), "adamw": range(-4, 6, 3)}, epochs=10, seeds=2),
    "cpu": _Size(_DOUBLINGS, _DIGITS_OCTAVES, epochs=20, seeds=5),
    "paper": _Size((4, 8, *_DOUBLINGS, 512), _DIGITS_OCTAVES, epochs=20, seeds=20),
}
# 10,240 examples: all of these batch sizes divide them, so that every step has its whole batch.
_LARGER = (64, 128, 256, 512, 1024)
_ELSEWHERE: dict[Scale, _Size] = {
    "quick": _Size((64, 256, 1024), {"sgd": range(-3, 5, 2), "adamw": range(-2, 6, 2)}, 1, seeds=2, examples=10_240),
    "cpu": _Size(_LARGER, _OCTAVES, epochs=3, seeds=3, examples=10_240),
    "paper": _Size((*_LARGER, 2048, 4096), _OCTAVES, epochs=15, seeds=5, examples=40_960),
}


@dataclass(frozen=True)
class Point:
    """One setting of the sweep; its name is that of its arm."""

    optimizer: str
    batch_size: int
    lr: float

    @property
    def name(self) -> str:
        """`sgd, batch 64, lr 0.1`."""
        return f"{self.optimizer}, batch {self.batch_size}, lr {self.lr:g}"

    @staticmethod
    def of(name: str) -> "Point":
        """The point that an arm's name stands for.

        >>> Point.of("adamw, batch 64, lr 0.002")
        Point(optimizer='adamw', batch_size=64, lr=0.002)
        """
        found = _NAME.fullmatch(name)
        assert found is not None, name
        return Point(found[1], int(found[2]), float(found[3]))


_NAME = re.compile(r"(\w+), batch (\d+), lr (\S+)")


def rate_sweep_design(task: Task, scale: Scale) -> Design:
    """Every rate at every batch size, with both optimizers."""
    size = (_DIGITS if task.name.startswith("digits/") else _ELSEWHERE)[scale]
    data = TrainingSet(examples=size.examples and min(size.examples, task.train))
    finals = ("last_epoch", "noise_tenths")
    arms = [
        Arm(name=point.name, recipe=recipe_at(point, task, size.epochs, _ghosts(task, size)), finals=finals, data=data)
        for point in _points(task, size)
    ]
    return Design(arms=tuple(arms), claims=_claims(size), seeds=size.seeds, evaluations=1)


def recipe_at(point: Point, task: Task, epochs: float, ghosts: int | None) -> Recipe:
    """The sweep's recipe at a point: the rate is its own, decay and beta2 remember as many examples everywhere."""
    kappa = point.batch_size / task.recipe.batch_size
    kept = 1.0 - math.exp(kappa * math.log1p(-_decay_in_a_step(point.optimizer, task)))
    optimizer = (
        # SGD's rule is the limit of small decay (`rules.decay`).
        Sgd(lr=point.lr, momentum=MOMENTUM, weight_decay=kappa * _decay_in_a_step("sgd", task) / point.lr)
        if point.optimizer == "sgd"
        else AdamW(lr=point.lr, betas=(0.9, ADAMW_BETA2**kappa), weight_decay=kept / point.lr)
    )
    return Recipe(
        batch_size=point.batch_size,
        optimizer=optimizer,
        budget=Epochs(epochs),
        schedule=Cosine(warmup=WARMUP),
        ghost_batch_size=ghosts,
    )


def _decay_in_a_step(optimizer: str, task: Task) -> float:
    """lr lam at the task's own batch size."""
    return ADAMW_DECAY if optimizer == "adamw" else SGD_DECAY * mean_lr(task.recipe)


def middle_lr(optimizer: str, task: Task) -> float:
    """The rate around which it is swept."""
    if optimizer == "sgd":
        return mean_lr(task.recipe)
    return ADAMW_LR.get(task.name.partition("/")[0], ADAMW_LR_ELSEWHERE)


def _points(task: Task, size: _Size) -> Iterator[Point]:
    for optimizer in OPTIMIZERS:
        middle = middle_lr(optimizer, task)
        for batch_size in size.batch_sizes:
            for octave in size.octaves[optimizer]:
                yield Point(optimizer, batch_size, float(f"{middle * 2.0**octave:.6g}"))


def _ghosts(task: Task, size: _Size) -> int | None:
    return None if task.name in PLAIN else min(size.batch_sizes) // 2


def trial_of(name: str, metrics: Mapping[str, float], *, diverged: bool, chance_loss: float) -> Trial:
    """A run of the sweep as `carried_rates` reads it."""
    point = Point.of(name)
    traces, squares = (
        tuple(metrics.get(f"noise_{kind}@{tenth / TENTHS:g}", math.nan) for tenth in range(1, TENTHS + 1))
        for kind in ("trace", "square")
    )
    loss = math.inf if diverged else metrics.get("validation_loss", math.inf)
    return Trial(point.batch_size, point.lr, loss, traces, squares, chance_loss)


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """One seed's sweep of each optimizer: shares near the best, regrets, what the default saves; best rates, noise."""
    known = [run.metrics["chance_loss"] for run in runs.values() if "chance_loss" in run.metrics]
    if not known:
        return {}
    numbers: dict[str, float] = {}
    for optimizer in OPTIMIZERS:
        own = {name: run for name, run in runs.items() if Point.of(name).optimizer == optimizer}
        numbers |= _of_optimizer(optimizer, own, known[0])
    return numbers


def _of_optimizer(optimizer: str, runs: Mapping[str, FinishedRun], chance_loss: float) -> dict[str, float]:
    trials = [trial_of(name, run.metrics, diverged=run.diverged, chance_loss=chance_loss) for name, run in runs.items()]
    if not trials:
        return {}
    numbers = {}
    for size, curve in curves(trials).items():
        numbers[f"log2_best:{optimizer}, {size}"] = math.log2(curve.best.lr)
        numbers[f"noise_unresolved:{optimizer}, {size}"] = float(curve.noise_scale == UNRESOLVED)
        if curve.noise_scale < UNRESOLVED:
            numbers[f"log2_noise_scale:{optimizer}, {size}"] = math.log2(curve.noise_scale)
        numbers[f"lowest_loss:{optimizer}, {size}"] = float(curve.losses.min())
    by_rule: dict[str, list[Landing]] = {}
    for landing in landings(trials, next(iter(runs.values())).recipe, _examples(runs.values())):
        by_rule.setdefault(landing.rule, []).append(landing)
    for rule, found in by_rule.items():
        numbers[f"near:{optimizer}, {rule}"] = fmean(landing.near for landing in found)
        numbers[f"regret:{optimizer}, {rule}"] = fmean(landing.regret for landing in found)
    for rule in SIMPLE:
        if rule in by_rule:
            numbers[f"saved:{optimizer}, {rule}"] = (
                numbers[f"regret:{optimizer}, {rule}"] - numbers[f"regret:{optimizer}, default"]
            )
    return numbers


def _examples(runs: Iterable[FinishedRun]) -> int:
    """Of the training set, from a run that went to its end: batches divide it."""
    for run in runs:
        budget = run.recipe.budget
        if not run.diverged and "step" in run.metrics and isinstance(budget, Epochs):
            return round(run.metrics["step"] * run.recipe.batch_size / budget.epochs)
    return 1


def _claims(size: _Size) -> tuple[Claim, ...]:
    why = (
        f"{len(size.batch_sizes)} batch sizes, all ordered pairs. {size.seeds} seeds, as many as there is time for: "
        "each seed's best rates come from its own runs, whose noise counts against every rule."
    )

    def claim(id_: str, statement: str, test: Test, more: str) -> Claim:
        return Claim(id=id_, statement=statement, source=SOURCE, test=test, expected=None, why=f"{more} {why}")

    names = {"sgd": "SGD with momentum", "adamw": "AdamW"}
    return tuple(
        each
        for optimizer, name in names.items()
        for each in (
            claim(
                f"D1-{optimizer}",
                f"{name}: given the noise scale, the default rule carries {SHARE:.0%} of the rates to within a factor "
                f"{NEAR} of the best",
                Quantity(f"near:{optimizer}, default", low=SHARE, unit="of the pairs"),
                "A factor 1.5 costs little in most valleys, and is what the software promises.",
            ),
            claim(
                f"D2-{optimizer}",
                f"{name}: and that costs less than the same rate, the square root and the linear rule",
                AllOf(tuple(Quantity(f"saved:{optimizer}, {rule}", low=0.0, unit="nats") for rule in SIMPLE)),
                "Mean validation loss above the lowest of the batch size: any saving counts.",
            ),
        )
    )


RATE_SWEEP = Study(
    name="rate-sweep",
    title="Is the learning rate right that the default rule carries to another batch size?",
    source=SOURCE,
    design=rate_sweep_design,
    quantities=quantities,
    task="digits/mlp-plain",
)
