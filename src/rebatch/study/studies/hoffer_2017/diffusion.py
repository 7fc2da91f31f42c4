"""`hoffer-diffusion`: is it how far the weights travel, and not the batch size, that governs accuracy? (H22 and H23)"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from rebatch.study.claims import AllOf, Claim, Quantity
from rebatch.study.plan import Arm, Design, Scale, Study
from rebatch.study.records import FinishedRun, SeedRuns
from rebatch.study.studies.hoffer_2017.common import OTHER_SEEDS, claim, is_digits, seeds_of, shortened
from rebatch.tasks.task import Task
from rebatch.transfer import transfer

# Batch sizes over the small one, learning rates over the square-root rule's, lengths over the reference budget.
RATIOS, FACTORS, LENGTHS = (1, 4, 16), (0.5, 1.0, 2.0), (0.5, 1.0, 2.0)

# Points per doubling of the batch size: below this the batch predicts nothing that matters.
NEGLIGIBLE = 0.1

LEFT_OUT = "diverged"


def diffusion_design(task: Task, scale: Scale) -> Design:
    """A grid of batch size x learning rate x length, so that distance and batch size can be told apart."""
    lengths = LENGTHS if is_digits(task) else LENGTHS[:2]
    arms = []
    for ratio in RATIOS:
        moved = transfer(
            task.recipe, batch_size=ratio * task.recipe.batch_size, rules=["sqrt_lr", "same_epochs"]
        ).recipe.as_tuned()
        for factor in FACTORS:
            for length in lengths:
                recipe = moved.with_lr(moved.optimizer.lr * factor)
                recipe = recipe.replace(budget=shortened(recipe.budget, length))
                name = f"batch x {ratio:g}, lr x {factor:g}, epochs x {length:g}"
                arms.append(Arm(name=name, recipe=recipe, finals=("train_evaluation", "top_eigenvalue")))
    seeds = seeds_of(task, scale, cpu=3)
    return Design(arms=tuple(arms), claims=_claims(), seeds=seeds)


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """Per seed, over all arms: accuracy regressed on distance and log batch; rank correlations with distance.

    A diverged run counts, with the accuracy of a guess, in all that looks at batch and accuracy alone. Its weights are
    no distance away that another run could be matched with, so it is left out beside the distance, and counted.
    """
    accuracy, log_batch = _column(runs.values(), "test_accuracy"), _log_batch(runs.values())
    if len(accuracy) < 6:
        return {}
    result = {
        "log_batch_alone": _regress(accuracy, log_batch)[0],
        "rank:accuracy~log_batch": _rank_correlation(accuracy, log_batch),
        LEFT_OUT: float(sum(run.diverged for run in runs.values())),
    }
    return result | _beside_distance([run for run in runs.values() if not run.diverged])


def _beside_distance(found: list[FinishedRun]) -> dict[str, float]:
    if len(found) < 6:
        return {}
    accuracy, log_batch = _column(found, "test_accuracy"), _log_batch(found)
    log_distance = np.log(_column(found, "weight_distance"))
    result = {
        "log_batch_given_distance": _regress(accuracy, log_batch, log_distance, log_distance**2)[0],
        "rank:accuracy~distance": _rank_correlation(accuracy, log_distance),
        "rank:train_loss~distance": _rank_correlation(_column(found, "final_train_loss"), log_distance),
    }
    fitted = [run for run in found if run.metrics.get("final_train_accuracy", 0.0) >= 99.5]
    if len(fitted) >= 6:  # "when losses no longer change": nets that fit the training set
        late = np.log(_column(fitted, "weight_distance"))
        result["rank:late_accuracy~distance"] = _rank_correlation(_column(fitted, "test_accuracy"), late)
        curved = _column(fitted, "top_eigenvalue")
        if np.isfinite(curved).all():
            result["rank:late_top_eigenvalue~distance"] = _rank_correlation(curved, late)
    return result


def _column(runs: Iterable[FinishedRun], name: str) -> np.ndarray:
    return np.array([run.metrics.get(name, math.nan) for run in runs])


def _log_batch(runs: Iterable[FinishedRun]) -> np.ndarray:
    return np.array([math.log2(run.recipe.batch_size) for run in runs])


def _regress(target: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Coefficients of the columns by least squares, an intercept beside them."""
    design = np.column_stack([*columns, np.ones_like(target)])
    coefficients: np.ndarray = np.linalg.lstsq(design, target, rcond=None)[0]
    return coefficients


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return math.nan  # all of them diverged, say: what is the same everywhere has no ranks
    return float(spearmanr(first, second).statistic)


def _claims() -> tuple[Claim, ...]:
    why = (
        f"Below {NEGLIGIBLE} points per doubling the batch size predicts nothing that matters over the four doublings "
        f"of the grid. Seeds: {OTHER_SEEDS}."
    )
    return (
        claim(
            "H22",
            "At matched weight distance the batch size no longer predicts accuracy",
            Quantity(
                "log_batch_given_distance",
                low=-NEGLIGIBLE,
                high=NEGLIGIBLE,
                unit="points per doubling",
                left_out=LEFT_OUT,
            ),
            expected=0.0,
            why=why,
        ),
        claim(
            "H22-alone",
            "Without the distance it does: larger batches are worse",
            Quantity("log_batch_alone", high=-NEGLIGIBLE, unit="points per doubling"),
            why=why,
        ),
        claim(
            "H23",
            "Among nets that fit the training set, those that travelled further do better and lie flatter",
            AllOf(
                (
                    Quantity("rank:late_accuracy~distance", low=0.0, unit="rank correlation"),
                    Quantity("rank:late_top_eigenvalue~distance", high=0.0, unit="rank correlation"),
                )
            ),
            why=f"The claim is the two signs. Seeds: {OTHER_SEEDS}.",
        ),
    )


DIFFUSION = Study(
    name="hoffer-diffusion",
    title="Is it how far the weights travel that governs accuracy?",
    source="Hoffer, Hubara, Soudry 2017, sections 3 and 6",
    design=diffusion_design,
    quantities=quantities,
)
