"""What studies make of their runs, on runs of a few numbers that anybody can check by hand."""

import dataclasses
import math

import numpy as np
import pytest

from rebatch.study.records import FinishedRun
from rebatch.study.studies import STUDIES
from rebatch.study.studies.hoffer_2017 import (
    diffusion,
    distance,
    epoch,
    gap,
    ghosts,
    increments,
    landscape,
    momentum_reset,
    noise,
    overfit,
    random_walk,
    regime,
)
from rebatch.study.studies.hoffer_2017.common import LARGE, LR, SMALL
from rebatch.study.studies.mini_batches import (
    bagging,
    gradient_error,
    hardware_batch,
    quadratic_model,
    saddle_escape,
    small_batches,
)
from rebatch.study.studies.page_2018 import batch, directions, forgetting, summed, sweep
from rebatch.study.studies.rebatch import rate_sweep
from study.made_up import RECIPE, reached, run

HAND_COMPUTED = {
    gap.GAP,
    noise.NOISE_STUDY,
    increments.INCREMENTS,
    regime.REGIME,
    overfit.OVERFIT,
    distance.DISTANCE,
    diffusion.DIFFUSION,
    landscape.LANDSCAPE,
    random_walk.RANDOM_WALK,
    epoch.EPOCH,
    ghosts.GHOSTS,
    momentum_reset.MOMENTUM_RESET,
    forgetting.FORGETTING,  # in test_page_forgetting.py
    summed.SUMS,  # in test_page_summed.py
    directions.DIRECTIONS,  # in test_page_directions.py
    batch.BATCH,  # in test_page_batch.py
    sweep.SWEEP,  # in test_page_sweep.py
    gradient_error.GRADIENT_ERROR,  # in test_mini_batches.py
    saddle_escape.SADDLE_ESCAPE,  # in test_mini_batches.py
    quadratic_model.QUADRATIC_MODEL,  # in test_quadratic_model.py
    hardware_batch.HARDWARE_BATCH,  # in test_hardware_batch.py
    bagging.BAGGING,  # in test_bagging.py
    small_batches.SMALL_BATCHES,  # in test_small_batches.py
    rate_sweep.RATE_SWEEP,  # in test_rate_sweep.py
}


def test_no_study_s_quantities_are_left_out_here() -> None:
    assert {study.name for study in STUDIES.values() if study.quantities} == {study.name for study in HAND_COMPUTED}


# hoffer-gap


def falling(losses: list[float], first: float = 2.5) -> dict[str, float]:
    """What is made of a run with this loss at the first step and these at the evaluations."""
    evaluated = [{"step": step, "train_loss": loss, "validation_loss": 0.0} for step, loss in enumerate(losses, 1)]
    unevaluated = [{"step": 0.5, "train_loss": first}, {"step": 16.5, "train_loss": 99.0}]
    rows = sorted([*evaluated, *unevaluated], key=lambda row: row["step"])
    assert gap.quantities({gap.PLATEAUS[LARGE]: run(rows, diverged=True)}) == {}
    found = gap.quantities({gap.PLATEAUS[LARGE]: run(rows)})
    return {name.removesuffix(f":{LARGE}"): value for name, value in found.items()}


def test_a_loss_still_falls_from_the_fifth_before_the_last_to_the_last_fifth_of_the_evaluations() -> None:
    losses = [1.0] * 12 + [0.7, 0.6, 0.4, 0.3] + [0.6, 0.3, 0.5, 0.2]
    assert falling(losses) == pytest.approx({"still_falling": (0.5 - 0.4) / (2.5 - 0.4), "falls_by": 0.2})
    assert falling([0.0] * 20) == {"still_falling": 0.0}  # nothing is left of which it could fall by a share
    assert falling([3.0] * 20) == {"falls_by": 0.0}  # it never fell
    assert gap.quantities({gap.PLATEAUS[LARGE]: run()}) == {}


def test_a_loss_that_goes_to_zero_for_ever_stops_by_the_whole_fall_and_never_by_its_own_size() -> None:
    for length in (0.1, 1, 100, 10_000):
        found = falling([1.0 / (length * step) for step in range(1, 21)])
        assert found["falls_by"] == pytest.approx(0.22, abs=0.01)
        assert (found["still_falling"] < gap.STOPPED) is (length >= 1)


# hoffer-noise


def test_noise_shrinks_the_gap_by_what_it_takes_from_the_small_batch_and_gives_the_large_one() -> None:
    own, other = f"{SMALL}+dropout=0.3", f"{LARGE}+dropout=0.3"
    found = noise.quantities(reached({SMALL: 97.0, LARGE: 90.0, own: 96.0, other: 92.0}))
    assert found == pytest.approx({"shrinks_gap:dropout=0.3": 7.0 - 4.0})


def test_divergences_are_counted_with_clipping_and_without() -> None:
    runs = reached({noise.NOISE: 90.0})
    runs[noise.UNCLIPPED] = run(metrics={"test_accuracy": 10.0}, diverged=True)
    assert noise.quantities(runs) == {"diverged:clipped": 0.0, "diverged:unclipped": 1.0}


# hoffer-increments


def moments(trace: float, square: float) -> FinishedRun:
    places = [f"{place:g}" for place in increments.PLACES]
    return run(metrics={f"trace@{at}": trace for at in places} | {f"mean_square@{at}": square for at in places})


def test_increments_are_compared_by_traces_and_by_squared_means() -> None:
    found = increments.quantities({SMALL: moments(0.5, 4.0), "a": moments(1.0, 9.0)})
    here = {name.removesuffix("@0.1"): value for name, value in found.items() if name.endswith("@0.1")}
    assert here == pytest.approx(
        {
            "trace_ratio:a": 2.0,
            "mean_ratio:a": 1.5,
            "mean_above:a": (9.0 - 0.81 * 4.0) / 0.5,
            "mean_below:a": (9.0 - 1.21 * 4.0) / 0.5,
        }
    )
    assert len(found) == 4 * len(increments.PLACES)


@pytest.mark.parametrize(("ratio", "inside"), [(0.89, False), (0.91, True), (1.0, True), (1.09, True), (1.11, False)])
def test_a_mean_step_lies_between_both_bounds_if_its_length_is_within_a_tenth(ratio: float, inside: bool) -> None:
    found = increments.quantities({SMALL: moments(2.0, 0.3), "a": moments(2.0, 0.3 * ratio**2)})
    assert (found["mean_above:a@0"] > 0.0 > found["mean_below:a@0"]) is inside


def test_a_seed_whose_squared_mean_is_estimated_below_zero_counts_all_the_same() -> None:
    for own, other in ((4.0, -1.0), (-1.0, 4.0)):
        found = increments.quantities({SMALL: moments(0.5, own), "a": moments(1.0, other)})
        assert "mean_ratio:a@1" not in found
        assert found["mean_above:a@1"] == pytest.approx((other - 0.81 * own) / 0.5)


# hoffer-regime


def curve(*accuracies: float) -> list[dict[str, float]]:
    return [{"step": 10.0 * place, "validation_accuracy": value} for place, value in enumerate(accuracies, 1)]


def test_late_errors_are_compared_over_the_last_quarter_of_the_steps() -> None:
    small, large = curve(10, 20, 30, 40, 50, 60, 97, 98), curve(90, 90, 90, 90, 90, 90, 95, 97)
    runs = {SMALL: run(small), "adapted:256": run(curve(0, 0)), "adapted:512": run(large)}
    assert regime.quantities(runs) == pytest.approx({"late_error_difference": 97.5 - 96.0})


def test_a_run_that_diverged_late_counts_at_chance_and_not_as_it_was_before() -> None:
    runs = {SMALL: run(curve(90, 92, 94, 96)), "adapted:512": run(curve(99), {"test_accuracy": 10.0}, diverged=True)}
    assert regime.quantities(runs) == pytest.approx({"late_error_difference": 86.0})
    assert regime.quantities({SMALL: runs[SMALL]}) == {}


# hoffer-overfit


def overfitted(losses: list[float], accuracies: list[float]) -> dict[str, float]:
    rows = [
        {"step": float(step), "validation_loss": loss, "validation_accuracy": accuracy}
        for step, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), 1)
    ]
    return dict(overfit.quantities({overfit.LONG: run(rows)}))


def test_a_loss_that_rises_while_the_error_falls_is_seen_as_that() -> None:
    losses = [1.0, 0.9, 0.8, 0.7, 0.5, 0.4, 0.5, 0.6, 0.7, 0.8, *[1.0] * 10]
    accuracies = [50.0, 60.0, 70.0, 75.0, 80.0, 82.0, 84.0, 85.0, *[90.0] * 12]
    # The even places say the minimum is at place 4 or 6 (means .67 and .57 of 3); those beside it are 5 and 7.
    found = overfitted(losses, accuracies)
    assert found["minimum_at"] == pytest.approx(7 / 20)
    assert found["loss_rise"] == pytest.approx(1.0 - (0.4 + 0.6) / 2)
    assert found["relative_loss_rise"] == pytest.approx(1.0)
    assert found["error_fall"] == pytest.approx(90.0 - (82.0 + 85.0) / 2)


def test_where_the_loss_is_noise_it_does_not_seem_to_rise() -> None:
    rng = np.random.default_rng(0)
    rises = [overfitted(list(0.5 + 0.05 * rng.normal(size=50)), [90.0] * 50)["loss_rise"] for _ in range(400)]
    assert abs(np.mean(rises) / (np.std(rises) / math.sqrt(len(rises)))) < 4


def test_a_loss_that_goes_on_falling_does_not_rise() -> None:
    falling = [1.0 / step for step in range(1, 51)]
    assert overfitted(falling, [90.0] * 50)["relative_loss_rise"] < overfit.RISE
    assert overfitted(falling, [90.0] * 50)["minimum_at"] == pytest.approx(49 / 50)
    assert overfitted(falling[:5], [90.0] * 5) == {}


# hoffer-distance


def travelled(steps: int, law: str, scale: float, *, epoch: int = 10) -> FinishedRun:
    distances = {
        step: scale * (1.0 + 2.0 * math.log(step) if law == "log" else 3.0 * step**0.25) for step in range(1, steps + 1)
    }
    rows = [
        {"step": step, "epoch": step / epoch, "weight_distance": d, "weight_distance_first": 0.5 * d}
        for step, d in distances.items()
    ]
    return run(rows)


def test_a_curve_that_is_the_logarithm_is_fitted_as_it_and_one_that_is_a_power_as_that() -> None:
    for law, sign in (("log", 1), ("power", -1)):
        found = distance.quantities({"before:32": travelled(80, law, 1.0), "before:64": travelled(40, law, 1.0)})
        assert sign * found["log_over_power:before"] > 100
        assert sign * found["log_over_power_ahead:before"] > 1
        if law == "log":
            assert found["log_slope:before:32"] == pytest.approx(2.0)
            assert found["log_slope:before:first:64"] == pytest.approx(1.0)
            assert found["log_r2:before:32"] == pytest.approx(1.0)
            assert found["power_r2:before:32"] < 1.0
        else:
            assert found["power:before:32"] == pytest.approx(0.25, abs=1e-6)
            assert found["power_r2:before:32"] == pytest.approx(1.0)


def test_curves_are_compared_at_the_last_step_that_all_batches_have() -> None:
    # At step 40 the logarithm's curve is at 1 + 2 ln 40, times each batch's scale.
    height = 1.0 + 2.0 * math.log(40)
    between = dict.fromkeys((16, 128, 256, 512), (80, 1.0))  # six sizes, as the study has
    curves = {"before": {32: (80, 1.5), 64: (40, 0.5)}, "after": {32: (80, 1.2), 64: (40, 1.0)}}
    runs = {
        f"{form}:{size}": travelled(steps, "log", scale if size in own else (0.5 * own[32][1] + 0.5 * own[64][1]))
        for form, own in curves.items()
        for size, (steps, scale) in (own | between).items()
    }
    found = distance.quantities(runs)
    del runs["after:512"]
    assert not any("spread" in name and "before" not in name for name in distance.quantities(runs))
    assert found["spread:before"] == pytest.approx(1.0 * height)
    assert found["relative_spread:before"] == pytest.approx(1.0)
    assert found["spread:after"] == pytest.approx(0.2 * height)
    assert found["relative_spread:after"] == pytest.approx(0.2 / 1.1)
    assert found["spread_ratio"] == found["spread_ratio:first"] == pytest.approx(0.2)


def test_where_a_batch_diverged_there_is_no_spread_over_all_of_them() -> None:
    runs = {f"before:{size}": travelled(80, "log", 1.0) for size in (16, 32, 64, 128, 256, 512)}
    assert distance.quantities(runs)["relative_spread:before"] == 0.0
    found = distance.quantities({**runs, "before:64": run(diverged=True)})
    assert not any(name.startswith(("spread", "relative_spread")) for name in found)


def test_curves_that_diverged_are_left_out_of_the_fits_and_counted() -> None:
    fine, lost = travelled(80, "log", 1.0), run(diverged=True)
    runs = {"before:32": fine, "before:64": lost, "after:32": lost, "after:64": lost, "no_decay:32": fine}
    found = distance.quantities(runs)
    alone = distance.quantities({"before:32": fine})
    assert found["log_over_power:before"] == alone["log_over_power:before"]
    counts = {name.removeprefix("diverged:"): count for name, count in found.items() if name.startswith("diverged:")}
    assert counts == {"before": 1.0, "after": 2.0, "no_decay": 0.0, "before and after": 3.0}


def test_the_head_start_is_read_at_the_end_of_the_largest_batch_s_first_epoch() -> None:
    runs = {
        "after:32": travelled(80, "power", 1.0, epoch=20),
        "after:512": travelled(40, "power", 2.0, epoch=5),
        "clip_never:512": travelled(40, "power", 3.0, epoch=5),
        "clip_never:32": travelled(80, "power", 2.75, epoch=20),
    }
    found = distance.quantities(runs)
    there = 3.0 * 5**0.25
    assert found["offset:clipped"] == pytest.approx(1.0 * there)
    assert found["offset:unclipped"] == pytest.approx(0.25 * there)
    assert found["offset_from_clipping"] == pytest.approx(0.75 * there)
    for absent in runs:
        some = {name: found for name, found in runs.items() if name != absent}
        assert "offset_from_clipping" not in distance.quantities(some)


# hoffer-diffusion


def diffused(batch: int, distance: float, accuracy: float, *, fitted: bool = True) -> FinishedRun:
    metrics = {
        "weight_distance": distance,
        "test_accuracy": accuracy,
        "final_train_accuracy": 100.0 if fitted else 99.0,
        "final_train_loss": 1.0 / distance,
        "top_eigenvalue": 100.0 / distance,
    }
    return run(metrics=metrics, recipe=RECIPE.replace(batch_size=batch))


GRID = [(batch, distance) for batch in (32, 128, 512) for distance in (1.0, 2.0, 5.0, 11.0 + batch / 100)]


def law(batch: float, distance: float) -> float:
    """Each doubling of the batch costs 0.7 points; the distance is worth something too."""
    return 80.0 - 0.7 * math.log2(batch) + 3.0 * math.log(distance) - 0.5 * math.log(distance) ** 2


def test_the_regression_finds_the_law_that_the_accuracies_were_made_by() -> None:
    runs = {f"{b}, {d}": diffused(b, d, law(b, d)) for b, d in GRID}
    found = diffusion.quantities(runs)
    assert found["log_batch_given_distance"] == pytest.approx(-0.7)
    slope = np.polyfit([math.log2(b) for b, _ in GRID], [law(b, d) for b, d in GRID], 1)[0]
    assert found["log_batch_alone"] == pytest.approx(slope)


def test_rank_correlations_are_those_of_ranks() -> None:
    found = diffusion.quantities({f"{b}, {d}": diffused(b, d, 50.0 + d**3) for b, d in GRID})
    assert found["rank:accuracy~distance"] == pytest.approx(1.0)
    assert found["rank:late_accuracy~distance"] == pytest.approx(1.0)
    assert found["rank:train_loss~distance"] == found["rank:late_top_eigenvalue~distance"] == pytest.approx(-1.0)


def test_late_means_that_the_net_fits_the_training_set() -> None:
    runs = {f"{b}, {d}": diffused(b, d, 50.0 + d) for b, d in GRID}
    early = {f"early {d}": diffused(32, d, 50.0 - d, fitted=False) for d in (1.0, 3.0, 7.0)}
    found = diffusion.quantities({**runs, **early})
    assert found["rank:late_accuracy~distance"] == pytest.approx(1.0)
    assert found["rank:accuracy~distance"] < 1.0
    few = dict(list(runs.items())[:5])
    assert not any(name.startswith("rank:late") for name in diffusion.quantities({**few, **early}))
    assert diffusion.quantities(few) == {}


LOST = run(metrics={"test_accuracy": 10.0, "weight_distance": math.nan}, recipe=RECIPE, diverged=True)


def test_a_diverged_run_counts_at_chance_but_beside_a_distance_it_is_left_out_and_counted() -> None:
    runs = {f"{b}, {d}": diffused(b, d, law(b, d)) for b, d in GRID}
    whole, found = diffusion.quantities(runs), diffusion.quantities({**runs, "lost": LOST})
    assert (whole["diverged"], found["diverged"]) == (0.0, 1.0)
    beside_batch = {"log_batch_alone", "rank:accuracy~log_batch", "diverged"}
    assert {name for name in whole if found[name] != whole[name]} == beside_batch
    points = [*((math.log2(b), law(b, d)) for b, d in GRID), (5.0, 10.0)]
    assert found["log_batch_alone"] == pytest.approx(np.polyfit([x for x, _ in points], [y for _, y in points], 1)[0])
    lost = {str(number): LOST for number in range(7)}
    assert diffusion.quantities(lost)["diverged"] == 7.0
    assert "log_batch_given_distance" not in diffusion.quantities(lost)


# The rest


def test_landscape_numbers_go_by_their_names_and_those_of_mini_batches_by_names_of_their_own() -> None:
    runs = {landscape.FULL: run(metrics={"alpha:1-10": 2.0}), landscape.BATCH: run(metrics={"alpha:1-10": 1.5})}
    assert landscape.quantities(runs) == {"alpha:1-10": 2.0, "mini_batch:alpha:1-10": 1.5}


def test_the_exponent_of_every_walk_is_its_own() -> None:
    assert random_walk.quantities({"flat": run(metrics={"exponent": 0.5})}) == {"exponent:flat": 0.5}


def test_a_correlation_is_held_against_the_closed_form() -> None:
    found = epoch.quantities({LARGE: run(metrics={"correlation": -0.09, "expected_correlation": -0.08})})
    assert found == pytest.approx({"correlation:large_batch": -0.09, "off_exact:large_batch": -0.01})


def test_running_statistics_are_better_by_the_difference_of_two_accuracies() -> None:
    runs = {
        "sequential": run(metrics={"test_accuracy": 97.0, "ghost_statistics_accuracy": 95.5}),
        ghosts.TIMING: run(metrics={"ratio": 1.02}),
    }
    assert ghosts.quantities(runs) == pytest.approx({"running_over_ghosts": 1.5, "step_time_ratio": 1.02})
    assert ghosts.quantities({"sequential": run(metrics={"test_accuracy": 10.0}, diverged=True)}) == {}


def test_what_losing_the_momentum_costs_is_a_difference_of_accuracies_and_of_gaps() -> None:
    accuracy = {SMALL: 98.0, LARGE: 97.0, LR: 97.5, f"authors:{SMALL}": 98.1, f"authors:{LARGE}": 96.0}
    accuracy |= {f"authors:{LR}": 96.5, f"reset1:{LARGE}": 96.2, f"no_flip:{SMALL}": 98.4}
    found = momentum_reset.quantities(reached(accuracy))
    known = {name: value for name, value in found.items() if math.isfinite(value)}
    assert known == pytest.approx(
        {
            "gap": 1.0,
            "authors:gap": 2.1,
            f"reset_cost:{LARGE}": 0.8,
            f"flip_cost:{SMALL}": 0.4,
            "lr_gain": 0.5,
            "authors:lr_gain": 0.5,
        }
    )


def test_a_best_epoch_gains_what_its_validation_accuracy_lies_above_the_last() -> None:
    rows = [{"step": step, "validation_accuracy": value} for step, value in ((2, 90.0), (5, 93.5), (7, 93.0))]
    rows.insert(1, {"step": 3, "train_loss": 0.5})
    accuracy = {"test_accuracy": 99.0}  # is not looked at
    arm = f"authors:{LARGE}"

    def gain(found: FinishedRun) -> float:
        return momentum_reset.quantities({arm: found})[f"best_epoch_gain:{arm}"]

    assert gain(run(rows, accuracy)) == 0.5
    assert gain(run(rows[:3], accuracy)) == 0.0
    assert math.isnan(gain(run(rows, accuracy, diverged=True)))
    assert math.isnan(gain(run([], accuracy)))
    assert math.isnan(gain(dataclasses.replace(run(rows, accuracy), has_rows=False)))
