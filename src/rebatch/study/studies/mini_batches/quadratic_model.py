"""`quadratic-model`: what does a batch buy where everything can be computed? (claims Q3, Q6, Q15 and Q16, exactly)

The noisy quadratic of Zhang et al. (2019, arXiv 1907.04164; `rebatch.quadratic`): steps until the expected loss is
below a target, at the best rate for each batch size, in closed form. Nothing is drawn but where a run starts: each seed
has a start of its own, theta_i ~ N(0, 1), the same for all batch sizes. A model is no net: it says what follows from
curvatures that fall as 1/i and noise that falls as they do, and no more.
"""

import math
from collections.abc import Mapping

from rebatch.recipe import Recipe, Sgd
from rebatch.study.claims import AllOf, Claim, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import QuadraticSteps
from rebatch.study.records import SeedRuns
from rebatch.study.studies.mini_batches.common import DISCUSSION, claim
from rebatch.tasks.task import Task

SIZES = tuple(4**power for power in range(11))
SMALLEST, LARGEST = SIZES[0], SIZES[-1]
# A tenth of the critical batch size (about 900), just above it, and far above it.
BELOW, ABOVE, FAR = 64, 1024, 16_384
MOMENTUM: dict[str, float] = {"sgd": 0.0, "momentum": 0.9}
SGD, HEAVY = MOMENTUM
EXACT = "exact"
# With the batch of a / b examples a step of the time a + b B takes twice as long as the smallest possible one.
HARDWARE_BATCHES = (4, 64, 1024)

SEEDS: dict[Scale, int] = {"quick": 3, "cpu": 10, "paper": 20}

TIE, MORE, WITHIN, THOUSANDS, FLOOR, INTERIOR, REGRET = 0.05, 1.1, 0.2, 2000, 1.05, 1.5, 1.1


def quadratic_model_design(task: Task, scale: Scale) -> Design:
    """Eleven batch sizes and the exact gradient, without momentum and with it."""
    arms = []
    for name, momentum in MOMENTUM.items():
        for size in SIZES:
            arms.append(Arm(name=f"{name}:{size}", recipe=_at(task.recipe, size, momentum), probe=QuadraticSteps()))
        exact, note = _at(task.recipe, LARGEST, momentum), "without noise"
        arms.append(Arm(name=f"{name}:{EXACT}", recipe=exact, probe=QuadraticSteps(exact=True), note=note))
    seeds = SEEDS[scale]
    why = f"Given the start all is exact, and starts move it by about a percent; {seeds} of them."
    claims = (*_example_claims(why), *_momentum_claims(why), *_step_claims(why), *_time_claims(why))
    return Design(arms=tuple(arms), claims=claims, seeds=seeds)


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Steps, rates over 1 - momentum and examples by arm; what claims make of them, and the critical batch size.

    That is the B_crit of the hyperbola through the steps of one example and of the exact gradient.
    """
    found: dict[str, float] = {}
    for arm, run in runs.items():
        name, _, size = arm.partition(":")
        found[f"steps:{arm}"] = run.metrics.get("steps", math.nan)
        found[f"rate:{arm}"] = run.metrics.get("lr", math.nan) / (1.0 - MOMENTUM[name])
        if size != EXACT:
            found[f"examples:{arm}"] = run.recipe.batch_size * found[f"steps:{arm}"]
    if not {f"{name}:{size}" for name in MOMENTUM for size in (*SIZES, EXACT)} <= runs.keys():
        return found
    for name in MOMENTUM:
        found |= _critical(found, name)
    found |= {
        f"time:{batch}:{name}": value for batch in HARDWARE_BATCHES for name, value in _time(found, batch).items()
    }
    examples = {size: found[f"examples:{SGD}:{size}"] for size in SIZES}
    return found | {
        "below": examples[BELOW] / examples[SMALLEST],
        "above": examples[FAR] / examples[ABOVE],
        "single_over_best": examples[SMALLEST] / min(examples[size] for size in SIZES[1:]),
        "last_over_floor": found[f"steps:{SGD}:{LARGEST}"] / found[f"steps:{SGD}:{EXACT}"],
        "critical_ratio": found[f"critical:{HEAVY}"] / found[f"critical:{SGD}"],
        "rate_ratio": found[f"rate:{HEAVY}:{BELOW}"] / found[f"rate:{SGD}:{BELOW}"],
    }


def hyperbola(least_steps: float, critical: float, batch_size: float) -> float:
    """S = S_min (1 + B_crit/B)."""
    return least_steps * (1.0 + critical / batch_size)


def _critical(found: Mapping[str, float], name: str) -> dict[str, float]:
    """The critical batch size, and how far steps are off the hyperbola through both ends."""
    steps = {size: found[f"steps:{name}:{size}"] for size in SIZES}
    least = found[f"steps:{name}:{EXACT}"]
    critical = SMALLEST * (steps[SMALLEST] / least - 1.0)
    off = [abs(steps[size] / hyperbola(least, critical, size) - 1.0) for size in SIZES]
    return {f"critical:{name}": critical, f"off_hyperbola:{name}": max(off)}


def _time(found: Mapping[str, float], hardware_batch: int) -> dict[str, float]:
    """Time to the target of plain SGD in units of the best batch size's, where a step takes a + b B, a/b given.

    `predicted` is at the size nearest to sqrt(B_crit a/b).
    """
    time = {size: found[f"steps:{SGD}:{size}"] * (hardware_batch + size) for size in SIZES}
    best = min(time.values())
    wanted = math.log(found[f"critical:{SGD}"] * hardware_batch) / 2.0
    nearest = min(SIZES, key=lambda size: abs(math.log(size) - wanted))
    return {"smallest": time[SMALLEST] / best, "largest": time[LARGEST] / best, "predicted": time[nearest] / best}


def _at(recipe: Recipe, batch_size: int, momentum: float) -> Recipe:
    return recipe.replace(batch_size=batch_size, optimizer=Sgd(lr=1.0, momentum=momentum))


def _example_claims(why: str) -> tuple[Claim, ...]:
    unit = "x the examples"
    more = f"A tenth more examples would be noticed. {why}"
    return (
        claim(
            "Q3",
            f"Many cheap steps beat few good ones: a larger batch takes more examples, {BELOW} against {SMALLEST} as "
            f"well as {FAR:,} against {ABOVE:,}",
            AllOf((Quantity("below", low=MORE, unit=unit), Quantity("above", low=MORE, unit=unit))),
            after="Bottou 2010",
            why=more,
        ),
        claim(
            "Q3-below",
            f"Up to a batch of {BELOW}, a tenth of the critical one, they tie",
            Quantity("below", low=1.0 - TIE, high=1.0 + TIE, unit=unit),
            expected=1.0,
            ours="where Q3 ends",
            why=f"Within {100 * TIE:g} %. {why}",
        ),
        claim(
            "Q3-above",
            f"Above it cheap steps win: {FAR:,} take more examples than {ABOVE:,}",
            Quantity("above", low=MORE, unit=unit),
            ours="where Q3 begins",
            why=more,
        ),
        claim(
            "Q3-hyperbola",
            f"Steps are S_min (1 + B_crit/B) within {100 * WITHIN:g} % at all batch sizes",
            AllOf(tuple(Quantity(f"off_hyperbola:{name}", high=WITHIN, unit="off, as a share") for name in MOMENTUM)),
            expected=0.0,
            ours="the price of a batch (McCandlish et al. 2018)",
            why="From both ends alone, and good enough to choose a batch. Written when the steps of three other starts "
            f"had been seen. {why}",
        ),
        claim(
            "Q6-exact",
            "Pure SGD is inefficient: one example a step takes more examples than the best batch",
            Quantity("single_over_best", low=MORE, unit=unit),
            why=f"{more} Per example; what it costs in hours is Q14.",
        ),
    )


def _momentum_claims(why: str) -> tuple[Claim, ...]:
    factor = (1.0 + MOMENTUM[HEAVY]) / (1.0 - MOMENTUM[HEAVY])
    unit = "x the critical batch size"
    return (
        claim(
            "Q3-greedy",
            f"Momentum {MOMENTUM[HEAVY]:g} lowers the critical batch size, as if batches were (1+mu)/(1-mu) times as "
            "large",
            Quantity("critical_ratio", high=0.5, unit=unit),
            expected=1.0 / factor,
            ours="what one greedy step says of momentum (kexue.fm 11301)",
            why=f"The direction alone, by half at least. {why}",
        ),
        claim(
            "Q3-momentum",
            "It raises it (1+mu)/(1-mu)-fold, as it does the largest stable lr/(1-mu)",
            Quantity("critical_ratio", low=factor * (1 - WITHIN), high=factor * (1 + WITHIN), unit=unit),
            expected=factor,
            ours="the counterpart: only the cap of the rate moves",
            why=f"Within {100 * WITHIN:g} %, as the hyperbola. {why}",
        ),
        claim(
            "Q3-rate",
            f"Below both critical batch sizes, at {BELOW}, the best lr/(1-mu) is the same with momentum and without",
            Quantity("rate_ratio", low=0.9, high=1.1, unit="x the rate"),
            expected=1.0,
            ours="what stays when momentum changes",
            why=f"Within 10 %: steps are flat around the best rate. {why}",
        ),
    )


def _step_claims(why: str) -> tuple[Claim, ...]:
    return (
        claim(
            "Q15-exact",
            "However good the gradient is, training needs thousands of steps: there is a floor, and SGD reaches it",
            AllOf(
                (
                    Quantity(f"steps:{SGD}:{EXACT}", low=THOUSANDS, unit="steps"),
                    Quantity("last_over_floor", high=FLOOR, unit="x the floor"),
                )
            ),
            why=f"Thousands are {THOUSANDS:,}; the floor is that of the exact gradient. {why}",
        ),
        claim(
            "Q15-momentum",
            f"With momentum {MOMENTUM[HEAVY]:g} too it needs thousands of steps",
            Quantity(f"steps:{HEAVY}:{EXACT}", low=THOUSANDS, unit="steps"),
            ours="whether the floor of Q15 is the loss's or the optimizer's",
            why=f"Thousands are {THOUSANDS:,}. {why}",
        ),
    )


def _time_claims(why: str) -> tuple[Claim, ...]:
    unit = "x the best time"
    ends = [f"time:{batch}:{end}" for batch in HARDWARE_BATCHES for end in ("smallest", "largest")]
    return (
        claim(
            "Q16-exact",
            "Where a step takes a + b B, the best batch lies in between: one example and all of them take longer",
            AllOf(tuple(Quantity(name, low=INTERIOR, unit=unit) for name in ends)),
            why=f"Half as long again at either end, for a/b of {', '.join(map(str, HARDWARE_BATCHES))}. {why}",
        ),
        claim(
            "Q16-law",
            "It is near sqrt(B_crit a/b)",
            AllOf(tuple(Quantity(f"time:{batch}:predicted", high=REGRET, unit=unit) for batch in HARDWARE_BATCHES)),
            expected=1.0,
            ours="what the hyperbola says of Q16",
            why=f"The power of 4 next to it takes at most {100 * (REGRET - 1):.0f} % more than the best. {why}",
        ),
    )


QUADRATIC_MODEL = Study(
    name="quadratic-model",
    title="What does a batch buy in the noisy quadratic model, exactly?",
    source=DISCUSSION,
    design=quadratic_model_design,
    quantities=quantities,
    task="simulation",
)
