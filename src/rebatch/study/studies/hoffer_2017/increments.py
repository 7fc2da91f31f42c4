"""`hoffer-increments`: what do rate and noise do to mean and covariance of one update? (claims H12 and H27)"""

import math
from collections.abc import Mapping

from rebatch.recipe import Recipe
from rebatch.study.claims import AllOf, Claim, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import Increments
from rebatch.study.records import SeedRuns
from rebatch.study.studies.hoffer_2017.common import LARGE, SMALL, claim, kappa, large_batch, seeds_of
from rebatch.tasks.task import Task
from rebatch.transfer import transfer

SQRT, LINEAR, NOISE = "large_batch+sqrt", "large_batch+linear", "large_batch+noise"

# Where the weights are frozen: at the start, after a tenth of the run, at its end.
PLACES = (0.0, 0.1, 1.0)


def increments_design(task: Task, scale: Scale) -> Design:
    """One update at frozen weights, many times over: the small batch, and the large one under four rules."""
    size = large_batch(task)
    draws = {"quick": 50, "cpu": 200, "paper": 1000}[scale]
    probe = Increments(after=PLACES, draws=draws)
    small = task.recipe.replace(ghost_batch_size=task.recipe.batch_size)

    def moved(*rules: str) -> Recipe:
        return transfer(small, batch_size=size, rules=(*rules, "same_epochs"), examples=task.train).recipe

    recipes = {
        SMALL: small,
        LARGE: moved(),
        SQRT: moved("sqrt_lr"),
        LINEAR: moved("linear_lr"),
        NOISE: moved("matching_noise"),
    }
    arms = tuple(Arm(name=name, recipe=recipe, probe=probe) for name, recipe in recipes.items())
    return Design(arms=arms, claims=_claims(task), seeds=seeds_of(task, scale))


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Traces of the covariance and lengths of the mean over those of the small batch, at each place."""
    found: dict[str, float] = {}
    if SMALL not in runs:
        return found
    own = runs[SMALL].metrics
    for name, run in runs.items():
        if name == SMALL:
            continue
        for place in PLACES:
            trace, square = (run.metrics[f"{kind}@{place:g}"] for kind in ("trace", "mean_square"))
            found[f"trace_ratio:{name}@{place:g}"] = trace / own[f"trace@{place:g}"]
            if min(square, own[f"mean_square@{place:g}"]) > 0:
                found[f"mean_ratio:{name}@{place:g}"] = math.sqrt(square / own[f"mean_square@{place:g}"])
    return found


def _claims(task: Task) -> tuple[Claim, ...]:
    factor, share = kappa(task), (task.train - large_batch(task)) / (task.train - task.recipe.batch_size)
    why = (
        f"Within a tenth of what sampling without replacement allows: {share:.3f} of the ratio with replacement. "
        "Each seed is a net of its own; the spread over seeds holds the error of the estimate."
    )

    def all_places(kind: str, arm: str, expected: float, *, within: float = 0.1) -> AllOf:
        low, high = expected * (1 - within), expected * (1 + within)
        return AllOf(tuple(Quantity(f"{kind}:{arm}@{place:g}", low=low, high=high, unit="x") for place in PLACES))

    return (
        claim(
            "H12",
            "With the square-root rate the update's covariance is that of the small batch",
            all_places("trace_ratio", SQRT, share),
            expected=1.0,
            why=why,
        ),
        claim(
            "H12-linear",
            f"With the linear rate it is kappa = {factor} times that",
            all_places("trace_ratio", LINEAR, factor * share),
            expected=float(factor),
            why=why,
        ),
        claim(
            "H12-mean",
            "The change of the mean step is negligible: its length stays within a tenth",
            all_places("mean_ratio", SQRT, 1.0),
            why="The paper calls it negligible; the rule itself makes it sqrt(kappa). A tenth would be negligible.",
        ),
        claim(
            "H27",
            "Multiplicative noise matches covariance and mean",
            AllOf(
                (
                    *all_places("mean_ratio", NOISE, 1.0).parts,
                    *all_places("trace_ratio", NOISE, 1.0, within=0.2).parts,
                )
            ),
            expected=1.0,
            why=why + " For the noise 0.2, since the mean gradient adds a term that the paper leaves out.",
        ),
    )


INCREMENTS = Study(
    name="hoffer-increments",
    title="What do rate and noise do to a single update?",
    source="Hoffer, Hubara, Soudry 2017, section 4",
    design=increments_design,
    quantities=quantities,
)
