"""`gradient-error`: how far is a batch's gradient from the full one, and do batches agree? (claims Q1, Q2 and Q17)

The formulas add up the gradients of single examples. Batch norm couples those of a batch, so the study runs where it is
not told otherwise on a net without it, and measures other nets in evaluation mode.
"""

import math
from collections.abc import Mapping, Sequence

from rebatch.recipe import Epochs, Recipe
from rebatch.study.claims import AllOf, Claim, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.probes import GradientErrors
from rebatch.study.records import SeedRuns
from rebatch.study.studies.mini_batches.common import DISCUSSION, claim
from rebatch.tasks.task import Task

TRUE, SHUFFLED = "true_labels", "shuffled_labels"

# Where the weights are frozen, as fractions of the run; of the 20 epochs of digits: 0, 1, 2, 4, 8 and 20.
PLACES = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)
START, EARLY, TENTH, END = PLACES[0], PLACES[1], PLACES[2], PLACES[-1]

# Between which places the agreement of mini-batches may fall.
FALLS = {"fall": (START, END), "fall_from_tenth": (TENTH, END), "fall_at_first": (START, TENTH)}

# Sizes of batches whose error is measured: the largest is half of the digits.
SIZES = (8, 32, 128, 512)
# The sample that is to point as all examples do.
SHARE = 0.01

# Batches per size, and pairs, at each place. 128 batches of 8 are an epoch of the digits.
DRAWS: dict[Scale, int] = {"quick": 32, "cpu": 128, "paper": 512}
OTHER_DRAWS: dict[Scale, int] = {"quick": 8, "cpu": 32, "paper": 128}
# Elsewhere a run is cut to so many epochs, its schedule with it, and so many examples give the covariance's trace.
EPOCHS: dict[Scale, float] = {"quick": 0.25, "cpu": 5.0, "paper": 20.0}
EXAMPLES = 2000

# The exponent of the error, its square over the formula, and cosines, are alike within these.
EXPONENT_WITHIN, RATIO_WITHIN, COSINE_WITHIN = 0.02, 0.05, 0.05
# At this cosine noise and signal of a batch are equally long: B = B_n.
HALF_SIGNAL = math.sqrt(0.5)
# Batches that agree less than this do not agree.
AGREE = 0.05


def gradient_error_design(task: Task, scale: Scale) -> Design:
    """One run on true labels and one on labels that were shuffled once, by the task's recipe."""
    small = task.name.startswith("digits/")
    recipe = task.recipe if small else _shortened(task.recipe, EPOCHS[scale])
    draws, examples = (DRAWS if small else OTHER_DRAWS)[scale], None if small else EXAMPLES
    # An exponent to a hundredth takes more draws than a larger net has time for; Q1 is arithmetic on any net.
    sizes = SIZES if small or scale == "paper" else ()
    true = GradientErrors(after=PLACES, batch_sizes=sizes, share=SHARE, draws=draws, examples=examples)
    shuffled = GradientErrors(after=PLACES, share=SHARE, draws=draws, examples=examples, shuffled=True)
    arms = (Arm(name=TRUE, recipe=recipe, probe=true), Arm(name=SHUFFLED, recipe=recipe, probe=shuffled))
    seeds = 3 if scale == "quick" or not small else 20
    why = f"Each seed is a net of its own; {seeds} seeds: as many as the time of this scale allows."
    claims = (*(_error_claims(why) if sizes else ()), *_cosine_claims(why), *_label_claims(why))
    return Design(arms=arms, claims=claims, seeds=seeds)


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """What was measured at each place, what it is off the formulas, and when batches ceased to agree.

    Numbers of the run on shuffled labels begin with `shuffled_labels:`. `faded` is the epoch from which on the
    agreement of mini-batches stays under `AGREE`.
    """
    found: dict[str, float] = {}
    for arm, run in runs.items():
        prefix = "" if arm == TRUE else f"{arm}:"
        found |= {f"{prefix}{name}": value for name, value in run.metrics.items()}
        for place in PLACES:
            for name in ("sample_cosine", "sample_agreement"):
                seen, formula = (run.metrics.get(f"{each}@{place:g}") for each in (name, f"{name}_expected"))
                if seen is not None and formula is not None:
                    found[f"{prefix}off:{name}@{place:g}"] = seen - formula
        course = [(run.metrics.get(f"epoch@{p:g}"), run.metrics.get(f"batch_agreement@{p:g}")) for p in PLACES]
        found[f"{prefix}faded"] = faded([(at, seen) for at, seen in course if at is not None and seen is not None])
    if runs.keys() >= {TRUE, SHUFFLED}:
        found["faded_later"] = found["faded"] - found[f"{SHUFFLED}:faded"]
    for name, (earlier, later) in FALLS.items():
        ends = [found.get(f"batch_agreement@{place:g}") for place in (earlier, later)]
        if ends[0] is not None and ends[1] is not None:
            found[name] = ends[0] - ends[1]
    return found


def faded(course: Sequence[tuple[float, float]]) -> float:
    """From which epoch on the agreement stays under `AGREE`, on straight lines between (epoch, agreement).

    0 where it never is above, the last epoch where it still is.

    >>> faded([(0.0, 0.2), (1.0, 0.3), (2.0, 0.05), (3.0, 0.0)]), faded([(0.0, 0.0), (1.0, 0.01)])
    (2.0, 0.0)
    """
    if not course:
        return math.nan
    above = [at for at, (_, seen) in enumerate(course) if seen >= AGREE]
    if not above:
        return course[0][0]
    if above[-1] == len(course) - 1:
        return course[-1][0]
    (epoch, seen), (later, then) = course[above[-1]], course[above[-1] + 1]
    return epoch + (later - epoch) * (seen - AGREE) / (seen - then)


def _shortened(recipe: Recipe, epochs: float) -> Recipe:
    return recipe.replace(budget=Epochs(epochs))


def _everywhere(name: str, low: float, high: float, unit: str) -> AllOf:
    """At all places, the last one first: the noise is largest at the end, which so is what tables show."""
    return AllOf(tuple(Quantity(f"{name}@{place:g}", low=low, high=high, unit=unit) for place in reversed(PLACES)))


def _error_claims(why: str) -> tuple[Claim, ...]:
    low, high = -0.5 - EXPONENT_WITHIN, -0.5 + EXPONENT_WITHIN
    reason = f"-1/2 within {EXPONENT_WITHIN}: over the sizes from {SIZES[0]} to {SIZES[-1]} that is within 9 %. {why}"
    return (
        claim(
            "Q1",
            "At fixed weights the error of a batch's gradient falls as B^-1/2, once drawing without replacement is "
            "taken out",
            _everywhere("exponent", low, high, "power of B"),
            expected=-0.5,
            why=f"{reason} Arithmetic for gradients that do not couple examples; it can fail by a mistake of ours.",
        ),
        claim(
            "Q1-exact",
            "Its mean square is tr S (1/B - 1/N), with tr S from single examples' gradients",
            _everywhere("error_ratio", 1.0 - RATIO_WITHIN, 1.0 + RATIO_WITHIN, "x the formula"),
            expected=1.0,
            why=f"Within {100 * RATIO_WITHIN:g} %, the mean over the sizes; batches and examples take different "
            f"routes through torch. {why}",
            ours="the exact form of Q1",
        ),
        claim(
            "Q1-literal",
            f"It falls as B^-1/2 as it is, up to batches of {SIZES[-1]}",
            _everywhere("raw_exponent", low, high, "power of B"),
            expected=-0.5,
            why=f"{reason} Where the largest batch is half of the data, the factor is sqrt(1/2).",
        ),
    )


def _cosine_claims(why: str) -> tuple[Claim, ...]:
    nearly = f"Nearly the same way: within 45 degrees, more signal than noise, B > B_n. {why}"
    formula = f"Within {COSINE_WITHIN} at all places: less would change no advice. {why}"
    return (
        claim(
            "Q2",
            f"At the start of training the gradient of {100 * SHARE:g} % of the data points nearly as that of all",
            Quantity(f"sample_cosine@{START:g}", low=HALF_SIGNAL, unit="cosine"),
            why=nearly,
        ),
        claim(
            "Q2-early",
            f"After {100 * EARLY:g} % of the run it does",
            Quantity(f"sample_cosine@{EARLY:g}", low=HALF_SIGNAL, unit="cosine"),
            why="Noise is not least at the start; written when digits and one seed of mnist/f1 had been seen. "
            + nearly,
            ours="the other reading of Q2",
        ),
        claim(
            "Q2-late",
            "At its end it does not",
            Quantity(f"sample_cosine@{END:g}", high=HALF_SIGNAL, unit="cosine"),
            why=nearly,
            ours="the counterpart of Q2",
        ),
        claim(
            "Q2-formula",
            "The cosine is 1/sqrt(1 + B_n/B) throughout",
            _everywhere("off:sample_cosine", -COSINE_WITHIN, COSINE_WITHIN, "cosine off the formula"),
            expected=0.0,
            why=formula,
            ours="what Q2 depends on",
        ),
        claim(
            "Q2-pairs",
            f"That of two disjoint samples of {100 * SHARE:g} % is 1/(1 + B_n/B)",
            _everywhere("off:sample_agreement", -COSINE_WITHIN, COSINE_WITHIN, "cosine off the formula"),
            expected=0.0,
            why=formula,
            ours="what Q2 depends on",
        ),
    )


def _label_claims(why: str) -> tuple[Claim, ...]:
    agree = f"A cosine under {AGREE} is no agreement. "
    return (
        claim(
            "Q17",
            "Gradients of disjoint mini-batches cease to agree sooner on shuffled labels than on true ones",
            Quantity("faded_later", low=1.0, unit="epochs later on true labels"),
            why=f"{agree}Less than an epoch would matter to nobody. {why}",
        ),
        claim(
            "Q17-falls",
            "On true labels they agree less at the end of training than at its start and after a tenth of it",
            AllOf(
                (
                    Quantity("fall", low=AGREE, unit="cosine"),
                    Quantity("fall_from_tenth", low=AGREE, unit="cosine"),
                )
            ),
            why=f"{agree}{why}",
        ),
        claim(
            "Q17-at-once",
            "They agree less and less from the first step on: less after a tenth of the run",
            Quantity("fall_at_first", low=AGREE, unit="cosine"),
            why=f"{agree}Q17 read literally; written after a look at two other seeds on digits, where they did not. "
            f"{why}",
        ),
    )


GRADIENT_ERROR = Study(
    name="gradient-error",
    title="How far is a batch's gradient from the full one, and do batches agree?",
    source=DISCUSSION,
    design=gradient_error_design,
    quantities=quantities,
    task="digits/mlp-plain",
)
