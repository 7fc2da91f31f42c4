"""`hoffer-noise`: does noise close the gap as a larger step does? One kind that should, three that should not."""

from collections.abc import Mapping

from rebatch.recipe import Noise, Recipe
from rebatch.study.claims import AllOf, Claim, Combination, Greater, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.records import SeedRuns
from rebatch.study.studies.hoffer_2017.common import (
    LARGE,
    MARGIN,
    OTHER_SEEDS,
    SMALL,
    claim,
    large_batch,
    seeds_of,
)
from rebatch.tasks.task import Task
from rebatch.transfer import transfer

# Every arm has ghosts of the small batch: plain batch norm couples the examples, and the noise rule is for sums.
LARGE_GBN, LR_GBN, NOISE = "large_batch+gbn", "large_batch+lr+gbn", "large_batch+noise+gbn"
UNCLIPPED = "large_batch+noise+gbn, no clipping"

# Where a task's recipe does not clip, the paper's threshold.
CLIP = 5.0

# Three strengths of each kind that the paper says does not help; the strongest still learns.
STRENGTHS = {"dropout": (0.1, 0.3, 0.5), "dropconnect": (0.1, 0.3, 0.5), "labels": (0.05, 0.1, 0.2)}
NAMES = {"dropout": "Dropout", "dropconnect": "Dropconnect", "labels": "Label noise"}


def noise_design(task: Task, scale: Scale) -> Design:
    """Large batches with ghosts: as they are, with a larger rate, with multiplicative noise; then the other kinds."""
    size = large_batch(task)
    small = task.recipe.replace(max_grad_norm=task.recipe.max_grad_norm or CLIP)

    def moved(*rules: str) -> Recipe:
        return transfer(small, batch_size=size, rules=(*rules, "same_epochs"), examples=task.train).recipe

    noisy = moved("ghost_batch", "matching_noise")
    arms = [
        Arm(name=SMALL, recipe=small),
        Arm(name=LARGE, recipe=moved()),
        Arm(name=LARGE_GBN, recipe=moved("ghost_batch")),
        Arm(name=LR_GBN, recipe=moved("sqrt_lr", "ghost_batch")),
        Arm(name=NOISE, recipe=noisy),
        Arm(name=UNCLIPPED, recipe=noisy.replace(max_grad_norm=None)),
    ]
    for kind, strengths in STRENGTHS.items():
        for strength in strengths:
            noise = Noise(**{kind: strength})
            arms += [
                Arm(name=_with(SMALL, kind, strength), recipe=small.replace(noise=noise)),
                Arm(name=_with(LARGE, kind, strength), recipe=moved().replace(noise=noise)),
            ]
    seeds = seeds_of(task, scale, cpu=3)
    return Design(arms=tuple(arms), claims=_claims(), seeds=seeds, gap=(SMALL, LARGE))


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Per seed: by how many points each kind shrinks the gap; whether the noise diverged."""
    found: dict[str, float] = {}
    accuracy = {name: run.metrics["test_accuracy"] for name, run in runs.items()}
    for kind, strengths in STRENGTHS.items():
        for strength in strengths:
            own, other = _with(SMALL, kind, strength), _with(LARGE, kind, strength)
            if {SMALL, LARGE, own, other} <= accuracy.keys():
                gap = accuracy[SMALL] - accuracy[LARGE]
                found[f"shrinks_gap:{kind}={strength:g}"] = gap - (accuracy[own] - accuracy[other])
    for name, label in ((NOISE, "clipped"), (UNCLIPPED, "unclipped")):
        if name in runs:
            found[f"diverged:{label}"] = float(runs[name].diverged)
    return found


def _with(arm: str, kind: str, strength: float) -> str:
    return f"{arm}+{kind}={strength:g}"


def _gains(kind: str, strength: float) -> Combination:
    """That the large batch gains less than the margin by it."""
    return Combination(f"gains:{kind}={strength:g}", ((_with(LARGE, kind, strength), 1.0), (LARGE, -1.0)), high=MARGIN)


def _claims() -> tuple[Claim, ...]:
    why = f"Margin {MARGIN} points: nobody would retune for less. Seeds: {OTHER_SEEDS}."
    others = tuple(
        claim(
            f"H14-{kind}",
            f"{NAMES[kind]} does not lift the large batch towards the small one, at any of three strengths",
            AllOf(tuple(_gains(kind, each) for each in strengths)),
            why=f"{why} A gap also shrinks where the small batch loses, so the large batch's own gain is what counts.",
        )
        for kind, strengths in STRENGTHS.items()
    )
    return (
        claim(
            "H13",
            "Multiplicative noise does as well as the larger learning rate",
            Greater(NOISE, LR_GBN, -MARGIN),
            why=why,
        ),
        claim("H13-gap", "It closes the gap in part: noise > large batch", Greater(NOISE, LARGE_GBN, MARGIN), why=why),
        claim(
            "H27-clipping",
            "Without clipping it diverges",
            Quantity("diverged:unclipped", low=0.5, unit="of the runs"),
            why=f"More runs diverge than not. Seeds: {OTHER_SEEDS}.",
        ),
        *others,
    )


NOISE_STUDY = Study(
    name="hoffer-noise",
    title="Can noise take the place of a larger step?",
    source="Hoffer, Hubara, Soudry 2017, section 4",
    design=noise_design,
    quantities=quantities,
)
