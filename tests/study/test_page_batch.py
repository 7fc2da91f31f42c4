"""`page-batch`: its recipes as the reference has them, and its numbers on runs that anybody can check by hand."""

import dataclasses
import math
from pathlib import Path

import pytest

from rebatch.batching import total_steps
from rebatch.execution import Execution
from rebatch.plain import plain
from rebatch.price import cost
from rebatch.recipe import Recipe
from rebatch.report.paper import page_batch
from rebatch.schedule import lr_factor
from rebatch.study.claims import Equivalent
from rebatch.study.plan import SCALES, Arm, Plan, Scale, make_plan
from rebatch.study.probes import Throughput
from rebatch.study.records import FinishedRun
from rebatch.study.studies.page_2018.batch import BATCH, LARGE, PLAIN, SMALL, SPEED, best_ghost, noise, quantities
from rebatch.study.studies.page_2018.common import PUBLISHED_TASK, mean_lr
from rebatch.study.throughput import throughput
from rebatch.tasks import TASKS
from rebatch.tasks.recipes import PAGE_128, PAGE_512
from rebatch.training import train
from report.made_up import made_up
from study.made_up import RECIPE, run
from study.test_paper_steps import made_images, one_step_of

PAGE, PROXY, DIGITS = TASKS[PUBLISHED_TASK], TASKS["cifar10/proxy"], TASKS["digits/mlp"]


def plan_of(task: str, scale: Scale) -> Plan:
    return make_plan(BATCH, TASKS[task], scale, execution=Execution())


def arms_of(task: str, scale: Scale) -> dict[str, Arm]:
    return {arm.name: arm for arm in plan_of(task, scale).design.arms}


def rate_at(recipe: Recipe, epoch: float) -> float:
    return mean_lr(recipe) * lr_factor(recipe.schedule, epoch / 35)


def test_the_published_recipes_are_run_as_they_are() -> None:
    arms = arms_of(PUBLISHED_TASK, "paper")
    assert arms[SMALL].recipe == PAGE_128
    assert arms[LARGE].recipe == PAGE_512
    plain_rule = arms[PLAIN].recipe
    assert [rate_at(arms[name].recipe, 15) for name in (SMALL, LARGE, PLAIN)] == pytest.approx([0.1, 0.44, 0.4])
    # The author's late knot stays at the small batch's rate; the plain rule multiplies it.
    assert [rate_at(arms[name].recipe, 30) for name in (SMALL, LARGE, PLAIN)] == pytest.approx([0.005, 0.005, 0.02])
    assert total_steps(plain_rule, 45_000) == total_steps(PAGE_512, 45_000) == 35 * 88


def test_elsewhere_the_large_batch_has_the_linear_rule_and_10_percent_more() -> None:
    for task in (PROXY, DIGITS):
        arms = arms_of(task.name, "paper")
        assert arms[LARGE].recipe.batch_size == 4 * task.recipe.batch_size
        assert mean_lr(arms[LARGE].recipe) == pytest.approx(4.4 * mean_lr(task.recipe))
        assert mean_lr(arms[PLAIN].recipe) == pytest.approx(4 * mean_lr(task.recipe))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("task", ["digits/mlp", "cifar10/proxy", PUBLISHED_TASK])
def test_ghosts_differ_in_nothing_but_their_size(task: str, scale: Scale) -> None:
    arms = arms_of(task, scale)
    ghosts = {name: arm for name, arm in arms.items() if name.startswith("ghosts of") and "lr" not in name}
    large = arms[LARGE].recipe
    sizes = [arm.recipe.ghost_batch_size or large.batch_size for arm in ghosts.values()]
    assert [f"ghosts of {size}" for size in sizes] == list(ghosts)
    assert sizes[-1] == large.batch_size
    bare = {str(plain(arm.recipe.replace(ghost_batch_size=None, budget=large.budget))) for arm in ghosts.values()}
    assert bare == {str(plain(large))}
    steps = {total_steps(arm.recipe, TASKS[task].train) for arm in ghosts.values()}
    assert len(steps) == 1
    faster = arms["ghosts of 32, lr x1.5 more"].recipe
    assert mean_lr(faster) == pytest.approx(1.5 * mean_lr(large))


def test_with_the_whole_budget_the_whole_batch_is_one_run() -> None:
    plan, arms = plan_of(PUBLISHED_TASK, "paper"), arms_of(PUBLISHED_TASK, "paper")
    assert plan.spec(arms["ghosts of 512"], 0).run_id == plan.spec(arms[LARGE], 0).run_id
    assert plan.design.evaluations == 35


def test_the_cpu_scale_fits_into_an_hour_of_a_core() -> None:
    plan = plan_of("cifar10/proxy", "cpu")
    trained = [arm for arm, _ in plan.runs() if arm.probe is None]
    examples = sum(cost(arm.recipe, plan.examples).examples for arm in trained)
    seconds = 235 * examples / cost(PROXY.recipe, PROXY.train).examples
    assert 0.7 * 3600 < seconds < 0.97 * 3600  # the rest is for evaluations and for the speed
    assert "25 % of the reference budget" in arms_of("cifar10/proxy", "cpu")["ghosts of 32"].note


def test_noise_is_what_departs_from_a_straight_course() -> None:
    assert noise([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 0.0
    assert noise([0.0, 1.0] * 5) == pytest.approx(2.0 / math.sqrt(6.0))  # second differences of 2 and -2
    assert math.isnan(noise([1.0, 2.0, 1.0, 2.0]))


def course(running: list[float], recomputed: list[float]) -> FinishedRun:
    early = [{"step": float(step), "validation_accuracy": 10.0 * step} for step in range(1, 6)]
    late = [
        {"step": float(step), "validation_accuracy": one, "recomputed_accuracy": other}
        for step, (one, other) in enumerate(zip(running, recomputed, strict=True), start=6)
    ]
    return run([*early, *late])


def test_noise_is_read_late_and_compared_between_batches_and_statistics() -> None:
    calm, loud = [90.0] * 6, [90.0, 91.0] * 3
    found = quantities({SMALL: course(calm, calm), LARGE: course(loud, calm)})
    assert found["noise_added"] == pytest.approx(noise(loud))
    assert found[f"noise:{LARGE}, recomputed"] == 0.0
    assert found["noise_over_half"] == -0.5 * found[f"noise:{LARGE}"]


def test_speed_is_judged_by_the_machine_it_was_measured_on() -> None:
    def found(ratio: float, gpu: float) -> float:
        return quantities({SPEED: run(metrics={"ratio": ratio, "gpu": gpu})})["speed_margin"]

    assert found(1.3, 1.0) == pytest.approx(0.2)
    assert found(1.0, 0.0) == pytest.approx(0.1)
    assert found(1.3, 0.0) < 0.0
    assert found(1.05, 1.0) < 0.0


def test_the_best_ghost_is_the_vertex_of_a_parabola() -> None:
    sizes = (8, 16, 32, 64, 128, 256, 512)
    assert best_ghost({size: (math.log2(size) - 5.3) ** 2 for size in sizes}) == pytest.approx(5.3)
    assert best_ghost({size: math.log2(size) for size in sizes}) == pytest.approx(3.0)  # the lower end
    assert best_ghost({size: -((math.log2(size) - 5) ** 2) for size in sizes}) == 9.0  # no lowest point: better end
    assert math.isnan(best_ghost({8: 1.0, 512: 2.0}))
    runs = {f"ghosts of {size}": run(metrics={"validation_loss": abs(math.log2(size) - 5)}) for size in (16, 32, 64)}
    assert quantities({**runs, "ghosts of 32, lr x1.5 more": run()})["best_ghost"] == pytest.approx(5.0)


def test_the_claims_are_those_of_the_reference() -> None:
    claims = {claim.id: claim for claim in BATCH.design(PAGE, "paper").claims}
    assert list(claims) == ["P1", "P1-plain", "P4", "P15", "P20", "P20-rate"]
    assert claims["P1"].test == Equivalent(LARGE, SMALL, 0.2)
    assert {name: claims[name].expected for name in ("P1", "P4", "P20")} == {"P1": 0.0, "P4": 0.2, "P20": 0.1}
    assert all(claim.expected is None for claim in BATCH.design(PROXY, "cpu").claims)


def test_both_speeds_are_measured_in_one_run() -> None:
    plan, arms = plan_of("digits/mlp", "quick"), arms_of("digits/mlp", "quick")
    probe = Throughput(batch_sizes=(32, 128), examples=2048, repeats=2)
    arm = Arm(name="speed", recipe=arms[SPEED].recipe, probe=probe)
    _, found = throughput(plan.spec(arm, 0), DIGITS, None)
    assert found.keys() == {"examples_per_second:32", "examples_per_second:128", "ratio", "gpu"}
    assert found["ratio"] > 0.0
    assert min(found["examples_per_second:32"], found["examples_per_second:128"]) > 100.0


def test_the_figure_s_numbers(tmp_path: Path) -> None:
    material = made_up("page-batch", tmp_path)
    assert [each.size for each in page_batch.ghosts(material)] == [8, 16, 32, 64, 128]
    late = page_batch.late_run(material, LARGE, "recomputed_accuracy")
    assert min(epoch for epoch, _ in late) >= 10.0
    assert list(page_batch.rates(material, LARGE).values()) == pytest.approx(
        [0.1] * len(page_batch.rates(material, LARGE))
    )
    assert len(page_batch.noises(material)) == 4


def test_one_step_of_every_recipe_at_paper_scale_with_its_own_network() -> None:
    trained = [arm for arm in arms_of(PUBLISHED_TASK, "paper").values() if arm.probe is None]
    steps = {str(plain(one_step_of(arm.recipe))): one_step_of(arm.recipe) for arm in trained}
    for recipe in steps.values():
        (row,) = train(PAGE.model(), made_images(), recipe, seed=0, evaluations=1)
        assert math.isfinite(row["train_loss"])


def test_a_batch_no_larger_than_a_ghost_has_no_ghosts() -> None:
    tiny = dataclasses.replace(DIGITS, name="mine/mlp", recipe=RECIPE.replace(batch_size=8))
    design = BATCH.design(tiny, "cpu")
    assert not any("ghosts" in arm.name for arm in design.arms)
    assert [claim.id for claim in design.claims] == ["P1", "P1-plain", "P4", "P15"]
