"""What `small-batches` claims, with margins and their reasons."""

import math
from collections.abc import Sequence

from rebatch.study.claims import AllOf, Claim, Combination, Greater, Quantity
from rebatch.study.studies.hoffer_2017.common import MARGIN
from rebatch.study.studies.mini_batches.common import claim
from rebatch.study.studies.mini_batches.small_batch_arms import (
    BEST_LARGE,
    BEST_SMALL,
    EPOCHS,
    FLAT,
    LARGEST_SMALL,
    STEPS,
    TUNED_SMALL,
    course_arm,
    tuned,
)
from rebatch.tasks.task import Task

# Percent of the training set: a net that has learned its task, though not every example.
LEARNED = 90.0

# Octaves: a quarter more, and twice.
QUARTER, TWICE = math.log2(1.25), 1.0
# "Thousands".
MANY_STEPS = 1000
# A hyperbola has two parameters; so many sizes test it.
FEWEST = 4
# Rescaled weights are the same function up to rounding.
SAME_FUNCTION = 1e-5

POINTS = f"Margin {MARGIN} points: nobody would retune for less."
COST = "A quarter more, log2 1.25: less would not decide about a batch size."


def small_batch_claims(
    task: Task,
    courses: Sequence[int],
    small: Sequence[int],
    large: Sequence[int],
    targets: Sequence[int],
    *,
    seeds: int,
    each: int,
) -> tuple[Claim, ...]:
    """Claims of a design with these batch sizes; `seeds` of the arms on accuracy, `each` of the others."""
    why, why_each = f"{seeds} seeds for chosen arms.", f"{each} seeds: as many as the time of this scale allows."
    return (
        *_accuracy_claims(courses, small, large, why, why_each),
        *_flat_claims(why_each),
        *_example_claims(targets, why_each),
        *_step_claims(task, targets, why_each),
        *_time_claims(task, targets, why_each),
    )


def _accuracy_claims(
    courses: Sequence[int], small: Sequence[int], large: Sequence[int], why: str, why_each: str
) -> tuple[Claim, ...]:
    sizes = ", ".join(map(str, large[:-1])) + f" and {large[-1]}"
    above = [each for each in courses if each > LARGEST_SMALL]

    def gap(budget: str, weight: float = 1.0) -> tuple[tuple[str, float], ...]:
        """A batch of 32 less the mean of the larger ones."""
        larger = ((course_arm(budget, each), -weight / len(above)) for each in above)
        return ((course_arm(budget, LARGEST_SMALL), weight), *larger)

    return (
        claim(
            "Q9",
            f"At equal epochs and a rate in proportion to the batch, the best of {courses[0]} to {LARGEST_SMALL} beats "
            f"the best of {above[0]} to {above[-1]}",
            Greater(BEST_SMALL, BEST_LARGE, MARGIN),
            after="Masters and Luschi 2018",
            why=f"{POINTS} Both are chosen on the validation split by seeds of their own. {why}",
        ),
        claim(
            "Q9-steps",
            "At equal updates less than half of the larger batches' loss against 32 is left",
            AllOf(
                (
                    Combination("gap left over half of it", (*gap(STEPS), *gap(EPOCHS, -0.5)), high=0.0),
                    Combination("gap:epochs", gap(EPOCHS), low=MARGIN),
                )
            ),
            ours="what remains of Q9 with as many updates",
            why=f"{POINTS} Mean over {above[0]} to {above[-1]}, a diverged run at chance; the larger batches see more "
            f"examples. {why_each}",
        ),
        claim(
            "Q10",
            f"Even at its own best rate each of {sizes} is worse than the best of {small[0]} to {LARGEST_SMALL}",
            AllOf(tuple(Greater(TUNED_SMALL, tuned(each), MARGIN) for each in large)),
            after="LeCun 2018",
            why=f"{POINTS} Equal epochs; rates chosen on the validation split, more trials for the small ones. {why}",
        ),
        claim(
            "Q10-64",
            f"At its own best rate a batch of {large[0]} does no worse",
            Greater(tuned(large[0]), TUNED_SMALL, -MARGIN),
            ours="the counterpart of Q10",
            why=f"{POINTS} {why}",
        ),
    )


def _flat_claims(why: str) -> tuple[Claim, ...]:
    small, large = FLAT
    measured = (
        f"The top eigenvalue after the last step, on 1,000 training examples; a net that has not learned is flat for "
        f"another reason. {COST} {why}"
    )

    def learned(budget: str) -> tuple[Quantity, ...]:
        return tuple(
            Quantity(f"train_accuracy:{budget}, batch {each}", low=LEARNED, unit="% of the training set")
            for each in FLAT
        )

    return (
        claim(
            "Q7",
            f"At one rate and equal updates a batch of {small} ends flatter than one of {large}",
            Quantity("flatter:steps", low=QUARTER, unit="octaves of the top eigenvalue"),
            after="Keskar et al. 2017",
            why=measured,
            premise=learned("steps"),
        ),
        claim(
            "Q7-epochs",
            "So it does at equal epochs",
            Quantity("flatter:epochs", low=QUARTER, unit="octaves of the top eigenvalue"),
            after="Keskar et al. 2017",
            why=f"{measured} The large batch then has far fewer updates.",
            premise=learned("epochs"),
        ),
        claim(
            "Q7-rescale",
            "Rescaled layers around a ReLU have another top eigenvalue and are the same function",
            AllOf(
                (
                    Quantity("rescaled_by", low=TWICE, unit="octaves of the top eigenvalue"),
                    Quantity("rescaled_outputs_move", high=SAME_FUNCTION, unit="of the largest output"),
                )
            ),
            ours="a counter-fact to Q7 (Dinh et al. 2017)",
            why=f"Arithmetic: 8 and 1/8, powers of two, so that rounding has no part in it. {why}",
        ),
    )


def _example_claims(targets: Sequence[int], why: str) -> tuple[Claim, ...]:
    reason = f"{COST} Rates tuned for each size, constant, by trainings of their own. {why}"
    unit = "octaves of examples"
    claims = (
        claim(
            "Q10-examples",
            "To the target a batch of 64 needs over a quarter more examples than one of 32",
            Quantity("log2_examples:64/32", low=QUARTER, unit=unit),
            after="LeCun 2018",
            why=reason,
        ),
        claim(
            "Q10-below",
            "Up to 32 nothing is lost: 32 needs at most a quarter more examples than 4",
            Quantity("log2_examples:32/4", high=QUARTER, unit=unit),
            ours="below the knee a larger batch costs nothing",
            why=reason,
        ),
    )
    if 1 not in targets:
        return claims
    pure = claim(
        "Q6",
        "Pure SGD (batch 1) needs over a quarter more examples to the target than a batch of 32",
        Quantity("log2_examples:1/32", low=QUARTER, unit=unit),
        why=reason,
    )
    hours = claim(
        "Q6-hours",
        "It takes over twice the time",
        Quantity("log2_seconds:1/32", low=TWICE, unit="octaves of seconds"),
        why=f"Twice: a clear loss. {_MACHINE} {why}",
    )
    return (pure, hours, *claims)


_MACHINE = "Steps times the seconds of a step on the machine of the runs, medians of interleaved repeats."


def _most(task: Task, targets: Sequence[int]) -> str:
    most = max(targets)
    return "the full batch" if most == task.train else f"a batch of {most:,}"


def _step_claims(task: Task, targets: Sequence[int], why: str) -> tuple[Claim, ...]:
    most = max(targets)
    return (
        claim(
            "Q15",
            f"However good the gradient: {_most(task, targets)} takes over {MANY_STEPS:,} steps to the target",
            Quantity(f"steps:{most}", low=MANY_STEPS, unit="steps"),
            why=f"Thousands of steps, as the discussion has it. {why}",
        ),
        claim(
            "Q15-floor",
            f"There is a floor: half of the steps of {_most(task, targets)} are left however large the batch",
            AllOf(
                (
                    Quantity(f"floor_share:{most}", low=0.5, unit="of its steps"),
                    Quantity(f"log2_steps:{most // 4}/{most}", high=1.0, unit="octaves of steps"),
                )
            ),
            ours="what Q15 means, whatever the number",
            why=f"Fit of S_min (1 + B_crit/B); without it: steps fall to no less than half from {most // 4:,} to "
            f"{most:,}, where perfect scaling would leave a quarter. {why}",
        ),
    )


def _time_claims(task: Task, targets: Sequence[int], why: str) -> tuple[Claim, ...]:
    most, unit = max(targets), "octaves of seconds"
    return (
        claim(
            "Q14",
            f"In the same hours many small steps get further: to the target {_most(task, targets)} takes over a "
            "quarter longer than 32",
            Quantity(f"log2_seconds:{most}/32", low=QUARTER, unit=unit),
            why=f"{COST} {_MACHINE} {why}",
        ),
        claim(
            "Q14-formula",
            "The fastest batch size is sqrt(a B_crit / b), from t(B) = a + b B and S = S_min (1 + B_crit/B)",
            Quantity("best_off_formula", low=-1.0, high=1.0, unit="octaves of the batch size"),
            expected=0.0,
            ours="what Q14 and Q16 come to",
            why=f"Within an octave, since sizes are octaves. {_MACHINE} {why}",
        ),
        claim(
            "Q16",
            f"The best is in between: batch {min(targets)} and {_most(task, targets)} take over a quarter longer than "
            "the size of the formula",
            AllOf(
                (
                    Quantity(f"log2_seconds:{min(targets)}/fastest", low=QUARTER, unit=unit),
                    Quantity(f"log2_seconds:{most}/fastest", low=QUARTER, unit=unit),
                )
            ),
            why=f"{COST} The tried size nearest to sqrt(a B_crit / b) stands for it. {_MACHINE} {why}",
        ),
    )
