"""The numbers that `small-batches` makes of one seed's runs."""

import math
from collections.abc import Mapping

import numpy as np

from rebatch.bend import HYPERBOLA
from rebatch.critical_batch import CriticalBatchSize, fit_critical_batch_size
from rebatch.study.records import FinishedRun, SeedRuns
from rebatch.study.studies.mini_batches.small_batch_arms import EPOCHS, FLAT, STEPS, flat_arm, target_arm
from rebatch.study.studies.mini_batches.small_batch_claims import FEWEST

SPEED = "examples per second"


def quantities(runs: SeedRuns) -> Mapping[str, float]:
    """What claims compare; ratios of curvatures, examples and seconds in octaves (log2).

    `floor_share:` is the least number of
    steps, as fitted, over those of a batch size. `seconds:` are steps to the target times the seconds of a step
    on this machine, `fastest` the fitted sqrt(a B_crit / b).
    """
    return {**_flatness(runs), **_to_target(runs)}


def _flatness(runs: SeedRuns) -> dict[str, float]:
    """How much flatter the small batch ends, and what rescaling does to the number."""
    found: dict[str, float] = {}
    for budget in (STEPS, EPOCHS):
        small, large = (runs.get(flat_arm(budget, each)) for each in FLAT)
        for batch_size, run in zip(FLAT, (small, large), strict=True):
            if run is not None and "top_eigenvalue" in run.metrics:
                where = f"{budget}, batch {batch_size}"
                found[f"top_eigenvalue:{where}"] = run.metrics["top_eigenvalue"]
                found[f"train_accuracy:{where}"] = run.metrics["final_train_accuracy"]
        if small is not None and large is not None:
            found[f"flatter:{budget}"] = _octaves(large.metrics, small.metrics, "top_eigenvalue")
    rescaled = runs.get(flat_arm(STEPS, FLAT[0]))
    if rescaled is not None and "rescaled_eigenvalue" in rescaled.metrics:
        metrics = rescaled.metrics
        found["rescaled_by"] = math.log2(metrics["rescaled_eigenvalue"] / metrics["top_eigenvalue"])
        found["rescaled_outputs_move"] = metrics["rescaled_outputs_move"]
    return found


def _octaves(above: Mapping[str, float], below: Mapping[str, float], name: str) -> float:
    """log2 of a ratio of two positive numbers, else nan."""
    ends = above.get(name, math.nan), below.get(name, math.nan)
    return math.log2(ends[0] / ends[1]) if min(ends) > 0.0 else math.nan


def _to_target(runs: SeedRuns) -> dict[str, float]:
    prefix = target_arm(0).removesuffix("0")
    reached = {int(name.removeprefix(prefix)): run for name, run in runs.items() if name.startswith(prefix)}
    if len(reached) < FEWEST:
        return {}
    steps = {each: run.metrics["steps"] for each, run in sorted(reached.items())}
    found = {f"steps:{each}": count for each, count in steps.items()}
    found |= {f"examples:{each}": each * count for each, count in steps.items()}
    found |= {f"lr:{each}": reached[each].metrics["lr"] for each in steps}
    found["missed"] = sum(run.metrics["missed"] for run in reached.values())
    if 32 in steps:
        found |= {
            f"log2_examples:{each}/32": math.log2(each * count / (32 * steps[32])) for each, count in steps.items()
        }
        found |= {f"log2_examples:32/{each}": -found[f"log2_examples:{each}/32"] for each in steps}
    found |= {
        f"log2_steps:{each}/{4 * each}": math.log2(count / steps[4 * each])
        for each, count in steps.items()
        if 4 * each in steps
    }
    fit = fit_critical_batch_size(list(steps), list(steps.values()), bend=HYPERBOLA)
    found |= {"least_steps": fit.least_steps.estimate, "critical_batch_size": fit.batch_size.estimate}
    found |= {f"floor_share:{each}": fit.least_steps.estimate / count for each, count in steps.items()}
    return {**found, **(_seconds(runs[SPEED], steps, fit) if SPEED in runs else {})}


def _seconds(speed: FinishedRun, steps: Mapping[int, float], fit: CriticalBatchSize) -> dict[str, float]:
    """Seconds to the target, and the batch size that the line t(B) = a + b B and the fitted hyperbola call fastest."""
    rates = {each: speed.metrics.get(f"examples_per_second:{each}", math.nan) for each in steps}
    if not all(rate > 0.0 for rate in rates.values()):
        return {}
    times = {each: each / rate for each, rate in rates.items()}
    seconds = {each: steps[each] * times[each] for each in steps}
    found = {f"step_seconds:{each}": value for each, value in times.items()}
    found |= {f"seconds:{each}": value for each, value in seconds.items()}
    if 32 in steps:
        found |= {f"log2_seconds:{each}/32": math.log2(value / seconds[32]) for each, value in seconds.items()}
    fixed, per_example = step_line(times)
    if fixed > 0.0 and per_example > 0.0:
        found["fastest"] = math.sqrt(fixed * fit.batch_size.estimate / per_example)
        # The fitted size is between sizes that were run: the nearest stands for it.
        middle = min(steps, key=lambda each: abs(math.log2(each / found["fastest"])))
        found["best_off_formula"] = math.log2(min(steps, key=lambda each: seconds[each]) / found["fastest"])
        found |= {f"log2_seconds:{each}/fastest": math.log2(seconds[each] / seconds[middle]) for each in steps}
    return found


def step_line(seconds: Mapping[int, float]) -> tuple[float, float]:
    """(a, b) of t(B) = a + b B by least squares of relative errors: times span decades.

    >>> a, b = step_line({1: 1.5, 10: 6.0, 100: 51.0})
    >>> round(a, 9), round(b, 9)
    (1.0, 0.5)
    """
    times = np.array(list(seconds.values()))
    slope, fixed = np.polyfit(list(seconds), times, 1, w=1.0 / times)
    return float(fixed), float(slope)
