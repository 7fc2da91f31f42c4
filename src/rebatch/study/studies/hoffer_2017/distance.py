"""`hoffer-distance` (Figure 2): does the weight distance grow with log t, and do ghosts and rate make batches alike?"""

from collections.abc import Mapping, Sequence
from statistics import fmean

import msgspec

from rebatch.batching import steps_per_epoch
from rebatch.fits import akaike_difference, left_out_ratio, log_law, power_law_on_distance
from rebatch.recipe import Epochs
from rebatch.schedule import Constant
from rebatch.study.claims import AllOf, Claim, Equivalent, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.records import FinishedRun, SeedRuns
from rebatch.study.studies.hoffer_2017.common import MARGIN, OTHER_SEEDS, claim, is_digits, seeds_of
from rebatch.tasks.task import Task
from rebatch.transfer import transfer

# Batch sizes over the small one: the paper's 64 to 2048 around 128.
RATIOS = (0.5, 1, 2, 4, 8, 16)

BEFORE, AFTER, NO_DECAY = "before", "after", "no_decay"
DIVERGED, BOTH = "diverged", "before and after"
COLUMNS = {"": "weight_distance", ":first": "weight_distance_first"}

# Fits leave the first steps out, as the fits of the digitised curves do (epochs 2 to 80 of 80).
FITTED_FROM = 1 / 40

# Where clipping is not in the recipe of a task, the paper's threshold.
CLIP = 5.0


def distance_design(task: Task, scale: Scale) -> Design:
    """Constant learning rate, many batch sizes: as they are, with rate and ghosts adapted, and without weight decay."""
    epochs = {"quick": 20.0, "cpu": 80.0 if is_digits(task) else 20.0, "paper": 80.0}[scale]
    clip = task.recipe.max_grad_norm or CLIP
    tuned = task.recipe.replace(schedule=Constant(), budget=Epochs(epochs), max_grad_norm=clip)
    sizes = [round(ratio * tuned.batch_size) for ratio in RATIOS]
    arms = []
    for size in sizes:
        before = transfer(tuned, batch_size=size, rules=["same_epochs"]).recipe
        after = transfer(tuned, batch_size=size, rules=["sqrt_lr", "ghost_batch", "same_epochs"]).recipe
        bare = before.replace(optimizer=msgspec.structs.replace(before.optimizer, weight_decay=0.0))
        arms += [
            Arm(name=f"{form}:{size}", recipe=recipe)
            for form, recipe in ((BEFORE, before), (AFTER, after), (NO_DECAY, bare))
        ]
    adapted = {arm.recipe.batch_size: arm.recipe for arm in arms if arm.name.startswith(AFTER)}
    largest = adapted[sizes[-1]]
    first_epoch = steps_per_epoch(task.train, largest.batch_size, largest.last_batch)
    arms += [
        Arm(name=f"clip_first_epoch:{sizes[-1]}", recipe=largest.replace(clip_steps=first_epoch)),
        *(Arm(name=f"clip_never:{size}", recipe=adapted[size].replace(max_grad_norm=None)) for size in _ends(sizes)),
    ]
    return Design(
        arms=tuple(arms),
        claims=_claims(sizes, published=task.name == "cifar10/resnet44"),
        seeds=seeds_of(task, scale, cpu=3),
    )


def _ends(sizes: Sequence[int]) -> tuple[int, int]:
    """The largest batch, and the smallest: a head start may as well be that the other is held back."""
    return max(sizes), min(sizes)


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Per seed: by how much the log law explains more than the power law, and how far the batches' curves lie apart.

    A diverged run has no curve to fit or to compare: it is left out of the mean over batch sizes, its seed has no
    spread, and `diverged:...` counts it.
    """
    found: dict[str, float] = {}
    for form in (BEFORE, AFTER, NO_DECAY):
        curves = {int(name.split(":")[1]): run for name, run in runs.items() if name.startswith(f"{form}:")}
        for suffix, column in COLUMNS.items():
            found |= _fits(f"{form}{suffix}", curves, column)
            found |= _spread(f"{form}{suffix}", curves, column)
        if curves:
            found[f"{DIVERGED}:{form}"] = float(sum(run.diverged for run in curves.values()))
    if {f"{DIVERGED}:{BEFORE}", f"{DIVERGED}:{AFTER}"} <= found.keys():
        found[f"{DIVERGED}:{BOTH}"] = found[f"{DIVERGED}:{BEFORE}"] + found[f"{DIVERGED}:{AFTER}"]
    for suffix in COLUMNS:
        if f"spread:{BEFORE}{suffix}" in found and f"spread:{AFTER}{suffix}" in found:
            found[f"spread_ratio{suffix}"] = found[f"spread:{AFTER}{suffix}"] / found[f"spread:{BEFORE}{suffix}"]
    return found | _offset(runs)


def _fits(label: str, curves: Mapping[int, FinishedRun], column: str) -> dict[str, float]:
    found: dict[str, float] = {}
    wins, ahead = [], []
    for size, run in curves.items():
        points = run.column(column)
        chosen = [(step, value) for step, value in points if step >= FITTED_FROM * points[-1][0] and step > 1]
        if run.diverged or len(chosen) < 5:
            continue
        steps, values = zip(*chosen, strict=True)
        log, power = log_law(steps, values), power_law_on_distance(steps, values)
        found[f"log_slope:{label}:{size}"] = log.coefficients[1]
        found[f"power:{label}:{size}"] = power.coefficients[1]
        found[f"log_r2:{label}:{size}"] = log.r2
        found[f"power_r2:{label}:{size}"] = power.r2
        wins.append(akaike_difference(steps, values))
        ahead.append(left_out_ratio(steps, values))
    if not wins:
        return found
    return found | {f"log_over_power:{label}": fmean(wins), f"log_over_power_ahead:{label}": fmean(ahead)}


def _spread(label: str, curves: Mapping[int, FinishedRun], column: str) -> dict[str, float]:
    """Largest less smallest distance over batch sizes, at the last step that all of them have, and over their mean."""
    tables = [dict(run.column(column)) for run in curves.values() if not run.diverged]
    shared = set.intersection(*map(set, tables)) if len(tables) == len(RATIOS) else set()
    if not shared:
        return {}
    values = [table[max(shared)] for table in tables]
    return {
        f"spread:{label}": max(values) - min(values),
        f"relative_spread:{label}": (max(values) - min(values)) / fmean(values),
    }


def _offset(runs: SeedRuns) -> dict[str, float]:
    """How much further the largest batch is than the smallest, with clipping and without, after as many steps.

    Read at the last step of the largest batch's first epoch that all four have a row of, as Figure 2 begins.
    """
    sizes = [int(name.split(":")[1]) for name in runs if name.startswith("clip_never:")]
    names = [f"{form}:{size}" for form in (AFTER, "clip_never") for size in (_ends(sizes) if sizes else ())]
    if len(set(names)) < 4 or not runs.keys() >= set(names):
        return {}
    large, small, large_unclipped, small_unclipped = (dict(runs[name].column("weight_distance")) for name in names)
    first_epoch = {row["step"] for row in runs[names[0]].rows if row["epoch"] <= 1.0}
    shared = first_epoch & large.keys() & small.keys() & large_unclipped.keys() & small_unclipped.keys()
    if not shared:
        return {}
    early = max(shared)
    with_clip, without = large[early] - small[early], large_unclipped[early] - small_unclipped[early]
    return {"offset:clipped": with_clip, "offset:unclipped": without, "offset_from_clipping": with_clip - without}


def _claims(sizes: list[int], *, published: bool) -> tuple[Claim, ...]:
    why = (
        "Two laws of two coefficients each, both fitted on d: the sign of the difference of Akaike's criterion, mean "
        f"over batch sizes, is the claim; for spreads it is their ratio. Seeds: {OTHER_SEEDS}."
    )
    return (
        claim(
            "H8",
            "At a high learning rate the weight distance grows as log t rather than as a power of t",
            Quantity(f"log_over_power:{BEFORE}", low=0.0, unit="AIC", left_out=f"{DIVERGED}:{BEFORE}"),
            why=why,
        ),
        claim(
            "H8-no-decay",
            "So it does without weight decay, which alone would bend the curve",
            Quantity(f"log_over_power:{NO_DECAY}", low=0.0, unit="AIC", left_out=f"{DIVERGED}:{NO_DECAY}"),
            why=why,
        ),
        claim(
            "H9",
            "Learning rate and ghosts bring the curves of all batch sizes together",
            Quantity("spread_ratio", high=1.0, unit="times the spread before", left_out=f"{DIVERGED}:{BOTH}"),
            expected=0.78 if published else None,
            why=f"{why} Published, read off Figure 2: 1.09 of 1.39 at step 1,900 (the first convolution, we think).",
        ),
        claim(
            "H9-match",
            "So far that they match",
            Quantity(f"relative_spread:{AFTER}", high=0.1, unit="of the mean distance", left_out=f"{DIVERGED}:{AFTER}"),
            why="Curves match if they lie within a tenth of the distance. " + why,
        ),
        claim(
            "H10",
            "The large batch's head start comes, in part at least, from clipping, and that is harmless",
            AllOf(
                (
                    Quantity("offset_from_clipping", low=0.0, unit="of weight distance"),
                    *(Equivalent(f"{AFTER}:{size}", f"clip_never:{size}", MARGIN) for size in _ends(sizes)),
                )
            ),
            why=why + " Without clipping means for both batches: that of the small one holds it back.",
        ),
    )


DISTANCE = Study(
    name="hoffer-distance",
    title="Does the distance from the start grow with the logarithm of the steps?",
    source="Hoffer, Hubara, Soudry 2017, Figure 2",
    design=distance_design,
    quantities=quantities,
)
