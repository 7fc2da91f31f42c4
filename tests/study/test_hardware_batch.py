"""`hardware-batch`: its arms, its numbers by hand, and its probes against what they stand for."""

from typing import Any

import pytest

from rebatch.execution import Execution
from rebatch.recipe import Epochs, Recipe
from rebatch.study import hardware_probing
from rebatch.study.hardware_probing import cuts, kept_images, step_times
from rebatch.study.plan import Plan, RunSpec, Scale, make_plan
from rebatch.study.probes import Cuts, KeptImages, StepTimes
from rebatch.study.studies.mini_batches.hardware_batch import (
    BATCH_NORM,
    BATCHES,
    HARDWARE_BATCH,
    TIMES,
    VGG,
    milliseconds,
    quantities,
)
from rebatch.tasks import TASKS
from study.made_up import run

PLAIN, NORMED = TASKS["digits/mlp-plain"], TASKS["digits/mlp"]


def plan_of(task: str = "digits/mlp-plain", scale: Scale = "quick") -> Plan:
    return make_plan(HARDWARE_BATCH, TASKS[task], scale, execution=Execution())


def test_arms_are_cut_into_no_more_than_the_batch_and_one_has_batch_norm() -> None:
    arms = {arm.name: arm for arm in plan_of().design.arms}
    for size in BATCHES:
        arm = arms[f"batch:{size}"]
        assert isinstance(arm.probe, Cuts)
        assert arm.recipe.batch_size == size == max(arm.probe.micro_batch_sizes)
        assert any(size % micro for micro in arm.probe.micro_batch_sizes)  # an uneven cut
        assert arm.recipe.optimizer.lr == pytest.approx(0.05 * (size / 32) ** 0.5)
        assert arm.task == ""
    assert arms[BATCH_NORM].task == "digits/mlp"
    assert isinstance(arms[TIMES].probe, StepTimes)
    assert isinstance(arms[VGG].probe, KeptImages)
    assert BATCH_NORM not in {arm.name for arm in plan_of("digits/mlp").design.arms}
    assert "Q11-norm" not in {claim.id for claim in plan_of("mnist/f1").design.claims}


def test_numbers_are_the_largest_distance_and_the_ends_of_the_grid() -> None:
    runs = {
        "batch:32": run(metrics={"apart:32": 0.0, "apart:8": 3e-15, "accuracy:32": 97.0, "accuracy:8": 97.25}),
        "batch:128": run(metrics={"apart:128": 0.0, "apart:8": 2e-13, "accuracy:128": 96.0, "accuracy:8": 96.0}),
        "batch:512": run(metrics={"apart:512": 0.0, "accuracy:512": 92.0, "kept:8": 300.0, "kept:512": 15_000.0}),
        BATCH_NORM: run(metrics={"apart:512": 0.0, "apart:32": 0.5}),
        VGG: run(metrics={"numbers": 7.0}),
    }
    times = {milliseconds(512, 8): 40.0, milliseconds(512, 512): 5.0, milliseconds(512, 32): 16.0}
    times |= {milliseconds(32, 32): 2.0, milliseconds(1024, 1024): 9.0, "fixed": 0.5, "per_example": 0.25}
    found = quantities({**runs, TIMES: run(metrics=times)})
    assert found["apart"] == 2e-13
    assert found["accuracy_by_micro"] == 0.25
    assert found["accuracy_by_batch"] == 5.0
    assert found["kept_by_micro"] == 0.02
    assert found["apart_with_batch_norm"] == 0.5
    assert found["numbers:vgg16"] == 7.0
    assert found["time_by_micro"] == 8.0
    assert found["time_by_batch"] == 2.0  # 2/32 beside 16/512
    assert found["steps_in_full"] == 4.5
    assert found["hardware_batch"] == 2.0
    assert found[milliseconds(512, 8)] == 40.0
    assert "apart" not in quantities({"batch:32": runs["batch:32"]})


def spec(probe: Cuts | StepTimes | KeptImages, recipe: Recipe, task: str = PLAIN.name) -> RunSpec:
    return RunSpec(task=task, recipe=recipe, seed=3, probe=probe)


def test_a_cut_run_ends_where_the_whole_one_does_and_with_batch_norm_elsewhere() -> None:
    recipe = PLAIN.recipe.replace(budget=Epochs(4))
    wanted = Cuts(micro_batch_sizes=(5, 24))
    _, found = cuts(spec(wanted, recipe), PLAIN, None)
    assert found["apart:32"] == 0.0
    assert 0.0 < found["apart:5"] < 1e-12  # cut, and not by chance the same sums
    assert 0.0 < found["apart:24"] < 1e-12
    assert found["accuracy:5"] == found["accuracy:24"] == found["accuracy:32"] > 50.0
    _, other = cuts(spec(wanted, recipe, NORMED.name), NORMED, None)
    assert other["apart:5"] > 1e-3


def test_kept_bytes_are_those_of_inputs_activations_and_labels() -> None:
    recipe = PLAIN.recipe.replace(batch_size=64, budget=Epochs(1))
    _, found = cuts(spec(Cuts(micro_batch_sizes=(5,)), recipe), PLAIN, None)
    # 64 pixels, three ReLUs of 128, ten log-probabilities in float64, a label; and one number of the loss.
    each = 8 * (64 + 3 * 128 + 10) + 8
    assert found["kept:64"] - found["kept:5"] == 59 * each
    assert found["kept:5"] - 5 * each in (0, 8)


def test_the_line_goes_through_times_that_a_clock_without_noise_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(*about: object, examples: int) -> float:
        *_, size, micro = about
        assert isinstance(size, int)
        assert isinstance(micro, int)
        return 0.002 * -(-size // micro) + 0.00001 * size

    monkeypatch.setattr(hardware_probing, "_seconds", seconds)
    pairs = ((1, 1), (64, 64), (64, 8), (512, 512))
    _, found = step_times(spec(StepTimes(pairs=pairs, rounds=6), PLAIN.recipe), PLAIN, None)
    assert found[milliseconds(64, 8)] == pytest.approx(16.64)
    assert found["fixed"] == pytest.approx(2.0)
    assert found["per_example"] == pytest.approx(0.01)
    assert found["misfit"] == pytest.approx(0.0, abs=1e-12)


def test_steps_are_timed_from_gradient_to_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def train(
        model: object, data: object, recipe: Recipe, *, micro_batch_size: int, observers: list[Any], **_: object
    ) -> list[dict[str, float]]:
        assert recipe.optimizer.lr < 1e-9
        seen.append((recipe.batch_size, micro_batch_size))
        observers[0].moments += [2.0**step for step in range(10)]
        return []

    monkeypatch.setattr(hardware_probing, "train", train)
    pairs = ((1, 1), (64, 64), (64, 8))
    _, found = step_times(spec(StepTimes(pairs=pairs, rounds=6, examples=1), PLAIN.recipe), PLAIN, None)
    assert seen[:6] == [*pairs, *reversed(pairs)]
    assert found[milliseconds(64, 8)] == pytest.approx(1e3 * (2**8 - 2**2) / 6)


def test_a_real_clock_runs() -> None:
    _, found = step_times(spec(StepTimes(pairs=((1, 1), (256, 256)), rounds=6, examples=1), PLAIN.recipe), PLAIN, None)
    assert 0.0 < found[milliseconds(1, 1)] < 1e3


def test_vgg16_s_numbers_are_those_of_an_image_however_many_there_are() -> None:
    first, second = (
        kept_images(spec(KeptImages(most_images=many), PLAIN.recipe), PLAIN, None)[1] for many in (1, 1000)
    )
    assert first["images"] == 1.0 < second.pop("images")
    assert second == {name: first[name] for name in second}
    assert second["numbers"] == 15_245_800
    assert second["kept_megabytes"] == pytest.approx(73.3, abs=0.05)
    assert second["kept_integer_megabytes"] == pytest.approx(12.2, abs=0.05)
