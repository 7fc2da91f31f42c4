"""Finished runs that nobody ran: rows and numbers as a run of the arm would leave them."""

import math
from collections.abc import Mapping

from rebatch import draws
from rebatch.batching import examples_seen, measured_steps, total_steps
from rebatch.recipe import Epochs, Recipe, Sgd
from rebatch.study.plan import Arm, Plan
from rebatch.study.probes import (
    Bagging,
    Cuts,
    EpochCorrelation,
    Escape,
    GradientErrors,
    Increments,
    KeptImages,
    Landscape,
    PartialTail,
    Parting,
    Probe,
    QuadraticSteps,
    RandomWalk,
    RelativeStep,
    Rescaled,
    StepTime,
    StepTimes,
    SummedSteps,
    Throughput,
    ToTarget,
)
from rebatch.study.records import FinishedRun, Rows, SeedRuns
from rebatch.study.studies.mini_batches.bagging import KINDS
from study.made_up_rates import rate_metrics
from study.made_up_sweep import sweep_metrics

RECIPE = Recipe(batch_size=32, optimizer=Sgd(lr=0.1), budget=Epochs(1))

GRADIENT_ERRORS = ("exponent", "raw_exponent", "error_ratio")
COSINES = [
    f"{size}_{kind}{form}"
    for size in ("sample", "batch")
    for kind in ("cosine", "agreement")
    for form in ("", "_expected")
]

# How soon it forgets.
_FORGETS = {
    "tau": 0.3,
    "tau_low": 0.25,
    "tau_high": 0.4,
    "newest_loss": 0.4,
    "limit_loss": 0.7,
    "unseen_loss": 0.6,
    "forgotten": 0.5,
}
DECAY = {f"{name}{mode}": value for name, value in _FORGETS.items() for mode in ("", ":batch_statistics")}

# What a run leaves, by the names of what was asked to be measured after it.
FINALS = {
    "train_evaluation": {"final_train_loss": 0.01, "final_train_accuracy": 99.9},
    "ghost_statistics": {"ghost_statistics_accuracy": 95.0},
    "top_eigenvalue": {"top_eigenvalue": 3.0, "top_eigenvalue_residual": 0.01},
    "rescaled_eigenvalue": {"rescaled_eigenvalue": 60.0, "rescaled_outputs_move": 0.0},
    "forgetting": DECAY,
    "recent_forgetting": DECAY,
    "last_epoch": {"last_epoch_loss": 0.1, "chance_loss": math.log(10)},
    "high_rate": {"forgotten_at_high_rate": 0.4, "newest_loss": 0.4, "unseen_loss": 0.6},
    "peak_curvature": {"peak_eigenvalue": 1.7, "peak_lr": 0.1},
    "noise_tenths": {},  # with its losses, in `rate_metrics`
    "recomputed_statistics": {},  # it writes into rows
}


def run(
    rows: Rows = (), metrics: Mapping[str, float] | None = None, *, recipe: Recipe = RECIPE, diverged: bool = False
) -> FinishedRun:
    """A run with these rows and metrics."""
    return FinishedRun(recipe=recipe, diverged=diverged, metrics=metrics or {}, rows=rows)


def reached(accuracy: Mapping[str, float]) -> dict[str, FinishedRun]:
    """Runs by arm of which nothing but the test accuracy counts."""
    return {name: run(metrics={"test_accuracy": value}) for name, value in accuracy.items()}


def seed_of(plan: Plan, seed: int = 0) -> SeedRuns:
    """One seed's runs of all arms of a plan but the candidates."""
    arms = [arm for arm in plan.design.arms if not arm.candidate]
    return {arm.name: _finished(arm, place, plan, seed) for place, arm in enumerate(arms)}


def probe_metrics(probe: Probe) -> dict[str, float]:
    """Names as the probe writes them, each with a number of its own."""
    match probe:
        case RandomWalk():
            names = ["exponent"]
        case EpochCorrelation():
            names = ["correlation", "expected_correlation", "own_trace"]
        case StepTime():
            names = ["ratio", "seconds_ghost", "seconds_plain"]
        case Increments(after=after):
            names = [f"{kind}@{place:g}" for place in after for kind in ("trace", "mean_square")]
        case Throughput(batch_sizes=sizes):
            names = [*(f"examples_per_second:{size}" for size in sizes), "ratio", "gpu"]
        case SummedSteps():
            names = ["slope", "relative"]
        case PartialTail():
            names = ["tail_weight"]
        case Parting():
            names = ["growth", "growth_orders", "distance", "distance_orders"]
        case RelativeStep():
            names = ["relative_step", "ratio"]
        case Rescaled():
            names = ["weights_apart", "outputs_apart"]
        case ToTarget():
            names = ["steps", "examples", "lr", "missed"]
        case Escape():
            names = ["left", "steps"]
        case QuadraticSteps(exact=exact):
            return {"steps": 1.0 if exact else 2.0, "lr": 0.1}  # any batch takes more than the exact gradient
        case Cuts(micro_batch_sizes=sizes):
            names = [f"{kind}:{size}" for size in sizes for kind in ("apart", "accuracy", "kept")]
        case StepTimes(pairs=pairs):
            names = [*(f"milliseconds:{size}:{micro}" for size, micro in pairs), "fixed", "per_example", "misfit"]
        case Bagging():
            names = [f"{name}:{kind}" for name in ("variance", "accuracy") for kind in KINDS]
        case KeptImages():
            names = ["images", "numbers", "kept_megabytes", "kept_integer_megabytes"]
        case GradientErrors(after=after, batch_sizes=sizes):
            kinds = ["noise_scale", "gradient_norm", *(GRADIENT_ERRORS if sizes else ()), *COSINES, "epoch"]
            kinds += [f"relative_error:{size}" for size in sizes]
            names = [f"{kind}@{place:g}" for place in after for kind in kinds]
        case Landscape(ranges=ranges):
            kinds = ["alpha", "taylor_ratio", "slope", "noise"]
            labels = [f"{low:g}-{high:g}" for low, high in ranges]
            names = [f"{kind}:{label}" for label in labels for kind in kinds] + ["gradient_norm", "dimensions"]
    return {name: 1.0 + 0.1 * place for place, name in enumerate(names)}


def _finished(arm: Arm, place: int, plan: Plan, seed: int) -> FinishedRun:
    if arm.probe is not None:
        return FinishedRun(recipe=arm.recipe, diverged=False, metrics=probe_metrics(arm.probe), rows=[])
    rng = draws.generator(seed, arm.name)
    total = total_steps(arm.recipe, plan.examples)
    log_spaced, even = measured_steps(total, plan.design.evaluations)
    rows: list[dict[str, float]] = []
    for step in sorted({*log_spaced, *even}):
        seen = examples_seen(step, plan.examples, arm.recipe)
        row = {"step": step, "epoch": seen / plan.examples, "train_loss": 1.0 / (1.0 + step)}
        row["weight_distance"] = (1.0 + 0.1 * place) * math.log(1.0 + step) + 0.01 * rng.random()
        row["weight_distance_first"] = 0.3 * row["weight_distance"]
        if step in even:
            row |= {"validation_loss": 0.2 + 0.1 * rng.random(), "validation_accuracy": 95.0 + rng.random()}
        if step in even and "recomputed_statistics" in arm.finals:
            row["recomputed_accuracy"] = 95.0 + 0.1 * rng.random()
        rows.append(row)
    measured = {name: value for final in arm.finals for name, value in FINALS[final].items()}
    measured = {name: value + 0.001 * place for name, value in measured.items()}
    metrics = {**rows[-1], **measured, "test_accuracy": 94.0 + rng.random(), "test_loss": 0.3 + 0.1 * rng.random()}
    metrics |= sweep_metrics(arm, plan) if plan.study == "page-sweep" else {}
    metrics |= rate_metrics(arm, plan) if plan.study == "rate-sweep" else {}
    return FinishedRun(recipe=arm.recipe, diverged=False, metrics=metrics, rows=rows)
