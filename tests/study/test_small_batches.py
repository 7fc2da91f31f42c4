"""`small-batches`: its arms, its numbers by hand, and the probe that goes to a target against training by hand."""

import dataclasses
import math
from statistics import fmean

import pytest

from rebatch.batching import total_steps
from rebatch.critical_batch import first_passage
from rebatch.execution import Execution
from rebatch.recipe import Steps
from rebatch.schedule import Constant
from rebatch.study.claims import ArmOutcome, Quantity, comparisons, quantities_of
from rebatch.study.judging import judge
from rebatch.study.plan import SCALES, Arm, Plan, RunSpec, Scale, make_plan
from rebatch.study.probes import Throughput, ToTarget
from rebatch.study.records import FinishedRun
from rebatch.study.studies.mini_batches.small_batch_arms import (
    BEST_LARGE,
    BEST_SMALL,
    FLAT,
    TUNED_SMALL,
    course_arm,
    flat_arm,
    target_arm,
)
from rebatch.study.studies.mini_batches.small_batch_numbers import SPEED, quantities
from rebatch.study.studies.mini_batches.small_batches import SMALL_BATCHES
from rebatch.study.to_target import OTHER_SEEDS, to_target
from rebatch.tasks import TASKS
from rebatch.training import evaluate, train
from study.made_up import run, seed_of

PLAIN = TASKS["digits/mlp-plain"]
SIZES = (1, 4, 16, 64, 256, 1024)


def plan_of(scale: Scale = "cpu", task: str = PLAIN.name) -> Plan:
    return make_plan(SMALL_BATCHES, TASKS[task], scale, execution=Execution())


def arms_of(scale: Scale = "cpu", task: str = PLAIN.name) -> dict[str, Arm]:
    return {arm.name: arm for arm in plan_of(scale, task).design.arms}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("task", ["digits/mlp-plain", "digits/mlp", "mnist/f1"])
def test_every_number_of_a_claim_is_made_of_the_design_s_arms(task: str, scale: Scale) -> None:
    plan = plan_of(scale, task)
    found = quantities(seed_of(plan))
    assert {name for claim in plan.design.claims for name in quantities_of(claim.compared)} <= found.keys()


@pytest.mark.parametrize("size", [2, 32, 1024])
def test_the_rate_is_in_proportion_to_the_batch_at_either_budget(size: int) -> None:
    arms, reference = arms_of(), PLAIN.recipe
    for budget in ("epochs", "steps"):
        recipe = arms[course_arm(budget, size)].recipe
        assert recipe.batch_size == size
        assert recipe.optimizer.lr == pytest.approx(reference.optimizer.lr * size / 32)
    assert arms[course_arm("epochs", size)].recipe.budget == reference.budget
    assert total_steps(arms[course_arm("steps", size)].recipe, 1024) == total_steps(reference, 1024) == 640


def test_best_arms_are_chosen_by_seeds_of_their_own_on_either_side_of_32() -> None:
    arms = arms_of()

    def sizes(name: str) -> set[int]:
        return {arms[each].recipe.batch_size for each in arms[name].best_of}

    assert sizes(BEST_SMALL) == {2, 4, 8, 16, 32}
    assert sizes(BEST_LARGE) == {64, 128, 256, 512, 1024}
    assert sizes(TUNED_SMALL) == {4, 8, 16, 32}
    assert sizes("tuned, batch 64") == {64}
    assert {arm.first_seed for arm in arms.values() if arm.candidate} == {1000}
    rates = sorted(arms[name].recipe.optimizer.lr for name in arms["tuned, batch 128"].best_of)
    assert rates == pytest.approx([0.1 * factor for factor in (0.25, 0.5, 1.0, 2.0, 4.0)])
    assert "chosen among 20" in arms[TUNED_SMALL].note


def test_curvature_is_compared_at_one_rate() -> None:
    arms = arms_of()
    for budget in ("steps", "epochs"):
        small, large = (arms[flat_arm(budget, size)].recipe for size in FLAT)
        assert small.optimizer == large.optimizer == PLAIN.recipe.optimizer
        steps = total_steps(small, 1024), total_steps(large, 1024)
        assert steps == {"steps": (640, 640), "epochs": (1280, 40)}[budget]


def test_a_batch_of_one_is_left_out_where_a_net_has_batch_norm() -> None:
    assert target_arm(1) in arms_of()
    ids = {claim.id for claim in plan_of().design.claims}
    for task in ("digits/mlp", "mnist/f1"):
        arms = arms_of("cpu", task)
        assert target_arm(1) not in arms
        speed = arms[SPEED].probe
        assert isinstance(speed, Throughput)
        assert 1 not in speed.batch_sizes
        assert ids - {claim.id for claim in plan_of("cpu", task).design.claims} == {"Q6", "Q6-hours"}


def goes(size: int, steps: float) -> FinishedRun:
    return run(metrics={"steps": steps, "examples": size * steps, "lr": 0.1, "missed": 0.0})


def test_steps_on_a_hyperbola_and_times_on_a_line_give_their_parameters_back() -> None:
    sizes = (*SIZES, 32)
    runs = {target_arm(size): goes(size, 50.0 * (1.0 + 40.0 / size)) for size in sizes}
    times = {f"examples_per_second:{size}": size / (0.002 + 0.00005 * size) for size in sizes}
    found = quantities({**runs, SPEED: run(metrics=times)})
    assert found["least_steps"] == pytest.approx(50.0, rel=0.01)
    assert found["critical_batch_size"] == pytest.approx(40.0, rel=0.01)
    assert found["floor_share:1024"] == pytest.approx(1.0 / (1.0 + 40.0 / 1024), rel=0.01)
    assert found["log2_steps:256/1024"] == pytest.approx(math.log2((1 + 40 / 256) / (1 + 40 / 1024)))
    assert found["log2_examples:1/32"] == pytest.approx(math.log2(41 / 72))
    assert found["log2_examples:32/4"] == pytest.approx(math.log2(72 / 44))
    assert found["seconds:1"] == pytest.approx(50 * 41 * 0.00205)
    assert found["fastest"] == pytest.approx(math.sqrt(0.002 * 40 / 0.00005), rel=0.01)  # 40
    assert found["best_off_formula"] == pytest.approx(math.log2(32 / 40), abs=0.01)
    assert found["log2_seconds:1/fastest"] == pytest.approx(math.log2(found["seconds:1"] / found["seconds:32"]))


def test_the_gap_is_between_32_and_the_mean_of_larger_batches() -> None:
    claim = next(claim for claim in plan_of().design.claims if claim.id == "Q9-steps")
    sizes = [size for size in (32, 64, 128, 256, 512, 1024) if course_arm("steps", size) in arms_of()]
    accuracy = {course_arm("epochs", size): 97.0 - 2.0 * place for place, size in enumerate(sizes)}
    accuracy |= {course_arm("steps", size): 97.0 - place for place, size in enumerate(sizes)}
    outcomes = {name: ArmOutcome(accuracy={0: value, 1: value + 1.0}) for name, value in accuracy.items()}
    (judgement,) = judge([claim], outcomes)
    behind = fmean(range(1, len(sizes)))  # by how many points the larger ones are; by twice that at equal epochs
    left, at_equal_epochs = (part.effect.estimate for part in judgement.parts)
    assert (left, at_equal_epochs) == pytest.approx((behind - 0.5 * 2.0 * behind, 2.0 * behind))


def test_curvatures_are_compared_in_octaves() -> None:
    def ends(value: float, accuracy: float = 99.0) -> FinishedRun:
        moved = {"rescaled_eigenvalue": 16.0 * value, "rescaled_outputs_move": 0.0}
        return run(metrics={"top_eigenvalue": value, "final_train_accuracy": accuracy, **moved})

    runs = {flat_arm("steps", 16): ends(2.0), flat_arm("steps", 512): ends(16.0, 91.0)}
    found = quantities(runs)
    assert (found["flatter:steps"], found["rescaled_by"], found["rescaled_outputs_move"]) == (3.0, 4.0, 0.0)
    assert found["train_accuracy:steps, batch 512"] == 91.0
    assert "flatter:epochs" not in found
    broken = {**runs, flat_arm("steps", 512): run(diverged=True)}
    assert math.isnan(quantities(broken)["flatter:steps"])


@pytest.mark.parametrize(("accuracy", "verdict"), [(99.0, "confirmed"), (20.0, "undecided")])
def test_flatness_of_a_net_that_has_not_learned_says_nothing(accuracy: float, verdict: str) -> None:
    (claim,) = [each for each in plan_of().design.claims if each.id == "Q7-epochs"]
    values = {
        test.name: {seed: accuracy + 0.01 * seed if "512" in test.name else 99.0 + 0.01 * seed for seed in range(5)}
        for test in claim.premise
        if isinstance(test, Quantity)
    }
    (flatter,) = comparisons(claim.test)
    assert isinstance(flatter, Quantity)
    values[flatter.name] = {seed: 2.0 + 0.01 * seed for seed in range(5)}
    (found,) = judge([claim], {}, values)
    assert found.verdict == verdict


# the probe


def spec_of(probe: ToTarget, lr: float, size: int = 256) -> RunSpec:
    recipe = PLAIN.recipe.replace(batch_size=size).with_lr(lr)
    return RunSpec(task=PLAIN.name, recipe=recipe, seed=7, probe=probe)


def steps_by_hand(lr: float, seed: int, target: float, most: int) -> float:
    """The twin: train at a constant rate, evaluate at every row."""
    data, model = PLAIN.data(7), PLAIN.model(seed)
    recipe = PLAIN.recipe.replace(batch_size=256, schedule=Constant(), budget=Steps(most)).with_lr(lr)
    looks = [
        (int(row["step"]), evaluate(model, data.validation, data.normalize).loss)
        for row in train(model, data, recipe, seed=seed, evaluations=1)
        if "diverged" not in row
    ]
    return first_passage(looks, target, start=math.log(10))


def test_the_rate_is_the_quickest_of_the_grid_for_other_seeds_and_steps_are_those_of_its_own() -> None:
    wanted = ToTarget(target=1.5, most=60, tuning=2, measured=2)
    rows, found = to_target(spec_of(wanted, 0.2), PLAIN, None)
    others = [8 * OTHER_SEEDS + number for number in range(4)]
    costs = {
        lr: math.fsum(steps_by_hand(lr, seed, 1.5, 60) for seed in others[2:]) * 1.1 ** math.log2(lr / 0.2)
        for lr in (0.05, 0.1, 0.2, 0.4)
    }
    assert found["lr"] == min(costs, key=lambda lr: costs[lr])
    own = [steps_by_hand(found["lr"], seed, 1.5, 60) for seed in (7, others[1])]
    assert found["steps"] == pytest.approx(math.sqrt(own[0] * own[1]))
    assert found["examples"] == 256 * found["steps"]
    assert found["missed"] == 0.0
    assert rows[-1]["validation_loss"] <= 1.5 < rows[-2]["validation_loss"]


@pytest.mark.parametrize(("gain", "chosen"), [(1.05, 0.1), (1.2, 0.2)])
def test_a_rate_is_judged_by_seeds_that_are_not_measured_and_a_doubled_one_must_gain_a_tenth(
    gain: float, chosen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, int]] = []

    def steps(_: object, lr: float, seed: int, most: float, looks: object = None) -> float:
        asked.append((lr, seed))
        return {0.05: 200.0, 0.1: 100.0, 0.2: 100.0 / gain, 0.4: math.inf}[lr]

    monkeypatch.setattr("rebatch.study.to_target._Trainings.steps", steps)
    _, found = to_target(spec_of(ToTarget(target=1.5, most=500, tuning=2, measured=3), 0.1), PLAIN, None)
    assert found["lr"] == chosen
    assert found["steps"] == pytest.approx(100.0 if chosen == 0.1 else 100.0 / gain)
    measured = [seed for lr, seed in asked[-3:] if lr == chosen]
    assert measured[0] == 7
    assert len({*measured}) == 3
    assert {seed for _, seed in asked[:-3]}.isdisjoint(measured)
    assert len({seed for _, seed in asked[:-3]}) == 2


def test_a_target_that_is_missed_counts_with_all_the_steps_allowed() -> None:
    wanted = ToTarget(target=1e-6, most=5, tuning=1, measured=2)
    _, found = to_target(spec_of(wanted, 0.1), PLAIN, None)
    assert found["steps"] == pytest.approx(5.0)
    assert found["missed"] == 2.0


def test_from_a_rate_that_diverges_the_search_goes_down_until_one_does_not() -> None:
    wanted = ToTarget(target=1.5, most=60, tuning=1, measured=1)
    assert all(math.isinf(steps_by_hand(lr, 7, 1.5, 60)) for lr in (6.4, 3.2, 1.6))
    _, found = to_target(spec_of(wanted, 6.4), PLAIN, None)
    assert found["lr"] < 1.6
    assert found["missed"] == 0.0


def test_the_target_and_the_patience_are_those_of_the_task() -> None:
    for task, most, tuning in ((PLAIN, 1280, 2), (dataclasses.replace(PLAIN, name="other/net"), 400, 1)):
        arms = {arm.name: arm for arm in make_plan(SMALL_BATCHES, task, "cpu", execution=Execution()).design.arms}
        probe = arms[target_arm(32)].probe
        assert isinstance(probe, ToTarget)
        assert probe.target == pytest.approx(0.3454, abs=1e-4)
        assert (probe.most, probe.tuning) == (most, tuning)
