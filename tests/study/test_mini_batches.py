"""`gradient-error`, `saddle-escape`: their arms, their numbers by hand, their probes against what they stand for."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rebatch import draws
from rebatch.escape import kramers_steps, saddle_slope
from rebatch.execution import Execution
from rebatch.measure.escape import SADDLE, escape_steps
from rebatch.recipe import Epochs
from rebatch.study.claims import Quantity, comparisons, quantities_of
from rebatch.study.evidence import evidence
from rebatch.study.judging import judge
from rebatch.study.mini_batch_probing import escape, gradient_errors
from rebatch.study.plan import SCALES, Plan, RunSpec, Scale, Study, make_plan
from rebatch.study.probes import Escape, GradientErrors, Probe
from rebatch.study.studies.mini_batches import gradient_error, saddle_escape
from rebatch.study.studies.mini_batches.gradient_error import GRADIENT_ERROR, PLACES, SHUFFLED, TRUE, faded
from rebatch.study.studies.mini_batches.saddle_escape import SADDLE_ESCAPE
from rebatch.tasks import TASKS, find_task
from study.made_up import run, seed_of

PLAIN = TASKS["digits/mlp-plain"]


def plan_of(study: Study, scale: Scale = "quick", task: str = "") -> Plan:
    return make_plan(study, find_task(task or study.task), scale, execution=Execution())


def test_all_are_found_by_their_source_and_hold_the_claims_of_the_discussion() -> None:
    found = {study.name: study for study in evidence() if study.source.casefold().startswith("mini-batches")}
    ids = {name: {claim.id.partition("-")[0] for claim in study.claims} for name, study in found.items()}
    assert ids == {
        "gradient-error": {"Q1", "Q2", "Q17"},
        "saddle-escape": {"Q4", "Q5"},
        "quadratic-model": {"Q3", "Q6", "Q15", "Q16"},
        "hardware-batch": {"Q11", "Q12", "Q13", "Q14"},
        "bagging": {"Q8"},
        "small-batches": {"Q6", "Q7", "Q9", "Q10", "Q14", "Q15", "Q16"},
    }
    assert set().union(*ids.values()) == {f"Q{number}" for number in range(1, 18)}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("study", "task"), [(GRADIENT_ERROR, "mnist/f1"), (GRADIENT_ERROR, ""), (SADDLE_ESCAPE, "")])
def test_every_number_of_a_claim_is_made_of_the_design_s_arms(study: Study, task: str, scale: Scale) -> None:
    plan = plan_of(study, scale, task)
    assert study.quantities is not None
    found = study.quantities(seed_of(plan))
    assert {name for claim in plan.design.claims for name in quantities_of(claim.compared)} <= found.keys()


# gradient-error


def test_the_two_runs_differ_in_their_labels_and_in_what_is_looked_at() -> None:
    true, shuffled = plan_of(GRADIENT_ERROR, "cpu").design.arms
    assert true.recipe == shuffled.recipe == PLAIN.recipe
    assert isinstance(true.probe, GradientErrors)
    assert isinstance(shuffled.probe, GradientErrors)
    assert (true.probe.shuffled, shuffled.probe.shuffled) == (False, True)
    assert true.probe.after == shuffled.probe.after == PLACES
    assert true.probe.examples is None  # all of them: the formula is exact
    large = plan_of(GRADIENT_ERROR, "cpu", "mnist/f1").design.arms[0]
    assert large.recipe.budget == Epochs(5.0)


def at(place: float, **numbers: float) -> dict[str, float]:
    return {f"{name}@{place:g}": value for name, value in numbers.items()}


def test_numbers_are_those_of_the_runs_their_distance_from_the_formulas_and_falls() -> None:
    true = at(0, epoch=0.0, batch_agreement=0.2, sample_cosine=0.5, sample_cosine_expected=0.4)
    true |= at(0.1, epoch=2.0, batch_agreement=0.6) | at(1, epoch=20.0, batch_agreement=0.01)
    shuffled = at(0, epoch=0.0, batch_agreement=0.04) | at(1, epoch=20.0, batch_agreement=-0.02)
    found = gradient_error.quantities({TRUE: run(metrics=true), SHUFFLED: run(metrics=shuffled)})
    assert found["off:sample_cosine@0"] == pytest.approx(0.1)
    assert found["fall"] == pytest.approx(0.19)
    assert found["fall_from_tenth"] == pytest.approx(0.59)
    assert found["fall_at_first"] == pytest.approx(-0.4)
    assert found["faded"] == pytest.approx(2.0 + 18.0 * 0.55 / 0.59)
    assert found["shuffled_labels:faded"] == 0.0
    assert found["faded_later"] == found["faded"]
    assert found["shuffled_labels:batch_agreement@1"] == -0.02
    assert "off:sample_cosine@1" not in found


def test_batches_have_ceased_to_agree_where_they_stay_under_a_twentieth() -> None:
    assert faded([(0.0, 0.2), (1.0, 0.0), (2.0, 0.3), (4.0, 0.05), (8.0, 0.0)]) == 4.0  # for good, not at first
    assert faded([(0.0, 0.1), (2.0, 0.0)]) == pytest.approx(1.0)
    assert faded([(0.0, 0.01), (2.0, 0.04)]) == 0.0
    assert faded([(0.0, 0.1), (2.0, 0.05)]) == 2.0  # the end of the run: not seen to cease
    assert math.isnan(faded([]))


def spec(probe: Probe, seed: int = 3) -> RunSpec:
    return RunSpec(task=PLAIN.name, recipe=PLAIN.recipe, seed=seed, probe=probe)


def per_example(seed: int, labels: Tensor) -> Tensor:
    """The twin: backward on one digit after the other, at fresh weights."""
    model, data = PLAIN.model(seed), PLAIN.data(seed).train
    rows = []
    for image, label in zip(data.inputs, labels, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()  # type: ignore[no-untyped-call]
        rows.append(torch.cat([each.grad.reshape(-1) for each in model.parameters() if each.grad is not None]))
    return torch.stack(rows).double()


@pytest.mark.parametrize("shuffled", [False, True])
def test_noise_scale_and_cosines_are_those_of_examples_one_by_one(shuffled: bool) -> None:
    probe = GradientErrors(after=(0.0,), batch_sizes=(512,), draws=40, shuffled=shuffled)
    _, found = gradient_errors(spec(probe), PLAIN, None)
    labels = PLAIN.data(3).train.targets
    if shuffled:
        labels = labels[torch.from_numpy(draws.generator(3, "shuffled_labels").permutation(1024))]
    gradients = per_example(3, labels)
    full = gradients.mean(0)
    trace = float((gradients - full).square().sum()) / 1023
    scale = trace / float(full.square().sum())
    assert found["noise_scale@0"] == pytest.approx(scale, rel=1e-4)
    assert found["gradient_norm@0"] == pytest.approx(float(full.norm()), rel=1e-5)
    assert found["sample_cosine_expected@0"] == pytest.approx(1 / math.sqrt(1 + scale / 10), rel=1e-4)
    assert found["batch_agreement_expected@0"] == pytest.approx(1 / (1 + scale / 32), rel=1e-4)
    # 40 batches of half of the data: each epoch's two have the same error.
    ratio = (found["relative_error:512@0"] * float(full.norm())) ** 2 / (trace * (1 / 512 - 1 / 1024))
    assert found["error_ratio@0"] == pytest.approx(ratio, rel=1e-4)
    assert ratio == pytest.approx(1.0, abs=0.3)
    assert found["sample_cosine@0"] == pytest.approx(found["sample_cosine_expected@0"], abs=0.1)


def test_labels_are_shuffled_once_for_the_whole_run_and_images_are_not() -> None:
    true, shuffled = (
        gradient_errors(spec(GradientErrors(after=(0.05,), draws=2, shuffled=each)), PLAIN, None)[1]
        for each in (False, True)
    )
    assert true["epoch@0.05"] == shuffled["epoch@0.05"] == 1.0
    # After an epoch the net has begun to tell digits by their true labels, and cannot by shuffled ones.
    assert true["gradient_norm@0.05"] > 2 * shuffled["gradient_norm@0.05"]


def test_some_examples_give_the_trace_and_all_of_them_the_gradient() -> None:
    all_of_them = gradient_errors(spec(GradientErrors(after=(0.0,), draws=1)), PLAIN, None)[1]
    some = gradient_errors(spec(GradientErrors(after=(0.0,), draws=1, examples=300)), PLAIN, None)[1]
    assert some["gradient_norm@0"] == pytest.approx(all_of_them["gradient_norm@0"], rel=1e-5)
    assert some["noise_scale@0"] != all_of_them["noise_scale@0"]
    assert some["noise_scale@0"] == pytest.approx(all_of_them["noise_scale@0"], rel=0.2)


def test_a_net_with_batch_norm_is_measured_in_evaluation_mode() -> None:
    task = TASKS["digits/mlp"]
    wanted = GradientErrors(after=(0.05,), batch_sizes=(8, 512), draws=256)
    one = RunSpec(task=task.name, recipe=task.recipe, seed=3, probe=wanted)
    _, found = gradient_errors(one, task, None)
    assert found["error_ratio@0.05"] == pytest.approx(1.0, abs=0.1)  # in training mode it would be the batch's own norm


# saddle-escape


def test_every_arm_has_the_rate_the_batch_and_the_noise_of_its_name() -> None:
    arms = {arm.name: arm for arm in plan_of(SADDLE_ESCAPE, "cpu").design.arms}
    for name, arm in arms.items():
        surface, _, size = name.partition(":")
        assert isinstance(arm.probe, Escape)
        assert arm.probe.surface == surface
        assert (arm.probe.noise == 0.0) == (size in ("full_batch", "random_start"))
        assert (arm.probe.spread > 0.0) == (size == "random_start")
        if size.isdigit():
            assert arm.recipe.batch_size == int(size)
    well = {arm.recipe.batch_size: arm.recipe.optimizer.lr for name, arm in arms.items() if "well" in name}
    assert {well[size] for size in (12, 16, 20, 24)} == {0.1}
    assert {well[size] / size for size in (2, 4, 8, 16)} == {0.1 / 16}


def test_slopes_are_those_of_the_laws_where_the_steps_are() -> None:
    runs = {
        f"{surface}:{size}": run(metrics={"left": 1.0, "steps": 7.0 + saddle_slope(0.02, c) * math.log(size)})
        for surface, c in (("saddle", 1.0), ("sphere", 2.0))
        for size in (4, 16, 64, 256, 1024)
    }
    for size, lr in {12: 0.1, 16: 0.1, 20: 0.1, 24: 0.1, 2: 0.0125, 4: 0.025, 8: 0.05}.items():
        runs[f"double_well:{size}"] = run(metrics={"left": 1.0, "steps": kramers_steps(size, lr, 4.0)})
    runs["saddle:full_batch"] = run(metrics={"left": 0.0})
    found = saddle_escape.quantities(runs)
    assert found["slope:saddle"] == pytest.approx(25.249, abs=1e-3)
    assert found["longer:saddle"] == pytest.approx(25.249 * math.log(256), abs=1e-2)
    assert found["slope:sphere"] == pytest.approx(12.748, abs=1e-3)
    assert found["slope:double_well"] == pytest.approx(1.0)
    assert found["examples_ratio"] == pytest.approx(1.0)
    assert found["left:saddle:full_batch"] == 0.0
    assert "steps:saddle:full_batch" not in found
    del runs["saddle:16"]
    assert "slope:saddle" not in saddle_escape.quantities(runs)


@pytest.mark.parametrize(("left", "verdict"), [(0.0, "confirmed"), (1.0, "refuted")])
def test_an_exact_gradient_that_left_would_refute_the_claim(left: float, verdict: str) -> None:
    (claim,) = [each for each in plan_of(SADDLE_ESCAPE).design.claims if each.id == "Q4"]
    values = {
        test.name: dict.fromkeys(range(10), left if "full_batch" in test.name else 1.0)
        for test in comparisons(claim.test)
        if isinstance(test, Quantity)
    }
    (found,) = judge([claim], {}, values)
    assert found.verdict == verdict


def test_the_probe_s_walkers_have_the_noise_of_the_batch() -> None:
    recipe = saddle_escape._at(find_task("simulation").recipe, 16, 0.02)
    wanted = Escape(surface="saddle", walkers=5, most=999, noise=2.0)
    one = RunSpec(task="simulation/none", recipe=recipe, seed=1, probe=wanted)
    _, found = escape(one, find_task("simulation"), None)
    rng = draws.generator(1, "escape saddle", 16)
    expected = escape_steps(SADDLE, lr=0.02, deviation=0.5, walkers=5, most=999, rng=rng)
    assert found == {"left": 1.0, "steps": float(np.mean(expected))}


def test_where_not_all_left_there_is_no_mean() -> None:
    recipe = saddle_escape._at(find_task("simulation").recipe, 16, 0.02)
    wanted = Escape(surface="sphere", walkers=50, most=100, noise=0.5)
    one = RunSpec(task="simulation/none", recipe=recipe, seed=1, probe=wanted)
    _, found = escape(one, find_task("simulation"), None)
    assert found.keys() == {"left"}
    assert 0.0 < found["left"] < 1.0
