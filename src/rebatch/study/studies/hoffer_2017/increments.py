"""`hoffer-increments`: what do rate and noise do to mean and covariance of one update? (claims H12 and H27)

The argument adds up the gradients of independent examples. Batch norm couples those of a batch, and ghosts only cut the
batch into smaller ones, so the study runs where it is not told otherwise on a net without batch norm.
"""

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

# Updates per place.
DRAWS: dict[Scale, int] = {"quick": 50, "cpu": 200, "paper": 1000}
# At the end of a run the mean step is small beside its noise and takes many draws; here one takes a millisecond.
MANY_DRAWS = {"digits/mlp-plain": 2000}

# Two covariances or two mean steps are alike if they differ by no more than this share.
WITHIN = 0.1

AS_LONG = "times as long"
IN_TRACES = "squared length, in traces of the small batch's covariance"


def increments_design(task: Task, scale: Scale) -> Design:
    """One update at frozen weights, many times over: the small batch, and the large one under four rules."""
    size = large_batch(task)
    draws = DRAWS[scale] if scale == "quick" else MANY_DRAWS.get(task.name, DRAWS[scale])
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
    """Traces of the covariance over that of the small batch, and lengths of the mean, at each place.

    `mean_ratio` is the length of the mean step over that of the small batch's, where both squares are estimated above
    zero: at the start always, later the mean is small beside the noise and a ratio no fair test. `mean_above` and
    `mean_below` are |E dw|^2 less (0.9 |E dw_small|)^2 and (1.1 |E dw_small|)^2, over the small batch's trace: means of
    unbiased estimates, of every seed.
    """
    found: dict[str, float] = {}
    if SMALL not in runs:
        return found
    own = runs[SMALL].metrics
    for name, run in runs.items():
        if name == SMALL:
            continue
        for place in PLACES:
            trace, square = (run.metrics[f"{kind}@{place:g}"] for kind in ("trace", "mean_square"))
            own_trace, own_square = (own[f"{kind}@{place:g}"] for kind in ("trace", "mean_square"))
            found[f"trace_ratio:{name}@{place:g}"] = trace / own_trace
            found[f"mean_above:{name}@{place:g}"] = (square - (1 - WITHIN) ** 2 * own_square) / own_trace
            found[f"mean_below:{name}@{place:g}"] = (square - (1 + WITHIN) ** 2 * own_square) / own_trace
            if min(square, own_square) > 0:
                found[f"mean_ratio:{name}@{place:g}"] = math.sqrt(square / own_square)
    return found


def _claims(task: Task) -> tuple[Claim, ...]:
    factor, share = kappa(task), (task.train - large_batch(task)) / (task.train - task.recipe.batch_size)
    why = (
        "Within a tenth: nobody would call that another covariance. Each seed is a net of its own; the spread over "
        "seeds holds the error of the estimate."
    )

    def traces(arm: str, expected: float, *, within: float = WITHIN) -> tuple[Quantity, ...]:
        low, high = expected * (1 - within), expected * (1 + within)
        return tuple(Quantity(f"trace_ratio:{arm}@{place:g}", low=low, high=high, unit="x") for place in PLACES)

    def same_mean(arm: str) -> tuple[Quantity, ...]:
        start, *later = PLACES
        ratio = Quantity(f"mean_ratio:{arm}@{start:g}", low=1 - WITHIN, high=1 + WITHIN, unit=AS_LONG)
        below = [Quantity(f"mean_below:{arm}@{place:g}", high=0.0, unit=IN_TRACES) for place in later]
        above = [Quantity(f"mean_above:{arm}@{place:g}", low=0.0, unit=IN_TRACES) for place in later]
        return (ratio, *below, *above)

    return (
        claim(
            "H12",
            "With the square-root rate the update's covariance is that of the small batch",
            AllOf(traces(SQRT, 1.0)),
            expected=1.0,
            why=why,
        ),
        claim(
            "H12-exact",
            f"It is {share:.3f} of that, since batches are drawn without replacement",
            AllOf(traces(SQRT, share)),
            source="rebatch: (N - B_large)/(N - B_small), for gradients that do not couple examples",
            why=why,
        ),
        claim(
            "H12-linear",
            f"With the linear rate it is kappa = {factor} times that of the small batch",
            AllOf(traces(LINEAR, float(factor))),
            expected=float(factor),
            why=why,
        ),
        claim(
            "H12-mean",
            "The change of the mean step is negligible: its length stays within a tenth",
            AllOf(same_mean(SQRT)),
            why="The paper calls it negligible; the rule itself makes it sqrt(kappa). A tenth would be negligible.",
        ),
        claim(
            "H27",
            "Multiplicative noise matches covariance and mean",
            AllOf((*traces(NOISE, 1.0, within=2 * WITHIN), *same_mean(NOISE))),
            expected=1.0,
            why=why + " For the noise two tenths, since the mean gradient adds a term that the paper leaves out.",
        ),
    )


INCREMENTS = Study(
    name="hoffer-increments",
    title="What do rate and noise do to a single update?",
    source="Hoffer, Hubara, Soudry 2017, section 4",
    design=increments_design,
    quantities=quantities,
    task="digits/mlp-plain",
)
