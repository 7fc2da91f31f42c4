"""`bagging`: do predictions of one run scatter as little as those of an ensemble of bootstrap models? (claim Q8)

Bagging (Breiman, 1996) averages the predictions of models that were trained on samples of the data with replacement,
and so cuts the variance of the learner. A run of SGD sees samples of the data too. What scatters here is the whole
learner: each repetition has another half of the training set, another start and another order.
"""

import math
from collections.abc import Mapping

from rebatch.recipe import Epochs
from rebatch.schedule import Constant
from rebatch.study.claims import AllOf, Claim, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import Bagging
from rebatch.study.records import SeedRuns
from rebatch.study.studies.mini_batches.common import DISCUSSION, claim
from rebatch.tasks.task import Task

# The task's own schedule, whose rate falls to a hundredth, and a rate that does not fall.
REFERENCE, CONSTANT = "reference", "constant_rate"
ARMS = (REFERENCE, CONSTANT)
KINDS = ("last", "averaged", "long", "bootstrap", "ensemble")
LAST, AVERAGED, LONG, _, ENSEMBLE = KINDS

MODELS, DECAY = 5, 0.99
REPETITIONS: dict[Scale, int] = {"quick": 3, "cpu": 6, "paper": 20}
SEEDS: dict[Scale, int] = {"quick": 3, "cpu": 10, "paper": 20}

# Shares of a variance that are alike, that are a cut, and a difference of accuracies.
ALIKE, CUT, POINTS = 1.2, 0.8, 0.3


def bagging_design(task: Task, scale: Scale) -> Design:
    """The same learners at the task's schedule and at a constant rate."""
    recipe = task.recipe if task.name.startswith("digits/") else task.recipe.replace(budget=Epochs(1))
    probe = Bagging(repetitions=REPETITIONS[scale], models=MODELS, decay=DECAY)
    note = f"ensembles and long runs take {MODELS} times the steps"
    arms = (
        Arm(name=REFERENCE, recipe=recipe, probe=probe, note=note),
        Arm(name=CONSTANT, recipe=recipe.replace(schedule=Constant()), probe=probe, note=note),
    )
    why = f"{SEEDS[scale]} seeds draw the split of the data; {REPETITIONS[scale]} repetitions give each variance."
    return Design(arms=arms, claims=_claims(why), seeds=SEEDS[scale])


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Variances and accuracies by arm and kind; `cut:...` and `gain:...` are ratios and differences to `last`."""
    found: dict[str, float] = {}
    for arm, run in runs.items():
        found |= {f"{name}:{arm}": value for name, value in run.metrics.items()}
        variance, accuracy = (
            {kind: run.metrics.get(f"{name}:{kind}", math.nan) for kind in KINDS} for name in ("variance", "accuracy")
        )
        for kind in KINDS[1:]:
            found[f"cut:{kind}:{arm}"] = variance[kind] / variance[LAST]
            found[f"gain:{kind}:{arm}"] = accuracy[kind] - accuracy[LAST]
        found[f"run_over_ensemble:{arm}"] = variance[LAST] / variance[ENSEMBLE]
        found[f"averaged_over_ensemble:{arm}"] = variance[AVERAGED] / variance[ENSEMBLE]
    return found


def _at_both(name: str, *, low: float | None = None, high: float | None = None, unit: str) -> AllOf:
    return AllOf(tuple(Quantity(f"{name}:{arm}", low=low, high=high, unit=unit) for arm in ARMS))


def _claims(why: str) -> tuple[Claim, ...]:
    unit = "x the variance"
    alike = f"Alike is within {100 * (ALIKE - 1):.0f} %. {why}"
    cut = f"By {100 * (1 - CUT):.0f} % at least, which a few more examples would do too. {why}"
    return (
        claim(
            "Q8",
            f"SGD is a kind of bagging: predictions of one run scatter no more than the mean of {MODELS} bootstrap "
            "models'",
            _at_both("run_over_ensemble", high=ALIKE, unit=unit),
            expected=1.0,
            why=alike,
        ),
        claim(
            "Q8-bagging",
            f"Bagging itself cuts the variance of predictions: {MODELS} bootstrap models beside one run",
            _at_both(f"cut:{ENSEMBLE}", high=CUT, unit=unit),
            ours="what Q8 compares with (Breiman 1996)",
            why=cut,
        ),
        claim(
            "Q8-longer",
            f"{MODELS} times the steps in one run do not: the ensemble's work is not what cuts it",
            _at_both(f"cut:{LONG}", low=CUT, unit=unit),
            ours="the control of Q8-bagging, at its cost",
            why=f"Not by {100 * (1 - CUT):.0f} %. {why}",
        ),
        claim(
            "Q8-average",
            "At a constant rate the average of a run's weights scatters less than its last weights",
            Quantity(f"cut:{AVERAGED}:{CONSTANT}", high=CUT, unit=unit),
            ours="what of bagging a run can have",
            why=f"{cut} The average remembers about {1 / (1 - DECAY):.0f} steps.",
        ),
        claim(
            "Q8-average-decayed",
            "At a rate that falls to a hundredth it does so too",
            Quantity(f"cut:{AVERAGED}:{REFERENCE}", high=CUT, unit=unit),
            ours="whether a falling rate has averaged already",
            why=cut,
        ),
        claim(
            "Q8-enough",
            "The average of the weights does the ensemble's job",
            _at_both("averaged_over_ensemble", high=ALIKE, unit=unit),
            expected=1.0,
            ours="weight averages in place of ensembles",
            why=alike,
        ),
        claim(
            "Q8-accuracy",
            "The ensemble is more accurate than one run",
            _at_both(f"gain:{ENSEMBLE}", low=POINTS, unit="points"),
            ours="what a smaller variance is good for",
            why=f"{POINTS} points would be worth five models to some; each of them sees 63 % of the examples. {why}",
        ),
    )


BAGGING = Study(
    name="bagging",
    title="Do predictions of one run scatter as little as a bagged ensemble's?",
    source=DISCUSSION,
    design=bagging_design,
    quantities=quantities,
    task="digits/mlp-plain",
)
