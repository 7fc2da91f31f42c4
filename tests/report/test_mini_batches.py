"""The numbers in the figures of the studies on mini-batches."""

import math
from pathlib import Path

import pytest

from rebatch.report.paper import (
    bagging,
    gradient_error,
    hardware_batch,
    quadratic_model,
    saddle_escape,
    small_batches,
)
from rebatch.report.paper.draw import svg
from rebatch.report.series import arm_accuracy, geometric_interval
from rebatch.statistics import mean_interval
from rebatch.study.studies.mini_batches.quadratic_model import SIZES
from report.made_up import made_up


def test_errors_stand_beside_the_formula_at_each_place(tmp_path: Path) -> None:
    material = made_up("gradient-error", tmp_path)
    found = gradient_error.errors(material, 0.1)
    assert found is not None
    assert (found.n, found.sizes) == (3, (8, 32, 128, 512))
    assert found.formula == pytest.approx([math.sqrt(100 / size - 100 / 1024) for size in found.sizes])
    seen = gradient_error.values(material, "relative_error:32@0.1")
    assert found.means[1].estimate == pytest.approx(math.prod(seen) ** (1 / 3))
    assert gradient_error.errors(material, 0.3) is None


def test_cosines_stand_over_the_epochs_of_their_places(tmp_path: Path) -> None:
    material = made_up("gradient-error", tmp_path)
    found = gradient_error.course(material, "sample_cosine")
    assert found is not None
    assert (found.n, found.epochs) == (3, (0.0, 1.0, 2.0, 4.0, 8.0, 20.0))
    assert found.means[5] == mean_interval(gradient_error.values(material, "sample_cosine@1"))
    assert found.means[5].estimate < 0.2 < found.means[0].estimate
    other = gradient_error.course(material, "batch_agreement", "shuffled_labels:")
    assert other is not None
    assert other.means != found.means
    assert gradient_error.course(material, "nothing") is None


def test_where_errors_were_not_measured_the_cosines_are_drawn(tmp_path: Path) -> None:
    material = made_up("gradient-error", tmp_path, task="mnist/f1")
    assert gradient_error.errors(material, 0.0) is None
    drawn = svg(material)
    assert drawn is not None
    assert b"samples of 1 %: 550 examples" in drawn
    assert b"error of a batch" not in drawn


def test_steps_stand_over_the_batch_beside_a_line_of_the_law_s_slope(tmp_path: Path) -> None:
    material = made_up("saddle-escape", tmp_path)
    found = saddle_escape.steps(material, "saddle", (4, 16, 64))
    assert found is not None
    assert (found.n, found.sizes) == (3, (4, 16, 64))
    line = saddle_escape.law(found, 25.0)
    assert line[1] - line[0] == pytest.approx(25.0 * math.log(4))
    assert sum(line) == pytest.approx(sum(found.estimates))  # through the middle of the points
    assert saddle_escape.steps(material, "saddle", (5,)) is None


def test_steps_stand_over_the_batch_and_time_is_that_of_a_machine(tmp_path: Path) -> None:
    material = made_up("quadratic-model", tmp_path)
    found = quadratic_model.course(material, "steps", "sgd")
    assert found is not None
    assert (found.n, found.sizes) == (3, SIZES)
    assert found.estimates[0] == pytest.approx(901 * 6000, rel=0.01)
    examples = quadratic_model.course(material, "examples", "momentum")
    assert examples is not None
    assert examples.estimates[3] == pytest.approx(64 * 300 * (1 + 18_000 / 64), rel=0.1)
    times = quadratic_model.times(found, 1024)
    assert times[0] == pytest.approx(found.estimates[0] * 1025 / (found.estimates[5] * 2048))  # best at 1,024
    assert min(times) == times[5] == 1.0
    assert quadratic_model.course(material, "steps", "nothing") is None


def test_times_of_an_example_are_those_of_a_step_over_its_batch(tmp_path: Path) -> None:
    material = made_up("hardware-batch", tmp_path)
    found = hardware_batch.example_times(material, 128)
    assert found is not None
    assert (found.n, found.sizes) == (3, (8, 32, 128))
    steps = material.quantity("milliseconds:128:8")
    assert steps is not None
    assert found.means[0].estimate == pytest.approx(1e3 * steps.estimate / 128)
    seen = hardware_batch.accuracies(material, 32)
    assert seen is not None
    assert seen.sizes == (5, 8, 24, 32)
    line = hardware_batch.step_times(material)
    assert line is not None
    assert line.sizes == (1, 4, 16, 64, 256, 1024)
    assert line.estimates[-1] > 10 * line.estimates[0]


def test_each_kind_of_predictor_has_the_variance_of_its_arm(tmp_path: Path) -> None:
    found = bagging.by_kind(made_up("bagging", tmp_path), "variance", "constant_rate")
    assert list(found) == ["last", "averaged", "long", "bootstrap", "ensemble"]
    assert found["ensemble"].estimate == pytest.approx(0.3 * found["last"].estimate, rel=0.15)


def test_accuracies_stand_over_the_batch_and_the_chosen_small_one_at_its_own_size(tmp_path: Path) -> None:
    material = made_up("small-batches", tmp_path)
    course, tuned = (small_batches.accuracies(material, each) for each in ("epochs", "tuned"))
    assert course is not None
    assert (course.n, course.sizes) == (2, (2, 8, 32, 64, 256, 1024))
    arm = material.arm("epochs, batch 64")
    assert arm is not None
    assert course.means[3] == arm_accuracy(arm).mean
    chosen = material.arm("tuned, best up to 32")
    assert tuned is not None
    assert chosen is not None
    assert (tuned.n, tuned.sizes) == (3, (chosen.recipe.batch_size, 64, 256))
    assert small_batches.accuracies(material, "nothing") is None


def test_steps_lie_on_the_hyperbola_that_made_them_and_curvatures_beside_the_rescaled_one(tmp_path: Path) -> None:
    material = made_up("small-batches", tmp_path)
    found = small_batches.over_sizes(material, "steps:")
    assert found is not None
    assert (found.n, found.sizes) == (2, (1, 4, 32, 64, 256, 1024))
    values = next(each.values for each in material.summary.quantities if each.name == "steps:64")
    assert found.means[3] == geometric_interval(list(values))
    fitted = small_batches.hyperbola(material, found.sizes)
    assert fitted == pytest.approx(found.estimates, rel=0.15)  # made up with 5 % noise
    curvatures = small_batches.curvatures(material)
    assert [n for n, _ in curvatures.values()] == [2] * 5
    *plain, rescaled = [mean.estimate for _, mean in curvatures.values()]
    assert max(plain) < 6.0
    assert rescaled == pytest.approx(200.5, abs=0.5)
