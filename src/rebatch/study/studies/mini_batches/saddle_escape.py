"""`saddle-escape`: what has the batch to do with leaving saddles and bad minima? A simulation (claims Q4 and Q5).

Neither claim says that real training needs it. Random starts avoid saddles anyway (Lee et al., 2016, arXiv 1602.04915),
which Q4-random shows here, though it can take long (Du et al., 2017, arXiv 1705.10412); and on CIFAR-10 the full batch
reaches the accuracy of SGD (Geiping et al., 2021, arXiv 2109.14119).
"""

from collections.abc import Mapping

import numpy as np

from rebatch.escape import CURVATURE, kramers_exponent, saddle_slope
from rebatch.recipe import Recipe, Sgd
from rebatch.study.claims import AllOf, Claim, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import Escape, SurfaceName
from rebatch.study.records import SeedRuns
from rebatch.study.studies.mini_batches.common import DISCUSSION, claim
from rebatch.tasks.task import Task

SADDLES: tuple[SurfaceName, ...] = ("saddle", "sphere")
WELL: SurfaceName = "double_well"
FULL, RANDOM = "full_batch", "random_start"

# The law of saddles is asymptotic in B/sigma^2: with noise of 1/4 from a batch of 4 on the noise is small beside the
# way. The exact gradient is given 30 times the steps that the largest batch takes.
SADDLE_LR, SADDLE_NOISE, SADDLE_BATCHES = 0.02, 0.25, (4, 16, 64, 256, 1024)
MOST, SPREAD, SADDLE_WALKERS = 10_000, 0.01, 500

# Kramers' exponents 3.75, 5, 6.25 and 7.5: high barriers take too long, low ones are none. Then the rate is scaled with
# the batch, up to the arm of 16 that both have: exponent 5.
WELL_LR, WELL_NOISE, WELL_BATCHES = 0.1, 4.0, (12, 16, 20, 24)
LINEAR = {2: 0.0125, 4: 0.025, 8: 0.05, 16: WELL_LR}
NEVER = 10**9

# Walkers per run in the well, and seeds. Where all runs are equal the sign test decides, for which ten are enough.
WELL_WALKERS: dict[Scale, int] = {"quick": 40, "cpu": 200, "paper": 1000}
SEEDS: dict[Scale, int] = {"quick": 3, "cpu": 10, "paper": 20}
LEAST_SEEDS = 10

SADDLE_WITHIN, WELL_WITHIN, LINEAR_WITHIN = 0.05, 0.1, 0.2


def saddle_escape_design(task: Task, scale: Scale) -> Design:
    """Saddles with noise, without, and without from a random start; the well at one rate, and at one rate/batch."""
    arms = [arm for surface in SADDLES for arm in _saddle_arms(task.recipe, surface)]
    well = Escape(surface=WELL, walkers=WELL_WALKERS[scale], most=NEVER, noise=WELL_NOISE)
    rates = dict.fromkeys(WELL_BATCHES, WELL_LR) | LINEAR
    arms += [Arm(name=f"{WELL}:{size}", recipe=_at(task.recipe, size, lr), probe=well) for size, lr in rates.items()]
    return Design(arms=tuple(arms), claims=(*_saddle_claims(), *_well_claims()), seeds=SEEDS[scale])


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Shares that left, mean steps, their slopes over ln B or Kramers' exponent, and what linear scaling keeps."""
    found: dict[str, float] = {}
    for name, run in runs.items():
        found |= {f"{kind}:{name}": value for kind, value in run.metrics.items()}
    steps = {name: run.metrics["steps"] for name, run in runs.items() if "steps" in run.metrics}
    for surface in SADDLES:
        sizes = [size for size in SADDLE_BATCHES if f"{surface}:{size}" in steps]
        if len(sizes) == len(SADDLE_BATCHES):
            means = [steps[f"{surface}:{size}"] for size in sizes]
            found[f"slope:{surface}"] = float(np.polyfit(np.log(sizes), means, 1)[0])
            found[f"longer:{surface}"] = means[-1] - means[0]
    if all(f"{WELL}:{size}" in steps for size in WELL_BATCHES):
        heights = [kramers_exponent(size, WELL_LR, WELL_NOISE) for size in WELL_BATCHES]
        logs = np.log([steps[f"{WELL}:{size}"] for size in WELL_BATCHES])
        found[f"slope:{WELL}"] = float(np.polyfit(heights, logs, 1)[0])
    smallest, *_, largest = LINEAR
    if {f"{WELL}:{smallest}", f"{WELL}:{largest}"} <= steps.keys():
        seen = {size: size * steps[f"{WELL}:{size}"] for size in (smallest, largest)}
        found["examples_ratio"] = seen[largest] / seen[smallest]
    return found


def _at(recipe: Recipe, batch_size: int, lr: float) -> Recipe:
    return recipe.replace(batch_size=batch_size, optimizer=Sgd(lr=lr))


def _saddle_arms(recipe: Recipe, surface: SurfaceName) -> list[Arm]:
    noisy = Escape(surface=surface, walkers=SADDLE_WALKERS, most=MOST, noise=SADDLE_NOISE)
    exact = Escape(surface=surface, walkers=1, most=MOST)
    spread = Escape(surface=surface, walkers=SADDLE_WALKERS, most=MOST, spread=SPREAD)
    largest = _at(recipe, SADDLE_BATCHES[-1], SADDLE_LR)
    return [
        *(
            Arm(name=f"{surface}:{size}", recipe=_at(recipe, size, SADDLE_LR), probe=noisy, seeds=LEAST_SEEDS)
            for size in SADDLE_BATCHES
        ),
        Arm(name=f"{surface}:{FULL}", recipe=largest, probe=exact, seeds=LEAST_SEEDS, note="the exact gradient"),
        Arm(
            name=f"{surface}:{RANDOM}",
            recipe=largest,
            probe=spread,
            seeds=LEAST_SEEDS,
            note=f"the exact gradient, from N(0, {SPREAD:g}^2) around the saddle",
        ),
    ]


def _saddle_claims() -> tuple[Claim, ...]:
    equal = f"All or none within {MOST:,} steps; {LEAST_SEEDS} seeds, since equal numbers are judged by the sign test."

    def share(arm: str, *, none: bool) -> Quantity:
        low, high = (None, 0.01) if none else (0.99, None)
        return Quantity(f"left:{arm}", low=low, high=high, unit="of all walkers")

    slopes = {surface: saddle_slope(SADDLE_LR, CURVATURE[surface]) for surface in SADDLES}
    return (
        claim(
            "Q4",
            "On a saddle the exact gradient stays for ever, and with noise every walker leaves",
            AllOf(
                (
                    *(share(f"{surface}:{FULL}", none=True) for surface in SADDLES),
                    *(share(f"{surface}:{size}", none=False) for surface in SADDLES for size in SADDLE_BATCHES),
                )
            ),
            after="Ge et al. 2015",
            expected=0.0,
            why=f"{equal} Exactly on the saddle, which no random start is (Lee et al. 2016): see Q4-random.",
        ),
        claim(
            "Q4-log",
            "The steps that it takes grow with the batch only as ln B / (2 ln(1 + lr c))",
            AllOf(
                tuple(
                    Quantity(
                        f"slope:{surface}",
                        low=slope * (1 - SADDLE_WITHIN),
                        high=slope * (1 + SADDLE_WITHIN),
                        unit="steps per ln B",
                    )
                    for surface, slope in slopes.items()
                )
            ),
            expected=slopes[SADDLES[0]],
            ours="linear growth of noise along a direction of curvature -c",
            why=f"The law is asymptotic; within {100 * SADDLE_WITHIN:g} %. {LEAST_SEEDS} seeds of {SADDLE_WALKERS} "
            "walkers resolve one percent.",
        ),
        claim(
            "Q4-random",
            "From a random start near by the exact gradient leaves too",
            AllOf(tuple(share(f"{surface}:{RANDOM}", none=False) for surface in SADDLES)),
            ours="a counter-fact to Q4 (Lee et al. 2016)",
            expected=1.0,
            why=f"{equal} Near by, and two saddles: in general it can take exponentially long (Du et al. 2017).",
        ),
    )


def _well_claims() -> tuple[Claim, ...]:
    return (
        claim(
            "Q5",
            "The log of the time to leave a bad minimum grows as 2 B dL / (lr sigma^2)",
            Quantity(f"slope:{WELL}", low=1 - WELL_WITHIN, high=1 + WELL_WITHIN, unit="x the exponent"),
            after="Kramers 1940",
            expected=1.0,
            why=f"Exact for high barriers; within {100 * WELL_WITHIN:g} % at those that can be waited for. That it is "
            "needed does not follow: on CIFAR-10 the full batch reaches SGD's accuracy (Geiping et al. 2021).",
        ),
        claim(
            "Q5-linear",
            "So linear scaling of the rate keeps the examples that it takes, at 8 times the batch",
            Quantity("examples_ratio", low=1 - LINEAR_WITHIN, high=1 + LINEAR_WITHIN, unit="x the examples"),
            ours="what follows of Q5",
            expected=1.0,
            why=f"Within {100 * LINEAR_WITHIN:g} %: at the same rate it would be exp(35) times as many.",
        ),
    )


SADDLE_ESCAPE = Study(
    name="saddle-escape",
    title="What has the batch to do with leaving saddles and bad minima?",
    source=DISCUSSION,
    design=saddle_escape_design,
    quantities=quantities,
    task="simulation",
)
