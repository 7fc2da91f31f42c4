"""`page-sums`: is one large step the sum of small ones, to first order, and do the runs stay together? (P2, P3, P22)

The argument needs a loss that is a sum over examples. Batch norm couples them, so the steps are compared with its
running statistics, and once with those of each batch as a control. Runs are compared twice: the task's own recipe at
both batch sizes, and plain SGD with ghosts of the small batch, where the two differ in second order alone.
"""

from collections.abc import Mapping

import msgspec

from rebatch.recipe import Epochs, Recipe, Sgd
from rebatch.reduction import with_loss_reduction
from rebatch.schedule import Constant
from rebatch.study.claims import AllOf, Claim, Quantity, Test
from rebatch.study.plan import Arm, Design, Scale, Study, TrainingSet
from rebatch.study.probes import PartialTail, Parting, SummedSteps
from rebatch.study.records import SeedRuns
from rebatch.study.studies.page_2018.common import KAPPA, NO_BATCH_NORM
from rebatch.tasks.task import Task

STEPS, COUPLED, SUM, MEAN = "steps", "steps:batch_norm", "tail:sum", "tail:mean"
OWN, SECOND = "runs:recipe", "runs:second_order"

# Multiples of the recipe's rate. The power is read at the three smallest: floating point still resolves the difference
# there, and no unit of a ReLU net is switched, no maximum of a pool moved by so small a step.
RATES = tuple(2.0**octave for octave in (-36, -32, -28, -24, -16, -8, 0))
# Three rates of whole runs.
FACTORS = {"x1/4": 0.25, "x1": 1.0, "x4": 4.0}
HIGH = "x4"

# The toy regression has the published tail: 80 of 128.
BATCH, TAIL = 128, 80
TOY = Recipe(batch_size=BATCH, optimizer=Sgd(lr=0.1), budget=Epochs(1))

# A tail's weight is the same for every seed, and equal numbers need many for a verdict. Steps take half a minute on a
# convolution net.
TAIL_SEEDS = 10
STEP_SEEDS = 5

# Epochs, part of the training set and seeds of whole runs; digits are small enough for all of it at every scale.
Size = tuple[float, float, int]
_RUNS: dict[Scale, Size] = {"quick": (1.0, 0.125, 2), "cpu": (5.0, 0.125, 3), "paper": (10.0, 1.0, 5)}
_DIGITS: dict[Scale, Size] = {"quick": (10.0, 1.0, 5), "cpu": (20.0, 1.0, 20), "paper": (20.0, 1.0, 20)}


def sums_design(task: Task, scale: Scale) -> Design:
    """Steps and tails in seconds; runs at three rates, constant, without clipping, from one start."""
    epochs, share, seeds = (_DIGITS if task.name.startswith("digits/") else _RUNS)[scale]
    base = task.recipe.replace(schedule=Constant(), budget=Epochs(epochs), max_grad_norm=None)
    part = TrainingSet(examples=None if share == 1.0 else round(share * task.train))
    rate = base.optimizer.lr
    coupled = task.name not in NO_BATCH_NORM  # without batch norm the control would be the claim itself
    steps = SummedSteps(rates=RATES, kappa=KAPPA)
    tail = PartialTail(examples=2 * BATCH + TAIL)
    probes: list[tuple[str, Recipe, SummedSteps | PartialTail]] = [
        (STEPS, base, steps),
        (SUM, with_loss_reduction(TOY, "sum"), tail),
        (MEAN, TOY, tail),
    ]
    if coupled:
        probes.insert(1, (COUPLED, base, msgspec.structs.replace(steps, training_mode=True)))
    arms = [
        Arm(name=name, recipe=recipe, probe=probe, seeds=TAIL_SEEDS if probe is tail else STEP_SEEDS)
        for name, recipe, probe in probes
    ]
    arms += [
        Arm(name=f"{form}:{label}", recipe=recipe.with_lr(factor * rate), probe=Parting(kappa=KAPPA), data=part)
        for form, recipe in ((OWN, base), (SECOND, _second_order(base)))
        for label, factor in FACTORS.items()
    ]
    return Design(arms=tuple(arms), claims=_claims(coupled=coupled, seeds=seeds), seeds=seeds)


def _second_order(recipe: Recipe) -> Recipe:
    """Plain SGD at the same rate, every batch normalized in ghosts of the small one: no momentum, no coupling."""
    plain = Sgd(lr=recipe.optimizer.lr, weight_decay=recipe.optimizer.weight_decay)
    return recipe.replace(optimizer=plain, ghost_batch_size=recipe.batch_size)


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Slopes, weights of a tail's example, and per pair of runs how their distance grows and what it comes to.

    `relative` is the difference at the recipe's own rate over the length of the large step. `growth` is the power of
    the examples seen with which two batch sizes part, `growth_orders` that of two orders of the examples; `parted` is
    the first distance over the second at the end. Pairs of which a run diverged have none, and are counted.
    """
    found: dict[str, float] = {}
    for name, kinds in _KINDS.items():
        if name in runs:
            found |= {f"{kind}:{name}": runs[name].metrics[kind] for kind in kinds}
    pairs = {name: run.metrics for name, run in runs.items() if name.startswith((OWN, SECOND))}
    for name, metrics in pairs.items():
        found[f"diverged:{name}"] = float("distance" not in metrics or "distance_orders" not in metrics)
        found |= {f"{kind}:{name}": metrics[kind] for kind in ("growth", "growth_orders") if kind in metrics}
        if not found[f"diverged:{name}"]:
            found[f"parted:{name}"] = metrics["distance"] / metrics["distance_orders"]
    return found


_KINDS = {
    STEPS: ("slope", "relative"),
    COUPLED: ("slope", "relative"),
    SUM: ("tail_weight",),
    MEAN: ("tail_weight",),
}


def _claims(*, coupled: bool, seeds: int) -> tuple[Claim, ...]:
    def claim(id_: str, statement: str, test: Test, why: str, expected: float | None = None, source: str = "") -> Claim:
        source = source or f"Page 2018, {id_}"
        return Claim(id=id_, statement=statement, source=source, test=test, expected=expected, why=why)

    power = "A tenth either side: no other whole power is near. Read at the three smallest rates. "
    power += f"{STEP_SEEDS} seeds: nets and batches of their own, that hardly differ in the power."
    tail = f"An identity of arithmetic: equal to a millionth. {TAIL_SEEDS} seeds only draw the order of the examples."
    grows = (
        "The power of the examples seen, by least squares on both logarithms from a tenth of the run on (with momentum "
        f"a large batch starts behind). {seeds} seeds: as many as the time of the scale allows."
    )

    def exactly(weight: float, arm: str) -> Quantity:
        low, high = weight * (1 - 1e-6), weight * (1 + 1e-6)
        return Quantity(f"tail_weight:{arm}", low=low, high=high, unit="x any other example")

    def faster_than_linear(form: str) -> Quantity:
        name = f"{form}:{HIGH}"
        return Quantity(f"growth:{name}", low=1.0, unit="power of the examples", left_out=f"diverged:{name}")

    claims = [
        claim(
            "P2",
            f"{KAPPA} small steps on a summed loss are one large step to first order",
            Quantity(f"slope:{STEPS}", low=1.9, high=2.1, unit="power of the rate"),
            power,
            expected=2.0,
        ),
        claim(
            "P3",
            "On a partial last batch the summed loss gives an example its usual weight, the mean loss more",
            AllOf((exactly(BATCH / TAIL, MEAN), exactly(1.0, SUM))),
            tail,
            expected=BATCH / TAIL,
        ),
        claim(
            "P22",
            "Runs of two batch sizes that differ in second order come apart faster than linearly at a high rate",
            faster_than_linear(SECOND),
            grows,
        ),
        claim(
            "P22-recipe",
            "So do runs by the recipe as it is, with momentum and the batch norm of each batch",
            faster_than_linear(OWN),
            grows,
            source="Page 2018, P22",
        ),
        claim(
            "P22-orders",
            "By the end two batch sizes are no further apart than two orders of the examples are",
            Quantity(f"parted:{OWN}:{HIGH}", high=1.1, unit="x two orders", left_out=f"diverged:{OWN}:{HIGH}"),
            f"A tenth more is no further. Written after a first look at digits. {seeds} seeds: as for P22.",
            source="rebatch: what is a distance between runs to be compared with?",
        ),
    ]
    if coupled:
        control = claim(
            "P2-batch-norm",
            "With batch norm over each step's batch they differ in first order already",
            Quantity(f"slope:{COUPLED}", low=0.9, high=1.1, unit="power of the rate"),
            power,
            expected=None,
            source="rebatch: batch norm couples the examples of a batch",
        )
        claims.insert(1, control)
    return tuple(claims)


SUMS = Study(
    name="page-sums",
    title="Is one large step the sum of small ones, and do the runs stay together?",
    source="Page 2018, How to train your ResNet 2: mini-batches",
    design=sums_design,
    quantities=quantities,
)
