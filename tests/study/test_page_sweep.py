"""`page-sweep`: its grid and recipes as the reference has them, and its numbers on sweeps with known answers."""

import math
from pathlib import Path

import msgspec
import pytest

from rebatch.batching import total_steps
from rebatch.execution import Execution
from rebatch.measure.forgetting import LEAST_BATCHES
from rebatch.plain import plain
from rebatch.price import cost
from rebatch.recipe import Recipe, Sgd
from rebatch.report.paper.page_sweep import courses, limit_at, table
from rebatch.report.paper.page_sweep import figure as draw
from rebatch.study.claims import Quantity, comparisons
from rebatch.study.plan import SCALES, Arm, Scale, make_plan
from rebatch.study.records import FinishedRun
from rebatch.study.studies.page_2018.common import PUBLISHED_TASK, mean_lr, moved
from rebatch.study.studies.page_2018.sweep import EPOCH_STEPS, SWEEP, factors
from rebatch.study.studies.page_2018.sweep_numbers import Sweep, quantities, sweeps
from rebatch.study.studies.page_2018.sweep_point import Point
from rebatch.tasks import TASKS
from rebatch.tasks.recipes import PAGE_128
from rebatch.training import train
from report.made_up import made_up
from study.made_up import seed_of
from study.made_up_sweep import BEST, EDGE
from study.test_paper_steps import made_images, one_step_of

DIGITS, PROXY, PAGE = TASKS["digits/mlp"], TASKS["cifar10/proxy"], TASKS[PUBLISHED_TASK]


def arms_of(task: str, scale: Scale) -> dict[Point, Arm]:
    plan = make_plan(SWEEP, TASKS[task], scale, execution=Execution())
    return {Point.of(arm.name): arm for arm in plan.design.arms}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("task", ["digits/mlp", "cifar10/proxy", PUBLISHED_TASK])
def test_a_point_has_its_rate_batch_and_examples(task: str, scale: Scale) -> None:
    base = TASKS[task].recipe
    for point, arm in arms_of(task, scale).items():
        assert arm.name == point.name
        assert arm.recipe.batch_size == point.batch_size
        wanted = point.factor * point.batch_size / base.batch_size * mean_lr(base)
        assert mean_lr(arm.recipe) == pytest.approx(wanted, rel=1e-12)
        assert arm.recipe.schedule == base.schedule
        assert (arm.data.examples or TASKS[task].train) == point.examples


def test_the_paper_s_grid() -> None:
    points = list(arms_of(PUBLISHED_TASK, "paper"))
    epochs = [point for point in points if not point.equal_updates]
    assert sorted({point.examples for point in epochs}) == [5625, 11250, 22500, 45000]
    assert sorted({point.batch_size for point in epochs}) == [32, 128, 512, 2048]
    assert sorted({point.batch_size for point in points if point.equal_updates}) == [128, 512]
    refined = [4.757, 5.657, 6.727]
    assert factors(128, PAGE, 0.125, refined=True) == [0.125, 0.25, 0.5, 1, 2, 4, *refined, 8, 16]
    assert factors(512, PAGE, 0.125, refined=True) == [0.125, 0.25, 0.5, 1, 1.189, 1.414, 1.682, 2, 4, 8]
    assert factors(2048, PAGE, 0.125)[-1] == 8
    assert factors(32, PAGE, 0.125)[-1] == 64


def test_the_published_recipe_is_the_one_at_f_1() -> None:
    arm = arms_of(PUBLISHED_TASK, "paper")[Point(False, 128, 45000, 1.0)]
    assert arm.recipe.as_tuned() == PAGE_128
    larger = arms_of(PUBLISHED_TASK, "paper")[Point(False, 512, 45000, 1.0)].recipe
    assert mean_lr(larger) == pytest.approx(0.4)  # not 0.44: f counts from here
    assert isinstance(larger.optimizer, Sgd)
    assert larger.optimizer.weight_decay == pytest.approx(512 * 5e-4)  # of the summed loss


def test_equal_updates_are_those_of_the_whole_set() -> None:
    paper, cpu = arms_of(PUBLISHED_TASK, "paper"), arms_of("cifar10/proxy", "cpu")
    assert total_steps(paper[Point(True, 128, 5625, 1.0)].recipe, 5625) == 35 * 352
    assert total_steps(paper[Point(True, 512, 5625, 1.0)].recipe, 5625) == 35 * 88
    assert Point(True, 128, 45000, 1.0) not in paper  # it is that of equal epochs
    steps = {total_steps(arm.recipe, point.examples) for point, arm in cpu.items() if point.equal_updates}
    assert steps == {3 * 352}  # a quarter of 12 epochs, the whole set too
    assert {point.examples for point in cpu if point.equal_updates} == {2812, 11250, 45000}


def test_the_cpu_scale_fits_into_four_hours_of_a_core() -> None:
    plan = make_plan(SWEEP, PROXY, "cpu", execution=Execution())
    examples = sum(cost(arm.recipe, plan.examples_of(arm)).examples for arm, _ in plan.runs())
    whole = cost(PROXY.recipe, PROXY.train).examples
    seconds = 235 * examples / whole
    assert 2.5 * 3600 < seconds < 3.6 * 3600  # the rest is for evaluations, replays and eigenvalues
    assert "66.7 % of the reference budget, with equal updates 25 %" in plan.design.arms[0].note


def test_each_point_measures_what_it_can() -> None:
    assert EPOCH_STEPS == LEAST_BATCHES
    for point, arm in arms_of("cifar10/proxy", "cpu").items():
        seen = not point.equal_updates and point.examples // point.batch_size >= 8
        assert ("high_rate" in arm.finals) == seen
        curved = not point.equal_updates and point.examples == 45000 and point.factor >= 1
        assert ("peak_curvature" in arm.finals) == curved
        assert "last_epoch" in arm.finals


def swept(train: list[float], *, rates: list[float] | None = None, **metrics: list[float]) -> Sweep:
    """A sweep by octaves from 1 with these training losses and other numbers."""
    rates = rates or [2.0**place for place in range(len(train))]
    runs = {}
    for place, (rate, loss) in enumerate(zip(rates, train, strict=True)):
        recipe = PAGE_128.with_lr(PAGE_128.optimizer.lr * rate)
        own = {name: values[place] for name, values in metrics.items()}
        diverged = not math.isfinite(loss)
        numbers = {} if diverged else {"last_epoch_loss": loss, "chance_loss": math.log(10), **own}
        runs[rate] = FinishedRun(recipe=recipe, diverged=diverged, metrics=numbers, rows=[])
    return Sweep(runs)


def test_training_is_broken_by_divergence_a_guess_s_loss_or_a_leap() -> None:
    assert swept([0.3, 0.2, math.nan]).broken == [False, False, True]
    assert swept([0.3, 0.2, 2.4, 0.2]).broken == [False, False, True, True]
    assert swept([0.3, 0.3, 0.61, 0.7]).broken == [False, False, True, True]
    assert swept([0.01, 0.001, 0.2, 0.5]).broken == [False, False, False, True]  # nearly nothing, then a leap
    found = swept([0.3, 0.2, 2.4]).edge
    assert (found.low, found.high) == (2.0, 4.0)
    assert found.estimate == pytest.approx(math.sqrt(8))


def test_the_best_factor_is_chosen_by_validation_and_never_in_the_broken_zone() -> None:
    losses = [0.5, 0.3, 0.4, 0.1]
    found = swept([0.3, 0.2, 0.2, 2.4], validation_loss=losses, test_loss=[9.0, 8.0, 7.0, 6.0])
    assert found.optimum == pytest.approx(2 ** (1 + 1 / 6))  # vertex through 0.5, 0.3, 0.4
    assert found.best is not None
    assert found.best.metrics["test_loss"] == 8.0


def test_the_predicted_edge_counts_nesterov() -> None:
    found = swept([0.3, 0.2, 0.3], peak_eigenvalue=[1.7] * 3, peak_lr=[0.1, 0.2, 0.4])
    assert found.predicted_edge(2.0) == pytest.approx(1.357 / 1.7 / 0.1, rel=1e-3)  # 8: the published edge
    assert math.isnan(found.predicted_edge(16.0))


@pytest.mark.parametrize(("task", "small"), [("digits/mlp", 32), ("cifar10/proxy", 128), (PUBLISHED_TASK, 128)])
def test_a_world_of_rates_has_one_edge_and_one_optimum_for_all_batches(task: str, small: int) -> None:
    plan = make_plan(SWEEP, TASKS[task], "cpu", execution=Execution())
    found = quantities(seed_of(plan))
    pair = f"{small}/{4 * small}"
    assert found[f"edge_ratio:{pair}"] == pytest.approx(2.0)
    assert found[f"edge_slope:{small}"] == pytest.approx(0.0, abs=1e-12)
    assert found[f"log2_edge:{small}, n {plan.examples}"] == pytest.approx(3.5)  # between 8 and 16
    assert found[f"log2_optimum:{small}, n {plan.examples}"] == pytest.approx(math.log2(BEST))
    assert found[f"room:{small}"] == pytest.approx(3.5 - math.log2(BEST))
    assert found[f"optimum_slope:{small}, equal updates"] == pytest.approx(0.0, abs=1e-9)
    assert found[f"room_missed:{small}"] == pytest.approx(0.0, abs=1e-9)
    for which in (f"{small}", f"{small}, f 1", f"{4 * small}"):
        wanted = math.log2(EDGE) - 3.5  # less two octaves both, at the larger batch
        assert found[f"prediction_error:{which}"] == pytest.approx(wanted)
    assert found[f"jump:{small}"] == pytest.approx(math.log2(3.0 / 0.2))


def test_slopes_and_the_held_out_size() -> None:
    """The best factor falls by half an octave per octave of n, the edge stays: the room grows as a line says."""
    runs = {}
    for examples in (1000, 2000, 4000):
        best = 2.0 ** (3 - 0.5 * math.log2(examples / 1000))
        for factor in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
            numbers = {"last_epoch_loss": 3.0 if factor > 16 else 0.3, "chance_loss": math.log(10)}
            numbers["validation_loss"] = 0.3 + 0.1 * math.log2(factor / best) ** 2
            name = Point(False, 128, examples, factor).name
            runs[name] = FinishedRun(recipe=PAGE_128, diverged=False, metrics=numbers, rows=[])
    found = quantities(runs)
    assert found["optimum_slope:128"] == pytest.approx(-0.5)
    assert found["room_slope:128"] == pytest.approx(0.5)
    assert found["room_missed:128"] == pytest.approx(0.0, abs=1e-9)
    assert math.isnan(found["prediction_error:128"])


def test_an_edge_beyond_the_grid_has_no_number() -> None:
    runs = {
        Point(False, 128, 45000, factor).name: run
        for factor, run in swept([0.5, 0.4, 0.3], validation_loss=[0.5, 0.4, 0.3]).runs.items()
    }
    found = quantities(runs)
    assert math.isnan(found["log2_edge:128, n 45000"])
    assert found["log2_optimum:128, n 45000"] == 2.0  # the end of the grid
    for kind in ("edge", "optimum", "room"):
        assert found[f"{kind}_open:128"] == found[f"{kind}_open:128, whole set"] == 1.0


def test_a_best_factor_at_an_end_of_the_grid_is_told_though_the_edge_is_known() -> None:
    def runs(validation: list[float]) -> dict[str, FinishedRun]:
        sweep = swept([0.5, 0.4, 3.0], validation_loss=validation)
        return {Point(False, 128, 45000, factor).name: run for factor, run in sweep.runs.items()}

    kinds = ("edge", "optimum", "room")
    at_end, inside = quantities(runs([0.4, 0.5, 0.6])), quantities(runs([0.4, 0.3, 0.6]))
    assert [at_end[f"{kind}_open:128, whole set"] for kind in kinds] == [0.0, 1.0, 1.0]
    assert [inside[f"{kind}_open:128, whole set"] for kind in kinds] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("scale", SCALES)
def test_every_claim_s_number_says_where_it_stands_at_an_end(scale: Scale) -> None:
    plan = make_plan(SWEEP, DIGITS, scale, execution=Execution())
    found = quantities(seed_of(plan))
    tests = [test for claim in plan.design.claims for test in comparisons(claim.test)]
    for test in tests:
        assert isinstance(test, Quantity)
        assert test.beyond in found
        assert scale == "quick" or found[test.beyond] == 0.0  # whose few factors end below the made-up edge
    assert {test.beyond.partition("_")[0] for test in tests if isinstance(test, Quantity)} == {
        "edge",
        "optimum",
        "room",
    }


def test_equal_updates_of_the_whole_set_are_those_of_equal_epochs_only_where_they_are_as_many() -> None:
    def runs(steps: int) -> dict[str, FinishedRun]:
        points = {Point(False, 128, 45000, 1.0): steps, Point(True, 128, 5625, 1.0): 12320}
        return {
            point.name: FinishedRun(recipe=PAGE_128, diverged=False, metrics={"step": count}, rows=[])
            for point, count in points.items()
        }

    assert (True, 128, 45000) in sweeps(runs(12320))
    assert (True, 128, 45000) not in sweeps(runs(3080))


def test_the_claims_are_those_of_the_reference() -> None:
    claims = {claim.id: claim for claim in SWEEP.design(PAGE, "paper").claims}
    assert list(claims) == ["P5", "P6", "P7", "P8", "P9", "P10", "P16", "P16-reference", "P21-rate"]
    assert {name: claim.expected for name, claim in claims.items() if claim.expected is not None} == {
        **dict.fromkeys(("P5", "P9", "P16", "P16-reference"), 0.0),
        "P6": 2.0,
        "P7": 3.0,
        "P10": 1.0,
    }
    assert all(claim.expected is None for claim in SWEEP.design(PROXY, "cpu").claims)


def test_what_limits_a_point_is_said_as_measure_limits_says_it() -> None:
    times = [0.9, 0.9, 0.4, 0.4]
    sweep = swept([0.4, 0.3, 0.3, 2.5], forgotten_at_high_rate=times)  # holds up to 4
    found = [limit_at(factor, [sweep, sweep]) for factor in sweep.runs]
    assert found == ["neither", "neither", "both", "both"]
    unseen = swept([0.4, 0.3, 0.3, 2.5])
    assert [limit_at(factor, [unseen]) for factor in unseen.runs] == [None, None, "curvature", "curvature"]


def test_the_figure_s_numbers(tmp_path: Path) -> None:
    material = made_up("page-sweep", tmp_path)
    found = {course.key: course for course in courses(material)}
    whole = found[False, 128, 1024]
    unit = 4 * mean_lr(DIGITS.recipe)
    assert whole.bracket == pytest.approx((2 * unit, 4 * unit))
    assert whole.predicted is not None
    assert whole.predicted.estimate == pytest.approx(EDGE * unit / 4)
    assert (True, 32, 1024) in found
    rows = table([whole])
    assert rows[1][:3] == ("128", "1,024", "2 to 4")
    assert draw(material) is not None


def test_one_step_of_every_recipe_at_paper_scale_with_its_own_network() -> None:
    steps = {
        str(plain(one_step_of(arm.recipe))): one_step_of(arm.recipe)
        for arm in arms_of(PUBLISHED_TASK, "paper").values()
    }
    for recipe in steps.values():
        (row,) = train(PAGE.model(), made_images(), recipe, seed=0, evaluations=1)
        assert math.isfinite(row["train_loss"])


def test_the_rule_moves_a_summed_loss_as_it_does_a_mean() -> None:
    summed: Recipe = moved(PAGE_128, 512)
    assert summed.optimizer.lr == pytest.approx(PAGE_128.optimizer.lr)
    assert mean_lr(summed) == pytest.approx(4 * mean_lr(PAGE_128))
    assert msgspec.structs.asdict(summed)["budget"] == PAGE_128.budget
