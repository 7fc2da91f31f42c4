"""`hardware-batch`: the batch of statistics and the batch of the hardware (claims Q11 to Q14).

One is how many examples a step sees, the other how many a forward pass does. The net has no batch norm; an arm with it
shows what that breaks. Times are this machine's: they stand in the results beside the environment, and a verdict on
them holds there.
"""

import math
from collections.abc import Mapping

from rebatch.recipe import Epochs, Recipe
from rebatch.study.claims import AllOf, Claim, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import Cuts, KeptImages, StepTimes
from rebatch.study.records import SeedRuns
from rebatch.study.studies.mini_batches.common import DISCUSSION, claim
from rebatch.tasks.task import Task

BATCHES = (32, 128, 512)
SMALL, LARGE = BATCHES[0], BATCHES[-1]
# 5 and 24 leave a smaller last piece in each step.
MICRO_BATCHES = (5, 8, 24, 32, 128, 512)
LEAST = 8
TIMES, VGG, BATCH_NORM = "step_times", "vgg16", "batch_norm"
PLAIN, NORMED = "digits/mlp-plain", "digits/mlp"
# Uncut steps, for the line a + b B, up to all of the digits; and the grid.
LINE = (1, 4, 16, 64, 256, 1024)
FULL = LINE[-1]
GRID = tuple((size, micro) for size in BATCHES for micro in (LEAST, *BATCHES) if micro <= size)
ROUNDS: dict[Scale, int] = {"quick": 6, "cpu": 9, "paper": 15}
SEEDS: dict[Scale, int] = {"quick": 3, "cpu": 10, "paper": 20}

# Float64 over a training, and what a norm of other examples changes, as shares of the largest weight.
SAME, CHANGED = 1e-10, 1e-3
POINT, NO_POINT, SLOWER = 1.0, 0.1, 1.5
# Of VGG-16 an image: what its layers put out, the image itself included, ReLUs in place.
NUMBERS, NEARLY = 15_245_800, 0.1
MEGABYTES = 4 * NUMBERS / 1e6
STRAIGHT, MANY = 0.25, 4.0


def hardware_batch_design(task: Task, scale: Scale) -> Design:
    """Trainings cut in many ways, one of them with batch norm; a grid of times; and VGG-16, which is only counted."""
    recipe = task.recipe if task.name.startswith("digits/") else task.recipe.replace(budget=Epochs(1))
    arms = [Arm(name=f"batch:{size}", recipe=_at(recipe, size), probe=_cuts(MICRO_BATCHES, size)) for size in BATCHES]
    if norm := task.name == PLAIN:
        arms.append(Arm(name=BATCH_NORM, recipe=_at(recipe, LARGE), probe=_cuts((SMALL,), LARGE), task=NORMED))
    pairs = tuple(dict.fromkeys((*((size, size) for size in LINE), *GRID)))
    arms.append(Arm(name=TIMES, recipe=recipe, probe=StepTimes(pairs=pairs, rounds=ROUNDS[scale])))
    arms.append(Arm(name=VGG, recipe=recipe, probe=KeptImages(), note="counted, not trained"))
    why = f"{SEEDS[scale]} seeds: nets, splits of the data and moments of the machine."
    claims = (*_cut_claims(why, norm=norm), *_image_claims(why), *_time_claims(why))
    return Design(arms=tuple(arms), claims=claims, seeds=SEEDS[scale])


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """What arms measured, by arm; how far cuts move the weights and the accuracy, and what batches and cuts cost.

    Numbers `..._by_batch` are of the small batch beside the large one, those `..._by_micro` of micro-batches.
    """
    found = {f"{name}:{arm}": value for arm, run in runs.items() if arm != TIMES for name, value in run.metrics.items()}
    batches = [runs[name].metrics for size in BATCHES if (name := f"batch:{size}") in runs]
    if len(batches) == len(BATCHES):
        first, last = batches[0], batches[-1]
        found["apart"] = max(max(_by_size(each, "apart")) for each in batches)
        found["accuracy_by_micro"] = max(max(seen) - min(seen) for each in batches for seen in [_accuracies(each)])
        found["accuracy_by_batch"] = _of(first, f"accuracy:{SMALL}") - _of(last, f"accuracy:{LARGE}")
        found["kept_by_micro"] = _of(last, f"kept:{LEAST}") / _of(last, f"kept:{LARGE}")
    if BATCH_NORM in runs:
        found["apart_with_batch_norm"] = max(_by_size(runs[BATCH_NORM].metrics, "apart"))
    if TIMES in runs:
        found |= _times(runs[TIMES].metrics)
    return found


def milliseconds(batch_size: int, micro_batch_size: int) -> str:
    """How a step's time is called."""
    return f"milliseconds:{batch_size}:{micro_batch_size}"


def _times(seen: Mapping[str, float]) -> dict[str, float]:
    """Times of examples by cut and by batch, of a full batch in small steps, and the batch at which a line doubles."""
    cut, whole = _of(seen, milliseconds(LARGE, LEAST)), _of(seen, milliseconds(LARGE, LARGE))
    small, large = _of(seen, milliseconds(SMALL, SMALL)) / SMALL, _of(seen, milliseconds(LARGE, SMALL)) / LARGE
    return {
        **seen,
        "time_by_micro": cut / whole,
        "time_by_batch": small / large,
        "steps_in_full": _of(seen, milliseconds(FULL, FULL)) / _of(seen, milliseconds(SMALL, SMALL)),
        "hardware_batch": _of(seen, "fixed") / _of(seen, "per_example"),
    }


def _of(numbers: Mapping[str, float], name: str) -> float:
    return numbers.get(name, math.nan)


def _by_size(numbers: Mapping[str, float], kind: str) -> list[float]:
    """The numbers of one kind at all micro-batch sizes."""
    return [value for name, value in numbers.items() if name.startswith(f"{kind}:")]


def _accuracies(numbers: Mapping[str, float]) -> list[float]:
    return _by_size(numbers, "accuracy")


def _at(recipe: Recipe, batch_size: int) -> Recipe:
    """Another batch at as many epochs, the rate times sqrt(kappa): times kappa is too much for the largest."""
    kappa = batch_size / recipe.batch_size
    return recipe.replace(batch_size=batch_size).with_lr(recipe.optimizer.lr * math.sqrt(kappa))


def _cuts(micro_batch_sizes: tuple[int, ...], batch_size: int) -> Cuts:
    """Those of the sizes that are not larger than the batch, and the batch itself."""
    sizes = (*(size for size in micro_batch_sizes if size < batch_size), batch_size)
    return Cuts(micro_batch_sizes=sizes)


def _cut_claims(why: str, *, norm: bool) -> tuple[Claim, ...]:
    unit = "of the largest weight"
    with_norm = claim(
        "Q11-norm",
        "With plain batch norm the cut changes the run",
        Quantity("apart_with_batch_norm", low=CHANGED, unit=unit),
        ours="the limit of Q11",
        why=f"A thousandth of the largest weight is no rounding. {why}",
    )
    slower = Quantity("time_by_micro", low=SLOWER, unit="x the time")
    return (
        claim(
            "Q11",
            "Memory is no reason for small batches: micro-batches of any size add up to the same run, and keep less",
            AllOf(
                (
                    Quantity("apart", high=SAME, unit=unit),
                    Quantity("kept_by_micro", high=2 * LEAST / LARGE, unit="x the bytes"),
                )
            ),
            expected=0.0,
            why=f"{SAME:g} is law 1 of the design, in float64, for cuts of {MICRO_BATCHES[0]} to {LARGE}; bytes in "
            f"proportion but for a factor of two. {why}",
        ),
        *((with_norm,) if norm else ()),
        claim(
            "Q11-waste",
            f"On one device it is waste: a batch of {LARGE} takes half as long again in micro-batches of {LEAST}",
            slower,
            ours="what Q11 costs (Marek et al. 2025)",
            why=f"Half as long again would be noticed. {why} Of this machine and net.",
        ),
        claim(
            "Q12",
            "The statistical and the hardware batch are two numbers: accuracy follows the first, time the second",
            AllOf(
                (
                    Quantity("accuracy_by_batch", low=POINT, unit="points"),
                    Quantity("accuracy_by_micro", high=NO_POINT, unit="points"),
                    slower,
                    Quantity("time_by_batch", high=SLOWER, unit="x the time"),
                )
            ),
            why=f"Batches of {SMALL} and {LARGE} at equal epochs, the rate times sqrt(kappa), differ by a point; cuts "
            f"by less than an image of the test set. Cuts to {LEAST} take half as long again; an example in batches of "
            f"{SMALL} less than that over {LARGE} in micro-batches of {SMALL}. {why} Of this machine and net.",
        ),
    )


def _image_claims(why: str) -> tuple[Claim, ...]:
    same = f"Counted: all seeds are equal, whatever number of images they draw. {why}"
    return (
        claim(
            "Q13",
            f"VGG-16 puts out {NUMBERS:,} numbers for an image of 224 x 224",
            Quantity(f"numbers:{VGG}", low=NUMBERS - 0.5, high=NUMBERS + 0.5, unit="numbers"),
            expected=NUMBERS,
            why=f"Exactly, with the image itself and ReLUs in place. {same}",
        ),
        claim(
            "Q13-bound",
            f"Those {MEGABYTES:.1f} MB are a lower bound of what training keeps of an image",
            Quantity(f"kept_megabytes:{VGG}", low=MEGABYTES, unit="MB an image"),
            ours="what Q13 says of its number",
            why=same,
        ),
        claim(
            "Q13-kept",
            f"They are what training keeps: torch's autograd keeps at most {100 * NEARLY:.0f} % more",
            Quantity(f"kept_megabytes:{VGG}", high=(1 + NEARLY) * MEGABYTES, unit="MB an image"),
            ours="Q13 taken as an estimate",
            expected=MEGABYTES,
            why=f"A tenth is within what one leaves free. {same}",
        ),
    )


def _time_claims(why: str) -> tuple[Claim, ...]:
    steps = FULL // SMALL
    here = f"{why} Of this machine and net, one thread."
    return (
        claim(
            "Q14",
            f"In the time of one full-batch step, of {FULL:,} examples, many steps of {SMALL} can be taken",
            Quantity("steps_in_full", low=MANY, unit="steps"),
            why=f"Many are more than {MANY:g}. {here}",
        ),
        claim(
            "Q14-fewer",
            f"But fewer than half of the {steps} that its examples would give",
            Quantity("steps_in_full", high=steps / 2, unit="steps"),
            expected=float(steps),
            ours="what small steps leave idle",
            why=f"Half is where the hardware is idle half of the time. {here}",
        ),
        claim(
            "Q14-line",
            "A step takes a + b B",
            Quantity("misfit", high=STRAIGHT, unit="off, as a share"),
            expected=0.0,
            ours="what Q14 and Q16 reckon with",
            why=f"Within {100 * STRAIGHT:.0f} % from {LINE[0]} to {FULL:,} examples suffices to choose a batch. {here}",
        ),
    )


HARDWARE_BATCH = Study(
    name="hardware-batch",
    title="Are the batch of the statistics and that of the hardware two numbers?",
    source=DISCUSSION,
    design=hardware_batch_design,
    quantities=quantities,
    task=PLAIN,
)
