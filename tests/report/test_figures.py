import math
import re
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from scipy.stats import t as student

from rebatch.batching import examples_seen, measured_steps, total_steps
from rebatch.report.figures import (
    accuracy_figure,
    accuracy_range,
    arm_styles,
    distance_figure,
    effects_figure,
    error_figure,
)
from rebatch.report.layout import shorten
from rebatch.report.series import (
    ArmRecord,
    arm_accuracy,
    distance_curve,
    effect_rows,
    error_curve,
    read_arms,
)
from rebatch.report.summary import summarize
from rebatch.study.claims import AllOf, Claim, Equivalent, Greater
from rebatch.study.plan import Plan
from rebatch.study.store import Store

MakeStore = Callable[..., tuple[Store, Plan]]
EXAMPLES, EVALUATIONS, CHANCE = 101, 7, 10.0

WORSE = Claim(
    id="H1",
    statement="The large batch is worse",
    source="somebody",
    test=Greater("small_batch", "large_batch", 0.3),
    expected=1.25,
    why="a reason",
)
CHAIN = Claim(
    id="H2",
    statement="Both",
    source="somebody",
    test=AllOf((Greater("large_batch", "large_batch+ra"), Equivalent("small_batch", "large_batch", 0.7))),
    expected=None,
    why="a reason",
)


def slow_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % ends by the textbook."""
    mean, n = sum(values) / len(values), len(values)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return mean, mean - half, mean + half


def errors(arm: ArmRecord) -> Any:
    return error_curve(arm, examples=EXAMPLES, evaluations=EVALUATIONS, chance=CHANCE)


def test_the_error_curve_is_the_mean_over_seeds_at_every_evaluated_step(make_store: MakeStore) -> None:
    store, plan = make_store(seeds=5)
    for arm in read_arms(plan, store):
        curve = errors(arm)
        steps = measured_steps(total_steps(arm.recipe, EXAMPLES), EVALUATIONS)[1]
        assert curve.steps == tuple(steps)
        assert curve.n == 5
        for i, step in enumerate(steps):
            at_step = [row for run in arm.runs for row in run.rows if row["step"] == step]
            assert {row["examples"] for row in at_step} == {curve.examples[i]}
            expected = slow_interval([100 - row["validation_accuracy"] for row in at_step])
            found = curve.means[i]
            assert (found.estimate, found.low, found.high) == pytest.approx(expected, rel=1e-10)


def test_a_diverged_run_counts_with_the_error_of_a_guess_from_where_it_stopped(make_store: MakeStore) -> None:
    store, plan = make_store(seeds=3, diverged=[("large_batch", 1)])
    arm = read_arms(plan, store)[1]
    stopped = int(arm.runs[1].rows[-1]["step"])
    curve = errors(arm)
    assert curve.steps[0] < stopped < curve.steps[-1]
    for step, mean in zip(curve.steps, curve.means, strict=True):
        values = []
        for run in arm.runs:
            seen = {row["step"]: row.get("validation_accuracy") for row in run.rows}
            values.append(90.0 if run.seed == 1 and step >= stopped else 100.0 - (seen[step] or math.nan))
        assert mean.estimate == pytest.approx(sum(values) / 3, rel=1e-10)


def test_a_run_that_diverged_before_its_first_evaluation_is_a_flat_line_at_chance(make_store: MakeStore) -> None:
    store, plan = make_store(seeds=2, diverged=[("small_batch", 0), ("small_batch", 1)])
    curve = errors(read_arms(plan, store)[0])
    assert [mean.estimate for mean in curve.means] == [90.0] * EVALUATIONS
    assert curve.n == 2


def test_the_distance_curve_leaves_diverged_runs_out_as_a_whole(make_store: MakeStore) -> None:
    store, plan = make_store(seeds=4, diverged=[("small_batch", 2)])
    arm = read_arms(plan, store)[0]
    curve = distance_curve(arm, examples=EXAMPLES)
    kept = [run for run in arm.runs if run.seed != 2]
    assert curve.n == 3
    assert list(curve.steps) == [row["step"] for row in kept[0].rows]
    for i, step in enumerate(curve.steps):
        expected = slow_interval([run.rows[i]["weight_distance"] for run in kept])
        found = curve.means[i]
        assert (found.estimate, found.low, found.high) == pytest.approx(expected, rel=1e-10)
        assert curve.examples[i] == examples_seen(step, EXAMPLES, arm.recipe)


def test_the_accuracy_figure_shows_mean_ends_and_every_seed(make_store: MakeStore) -> None:
    store, plan = make_store(seeds=5)
    arms = [arm_accuracy(arm) for arm in read_arms(plan, store)]
    figure = accuracy_figure(arms, arm_styles(arm.name for arm in arms))
    for row, arm in enumerate(read_arms(plan, store)):
        values = [run.accuracy for run in arm.runs]
        mean, low, high = slow_interval(values)
        drawn, seeds = figure["data"][2 * row : 2 * row + 2]
        assert drawn["x"] == pytest.approx([mean], rel=1e-10)
        assert drawn["error_x"]["array"] == pytest.approx([high - mean], rel=1e-8)
        assert drawn["error_x"]["arrayminus"] == pytest.approx([mean - low], rel=1e-8)
        assert (drawn["y"], seeds["x"]) == ([row], values)
        assert f"<b>{arm.name}</b>  n = 5" in figure["layout"]["annotations"][row]["text"]


def test_seeds_with_equal_accuracy_do_not_hide_each_other(make_store: MakeStore) -> None:
    store, plan = make_store(seeds=6)  # the made-up accuracies repeat after five seeds
    arms = [arm_accuracy(arm) for arm in read_arms(plan, store)]
    seeds = accuracy_figure(arms, arm_styles(arm.name for arm in arms))["data"][1]
    assert seeds["x"][0] == seeds["x"][5]
    assert len(set(zip(seeds["x"], seeds["y"], strict=True))) == 6


def test_a_diverged_run_does_not_press_the_other_arms_into_a_corner(make_store: MakeStore) -> None:
    store, plan = make_store(diverged=[("large_batch", 0)])
    arms = [arm_accuracy(arm) for arm in read_arms(plan, store)]
    assert accuracy_range(arms)[0] > 90.0
    label = accuracy_figure(arms, arm_styles(arm.name for arm in arms))["layout"]["annotations"][1]["text"]
    assert "n = 3, 1 diverged, mean 67.17 is off the scale" in label  # (10 + 95.5 + 96) / 3


def test_one_seed_has_a_point_and_no_interval(make_store: MakeStore) -> None:
    store, plan = make_store(seeds=1)
    records = read_arms(plan, store)
    styles = arm_styles(arm.name for arm in records)
    mean = accuracy_figure([arm_accuracy(records[0])], styles)["data"][0]
    assert (mean["x"], mean["error_x"]["visible"], mean["customdata"]) == ([97.0], False, ["no interval"])
    band, line = error_figure([errors(records[0])], styles, against="steps")["data"]
    assert band["x"] == []
    assert line["name"] == "small_batch (n = 1)"


def test_the_band_goes_there_along_the_low_ends_and_back_along_the_high_ones(make_store: MakeStore) -> None:
    store, plan = make_store()
    records = read_arms(plan, store)
    curve = errors(records[0])
    band, line = error_figure([curve], arm_styles([curve.name]), against="examples")["data"]
    assert band["x"] == [*curve.examples, *reversed(curve.examples), None]
    assert band["y"] == [
        *(max(mean.low, 1e-3) for mean in curve.means),
        *(mean.high for mean in reversed(curve.means)),
        None,
    ]
    assert line["x"] == list(curve.examples)


def test_an_arm_looks_the_same_in_every_figure_and_like_no_other(make_store: MakeStore) -> None:
    store, plan = make_store()
    records = read_arms(plan, store)
    styles = arm_styles(arm.name for arm in records)
    figures = [
        accuracy_figure([arm_accuracy(arm) for arm in records], styles),
        error_figure([errors(arm) for arm in records], styles, against="steps"),
        distance_figure([distance_curve(arm, examples=EXAMPLES) for arm in records], styles),
    ]
    for figure in figures:
        named = {re.sub(r" \(n.*", "", t["name"]): t["marker"] for t in figure["data"] if "name" in t}
        assert {name: marker["color"] for name, marker in named.items()} == {n: s.color for n, s in styles.items()}
        assert {name: marker["symbol"] for name, marker in named.items()} == {n: s.symbol for n, s in styles.items()}
    assert len(set(arm_styles(map(str, range(280))).values())) == 280


def test_every_axis_of_numbers_is_named_with_its_unit(make_store: MakeStore) -> None:
    store, plan = make_store(claims=(WORSE,))
    records = read_arms(plan, store)
    styles = arm_styles(arm.name for arm in records)
    curves = [errors(arm) for arm in records]
    titles = {
        figure["layout"][axis].get("title", {}).get("text")
        for figure in (
            accuracy_figure([arm_accuracy(arm) for arm in records], styles),
            error_figure(curves, styles, against="steps"),
            error_figure(curves, styles, against="examples"),
            effects_figure(effect_rows(summarize(plan, store).claims)),
        )
        for axis in ("xaxis", "yaxis")
    }
    assert titles == {
        "test accuracy at the last step (%)",
        "validation error (%)",
        "optimizer steps (log scale)",
        "training examples seen (log scale)",
        "effect on test accuracy (percent points)",
        None,  # the rows of arms and of comparisons carry names instead
    }


def test_effects_have_a_row_per_comparison_with_the_interval_of_the_verdict(make_store: MakeStore) -> None:
    store, plan = make_store(claims=(WORSE, CHAIN), seeds=5)
    summary = summarize(plan, store)
    rows = effect_rows(summary.claims)
    assert [(row.claim, row.part, row.claimed) for row in rows] == [
        ("H1", 1, (0.3, math.inf)),
        ("H2", 1, (0.0, math.inf)),
        ("H2", 2, (-0.7, 0.7)),
    ]
    assert [row.effect for row in rows] == [part.effect for claim in summary.claims for part in claim.parts]
    figure = effects_figure(rows)
    drawn = {y: (t["name"], x) for t in figure["data"][:-2] for x, y in zip(t["x"], t["y"], strict=True)}
    assert drawn == {i: (row.verdict, row.effect.estimate) for i, row in enumerate(rows)}
    assert figure["data"][-1] | {"x": [1.25], "y": [0], "name": "published"} == figure["data"][-1]
    margins = [shape["x0"] for shape in figure["layout"]["shapes"] if shape["type"] == "line"]
    assert margins == [0.3, 0.0, -0.7, 0.7]


def test_verdicts_differ_without_color(make_store: MakeStore) -> None:
    from rebatch.report.figures import VERDICT_SYMBOLS

    assert len(set(VERDICT_SYMBOLS.values())) == len(VERDICT_SYMBOLS) == 3


def test_a_claim_without_a_pair_of_runs_has_no_row(make_store: MakeStore) -> None:
    store, plan = make_store(claims=(WORSE,), finished=[("small_batch", 0), ("large_batch", 1)])
    assert effect_rows(summarize(plan, store).claims) == []


def test_names_are_escaped_for_plotly_and_cut_in_the_middle() -> None:
    assert shorten("x" * 34) == "x" * 34
    assert len(shorten("x" * 35)) == 34
    name = "<b>&"
    arm = arm_accuracy(ArmRecord(name=name, recipe=None, runs=()))  # type: ignore[arg-type]
    text = accuracy_figure([arm], arm_styles([name]))["layout"]["annotations"][0]["text"]
    assert text == "<b>&lt;b&gt;&amp;</b>  no run yet"
