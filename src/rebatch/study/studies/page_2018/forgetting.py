"""`page-forgetting` (experiment B): does a high learning rate forget within an epoch, and waste the data it has?

The rate rises over the first sixth of a run and is constant from there on, at 4 times and at a quarter of the task's.
Afterwards the model is frozen and shown the batches of its last epochs again.
"""

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from rebatch.errors import RequestError
from rebatch.recipe import Epochs, Recipe
from rebatch.schedule import Constant
from rebatch.study.claims import AllOf, Claim, Quantity, Test
from rebatch.study.plan import Arm, Design, Scale, Study, TrainingSet
from rebatch.study.records import FinishedRun, SeedRuns
from rebatch.study.studies.page_2018.common import KAPPA, PUBLISHED_TASK, moved
from rebatch.tasks.task import Task

HIGH, LOW = "x4", "x1/4"
FACTORS = {HIGH: 4.0, LOW: 0.25}
HALF, WHOLE = "half", "whole"

# The rate rises in 5 of the 30 epochs.
WARMUP = 5 / 30

# Parts of the training set, smallest first: the line through them is to predict the whole.
PARTS = (1 / 8, 1 / 4, 1 / 2)

# Tasks whose model is another's at half and at twice its width.
WIDTHS: Mapping[str, Mapping[float, str]] = {
    name: {0.5: f"{name}-half", 2.0: f"{name}-double"} for name in ("cifar10/proxy", "cifar10/page-resnet18")
}

# A decay is fitted to the batches of an epoch; fewer say nothing.
LEAST_BATCHES = 8

# Epochs that are looked at: no tau and no forgetting counts as longer.
LONGEST = 4.0
# Of the way from the newest batch's loss to that of unseen examples: covered, the batch is forgotten.
COVERED = 0.9
# More data are wasted where they bring at most this share of what they bring at the low rate.
WASTED = 0.25
# A tau is known where its own 95 % interval is at most so many octaves wide; without an end it counts as `OPEN`.
KNOWN, OPEN = 2.0, 16.0
# Two times are alike within half an octave, as two rates are (P9).
ALIKE = 0.5

# Epochs and seeds; digits are trained in a second.
_SIZES: dict[Scale, tuple[float, int]] = {"quick": (2, 2), "cpu": (9, 3), "paper": (30, 5)}
_DIGITS: dict[Scale, tuple[float, int]] = {"quick": (20, 5), "cpu": (20, 20), "paper": (20, 20)}


def forgetting_design(task: Task, scale: Scale) -> Design:
    """Half and all of the data at both rates; at the high one a larger batch, other widths and smaller sets too.

    Raises:
        RequestError: an epoch has too few large batches to see forgetting within it.
    """
    epochs, seeds = (_DIGITS if is_digits(task) else _SIZES)[scale]
    if task.train < LEAST_BATCHES * KAPPA * task.recipe.batch_size:
        limit = f"{LEAST_BATCHES} batches of {KAPPA * task.recipe.batch_size} in an epoch"
        raise RequestError(f"page-forgetting needs {limit}, {task.name} has {task.train} training examples")
    arms = (*_half_and_whole(task, epochs), *_other_arms(task, epochs))
    return Design(arms=arms, claims=_claims(task, seeds), seeds=seeds, evaluations=math.ceil(epochs))


def _half_and_whole(task: Task, epochs: float) -> list[Arm]:
    half = TrainingSet(examples=task.train // 2, augmented=False)
    note = "half the data" + (" (no arm is augmented here)" if is_digits(task) else ", not augmented")
    arms: list[Arm] = []
    for label, factor in FACTORS.items():
        recipe = constant_after_warmup(task.recipe, factor, epochs)
        arms.append(Arm(name=f"{HALF}:{label}", recipe=recipe, note=note, data=half))
        arms.append(Arm(name=f"{WHOLE}:{label}", recipe=recipe, finals=("forgetting",)))
    return arms


def _other_arms(task: Task, epochs: float) -> list[Arm]:
    """At the high rate, on all data, augmented, unless their names say otherwise."""
    high = constant_after_warmup(task.recipe, FACTORS[HIGH], epochs)
    size, recent = KAPPA * high.batch_size, ("recent_forgetting",)
    parts = [int(part * task.train) for part in PARTS]
    return [
        Arm(name=f"{_BATCH}{size}:{HIGH}", recipe=moved(high, size), finals=recent),
        *(
            Arm(name=f"{_PART}{examples}:{HIGH}", recipe=high, finals=recent, data=TrainingSet(examples=examples))
            for examples in parts
            if examples >= LEAST_BATCHES * high.batch_size
        ),
        *(
            Arm(name=f"{_WIDTH}{width:g}:{HIGH}", recipe=high, note=f"model of {other}", finals=recent, task=other)
            for width, other in WIDTHS.get(task.name, {}).items()
        ),
    ]


def constant_after_warmup(recipe: Recipe, factor: float, epochs: float) -> Recipe:
    """`factor` times the recipe's rate: a straight rise over the first sixth of the run, constant from there on."""
    return recipe.with_lr(factor * recipe.optimizer.lr).replace(schedule=Constant(warmup=WARMUP), budget=Epochs(epochs))


def is_digits(task: Task) -> bool:
    """Whether a run takes a second or two; the digits are not augmented."""
    return task.name.startswith("digits/")


_PART, _WIDTH, _BATCH = "examples_", "width_x", "batch_"


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """How soon each arm forgets, and what of that the claims compare.

    `tau` and `forgotten` are in epochs (see `finals.forgetting`); `short_of` is how far below nine tenths of the way
    to the unseen loss a batch still is at an age, in nats; `gap` is what the whole set gains over half of it. Taus are
    compared in octaves; `doubt` is the widest interval of those that are. Numbers that end in `:batch_statistics` are
    of batches replayed with batch norm as in training, the others by its running statistics. A diverged run has no
    numbers and is counted in `diverged`.
    """
    found: dict[str, float] = {"diverged": float(sum(map(_has_diverged, runs.values())))} if runs else {}
    for label in FACTORS:
        if (gap := _gap(runs, label)) is not None:
            found[f"gap:{label}"] = gap
    if {f"gap:{HIGH}", f"gap:{LOW}"} <= found.keys():
        found["gap_left"] = found[f"gap:{HIGH}"] - WASTED * found[f"gap:{LOW}"]
    for mode in MODES:
        found |= {f"{name}{mode}": value for name, value in _forgotten(runs, mode).items()}
    return found


# How batch norm was replayed, which the source leaves open: by its running statistics, or by those of each batch.
MODES = ("", ":batch_statistics")


def _forgotten(runs: SeedRuns, mode: str) -> dict[str, float]:
    measured = {
        name: {kind: run.metrics[f"{kind}{mode}"] for kind in _KINDS}
        for name, run in runs.items()
        if f"tau{mode}" in run.metrics
    }
    taus = {name: min(each["tau"], LONGEST) for name, each in measured.items()}
    found = {f"tau:{name}": tau for name, tau in taus.items()}
    found |= {f"forgotten:{name}": each["forgotten"] for name, each in measured.items()}
    found |= _doubts({name: _width(each) for name, each in measured.items()})
    for label, age in _AGES.items():
        if f"{WHOLE}:{label}" in measured:
            found[f"short_of:{label}"] = _short_of(measured[f"{WHOLE}:{label}"], age)
    parts = {name: _number(name, _PART) for name in runs if name.startswith(_PART)}
    return found | _compared({name: math.log2(tau) for name, tau in taus.items()}, parts)


_KINDS = ("tau", "tau_low", "tau_high", "forgotten", "newest_loss", "limit_loss", "unseen_loss")
# At which age P12 asks whether a batch is forgotten.
_AGES = {HIGH: 0.5, LOW: 1.0}


def _width(metrics: Mapping[str, float]) -> float:
    """Of tau's interval, in octaves; where nothing decays any tau fits, and the one that is reported says nothing."""
    low, high = metrics["tau_low"], metrics["tau_high"]
    return math.log2(high / low) if low > 0.0 and high < LONGEST else OPEN


def _doubts(widths: Mapping[str, float]) -> dict[str, float]:
    """The widest interval among the taus that a claim compares."""
    compared = {
        "larger_batch": [name for name in widths if name.startswith(_BATCH)],
        "width": [name for name in widths if name.startswith(_WIDTH)],
        "data": [name for name in widths if name.startswith(_PART)],
    }
    whole = f"{WHOLE}:{HIGH}"
    return {
        f"doubt:{what}": max(widths[name] for name in (whole, *names))
        for what, names in compared.items()
        if names and whole in widths
    }


def _has_diverged(run: FinishedRun) -> bool:
    return run.diverged or "diverged" in run.metrics


def _short_of(metrics: Mapping[str, float], age: float) -> float:
    newest, limit, unseen = (metrics[f"{name}_loss"] for name in ("newest", "limit", "unseen"))
    loss = limit - (limit - newest) * math.exp(-age / metrics["tau"])
    return newest + COVERED * (unseen - newest) - loss


def _gap(runs: SeedRuns, label: str) -> float | None:
    losses = [
        runs[name].metrics.get("test_loss")
        for name in (f"{HALF}:{label}", f"{WHOLE}:{label}")
        if name in runs and not runs[name].diverged
    ]
    known = [loss for loss in losses if loss is not None]
    return known[0] - known[1] if len(known) == 2 else None


def _compared(octaves: Mapping[str, float], parts: Mapping[str, float]) -> dict[str, float]:
    """Differences and slopes of log2 tau over batch size, width and amount of data, at the high rate."""
    found: dict[str, float] = {}
    whole = f"{WHOLE}:{HIGH}"
    if whole not in octaves:
        return found
    for name, value in octaves.items():
        if name.startswith(_BATCH):
            found["tau_of_larger_batch"] = value - octaves[whole]
    widths = {_number(name, _WIDTH): value for name, value in octaves.items() if name.startswith(_WIDTH)}
    if len(widths) == 2:
        (narrow, below), (wide, above) = sorted(widths.items())
        found["tau_of_width_x1"] = octaves[whole] - below
        found["tau_of_width_x2"] = above - octaves[whole]
        found["tau_per_width"] = (above - below) / math.log2(wide / narrow)
    if len(parts) >= 2 and parts.keys() <= octaves.keys():
        found |= _over_parts({size: octaves[name] for name, size in parts.items()}, octaves[whole])
    return found


def _over_parts(parts: Mapping[float, float], whole: float) -> dict[str, float]:
    """The line of log2 tau over doublings of the data: through the parts, and what it makes of the whole.

    The parts are each a power of 2 of the whole, the largest a half. No numbers where a tau is nan.
    """
    doublings = np.log2(sorted(parts)) - math.log2(2 * max(parts))
    values = np.array([parts[size] for size in sorted(parts)])
    if not (np.isfinite(values).all() and math.isfinite(whole)):
        return {}
    slope, predicted = np.polyfit(doublings, values, 1)
    slope_of_all = np.polyfit([*doublings, 0.0], [*values, whole], 1)[0]
    return {
        "tau_per_doubling": float(slope_of_all),
        "tau_per_doubling:parts": float(slope),
        "tau_unpredicted": float(whole - predicted),
    }


def _number(name: str, prefix: str) -> float:
    return float(name.removeprefix(prefix).partition(":")[0])


def _claims(task: Task, seeds: int) -> tuple[Claim, ...]:
    claims = [_wasted(), *(claim for mode in MODES for claim in _forgets(task, mode))]
    if task.name in WIDTHS:
        claims += [*(_wider(mode) for mode in MODES), _remedy()]
    many = f"{seeds} seeds: as many as the time of the scale allows"
    return tuple(
        msgspec.structs.replace(
            claim, expected=claim.expected if task.name == PUBLISHED_TASK else None, why=f"{claim.why} {many}."
        )
        for claim in claims
    )


NATS, OCTAVES = "nats of test loss", "octaves of tau"
SHORT = f"nats short of {COVERED:g} of the way"


def _wasted() -> Claim:
    return _claim(
        "P11",
        "A high learning rate wastes data: at the low one the whole set beats half of it, at the high one hardly",
        AllOf(
            (
                _quantity("gap_left", f"{NATS}, over {WASTED:g} of the low rate's gap", high=0.0),
                _quantity(f"gap:{LOW}", NATS, low=0.0),
            )
        ),
        'Published: "nearly equal" at 4x, "clearly better" at 1/4. Nearly: a quarter of what they bring there.',
    )


def _forgets(task: Task, mode: str) -> tuple[Claim, ...]:
    """What is claimed of batches that are replayed in one mode of batch norm."""
    return (
        _claim(
            "P12",
            "At the high rate a batch is forgotten within half an epoch, at the low one not within an epoch",
            AllOf(
                (
                    _quantity(f"short_of:{HIGH}{mode}", f"{SHORT}, half an epoch back", high=0.0),
                    _quantity(f"short_of:{LOW}{mode}", f"{SHORT}, an epoch back", low=0.0),
                )
            ),
            "Forgotten: nine tenths of the way to the loss of unseen, augmented examples are covered. Half an epoch is "
            "published. Told in nats, which have no upper end.",
            mode=mode,
        ),
        _claim(
            "P13",
            f"Forgetting does not depend on the batch: {KAPPA} times batch and rate leave tau as it is",
            _quantity(f"tau_of_larger_batch{mode}", OCTAVES, low=-ALIKE, high=ALIKE),
            "Equal within half an octave, as rates are in P9.",
            expected=0.0,
            mode=mode,
            known="larger_batch",
        ),
        _claim(
            "P21-forgetting",
            "The more data, the sooner they are forgotten, and smaller sets say how soon",
            AllOf(
                (
                    _quantity(f"tau_per_doubling{mode}", f"{OCTAVES} per doubling of the data", high=0.0),
                    _quantity(f"tau_unpredicted{mode}", OCTAVES, low=-ALIKE, high=ALIKE),
                )
            ),
            f"A line through log tau of the sets below {task.train} predicts that one, within half an octave. Epochs "
            "are fixed, so smaller sets make fewer updates.",
            mode=mode,
            known="data",
        ),
    )


def _wider(mode: str) -> Claim:
    steps = [_quantity(f"tau_of_width_{step}{mode}", OCTAVES, low=0.0) for step in ("x1", "x2")]
    statement = "Larger models forget less: tau grows from half the width to one, and from one to twice"
    return _claim("P14", statement, AllOf(tuple(steps)), "Any growth counts.", mode=mode, known="width")


def _remedy() -> Claim:
    return _claim(
        "P23",
        "A larger model is a remedy for forgetting (sparse updates and natural gradient are not built)",
        _quantity("tau_per_width", f"{OCTAVES} per doubling of the width", low=0.0),
        "Any growth counts; the slope over all three widths, where P14 wants each step to help.",
        known="width",
    )


def _claim(
    id_: str,
    statement: str,
    test: Test,
    why: str,
    *,
    expected: float | None = None,
    mode: str = "",
    known: str = "",
) -> Claim:
    """`known` names the taus that it takes for known."""
    premise = (_quantity(f"doubt:{known}{mode}", "octaves of tau's interval", high=KNOWN),) if known else ()
    source = f"Page 2018, {id_.partition('-')[0]}"
    if mode:
        id_, statement = f"{id_}-batch-statistics", f"{statement}, batch norm replayed as in training"
        why = f"{why} The source leaves open how batch norm was replayed."
    return Claim(id=id_, statement=statement, source=source, test=test, expected=expected, why=why, premise=premise)


def _quantity(name: str, unit: str, *, low: float | None = None, high: float | None = None) -> Quantity:
    return Quantity(name, low=low, high=high, unit=unit, left_out="diverged")


FORGETTING = Study(
    name="page-forgetting",
    title="Does a high learning rate forget within an epoch, and waste its data?",
    source="Page 2018, How to train your ResNet 2: mini-batches, experiment B",
    design=forgetting_design,
    quantities=quantities,
    other_tasks=("cifar10/page-resnet18",),
)
