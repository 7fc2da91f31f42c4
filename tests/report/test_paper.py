"""Figures for papers: the numbers they show, and that every study's figure is drawn, small and always the same."""

import itertools
import math
import re
from pathlib import Path

import pytest

from rebatch.report.paper import courses, diffusion, distance, increments, landscape, momentum_reset, walk
from rebatch.report.paper.draw import FIGURES, svg
from rebatch.report.paper.material import Material, Published, gather, read_published
from rebatch.report.paper.rows import accuracy_span, arm_rows, claim_rows, effect_span
from rebatch.report.series import column_curve
from rebatch.report.summary import summarize
from rebatch.statistics import mean_interval
from rebatch.study.studies import STUDIES
from rebatch.study.studies.hoffer_2017.common import PUBLISHED as TABLE
from rebatch.study.studies.hoffer_2017.overfit import LONG
from report.made_up import made_up, made_up_store

PUBLISHED = tuple(
    Published(
        panel=panel, batch_size=64, steps=(100.0, 200.0, 400.0, 800.0, 1600.0), distances=(2.0, 3.0, 4.0, 5.0, 6.0)
    )
    for panel in ("a_before", "b_after")
)


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_a_figure_that_is_small_whole_and_always_the_same(study: str, tmp_path: Path) -> None:
    material = made_up(study, tmp_path, seeds=2, published=PUBLISHED)
    first = svg(material)
    assert first is not None
    text = first.decode()
    assert len(first) < 150_000
    assert not re.search(r"<image|<dc:date>|nan", text)
    assert material.title in text
    assert "n = 2" in text.replace("\u00a0", " ") or "over 2" in text or "54 runs" in text
    if study in FIGURES:
        assert svg(material) == first


def test_one_seed_is_drawn_without_intervals(tmp_path: Path) -> None:
    for study in FIGURES:
        assert svg(made_up(study, tmp_path, seeds=1)) is not None


@pytest.mark.parametrize("study", FIGURES)
def test_a_study_without_runs_has_no_figure(study: str, tmp_path: Path) -> None:
    material = made_up(study, tmp_path, seeds=1)
    nothing = tuple(type(arm)(name=arm.name, recipe=arm.recipe, runs=()) for arm in material.arms)
    summary = type(material.summary)(
        **{name: getattr(material.summary, name) for name in material.summary.__struct_fields__}
        | {"claims": (), "quantities": ()}
    )
    assert svg(Material(plan=material.plan, summary=summary, arms=nothing)) is None


def test_arms_show_their_means_seeds_and_published_numbers(tmp_path: Path) -> None:
    material = made_up("hoffer-gap", tmp_path, task="mnist/f1")
    rows = {row.name: row for row in arm_rows(material, TABLE["mnist/f1"])}
    assert rows["large_batch"].published == 97.05
    assert rows["small_batch+same_examples"].published is None
    row = rows["small_batch"]
    assert len(row.seeds) == 3
    assert row.mean == mean_interval(list(row.seeds))
    assert "n = 3" in row.detail
    low, high = accuracy_span(list(rows.values()))
    assert low < min(min(row.seeds) for row in rows.values())
    assert high > 98.53


def test_claims_stand_by_unit_with_their_region_and_every_part(tmp_path: Path) -> None:
    material = made_up("hoffer-gap", tmp_path)
    groups = claim_rows(material.summary.claims)
    assert list(groups) == ["points"]
    ids = [row.claim for row in groups["points"]]
    assert (ids.count("H1"), ids.count("H2"), ids.count("H5"), ids.count("H21")) == (1, 2, 3, 2)
    first = groups["points"][0]
    assert first.claimed == (0.3, math.inf)
    assert first.detail == "small_batch - large_batch > 0.3; n\u00a0=\u00a03"
    assert [bool(row.statement) for row in groups["points"] if row.claim == "H5"] == [True, False, False]
    low, high = effect_span(groups["points"])
    assert all(low < row.effect.low and row.effect.high < high for row in groups["points"])


def test_a_claim_in_two_units_is_named_in_both(tmp_path: Path) -> None:
    groups = claim_rows(made_up("page-forgetting", tmp_path).summary.claims)
    ids = [{row.claim for row in rows} for rows in groups.values()]
    assert any(some & other for some, other in itertools.combinations(ids, 2))
    for rows in groups.values():
        heads = {row.claim: row.statement for row in reversed(rows)}
        assert all(heads.values())


def test_distances_are_fitted_by_both_laws_and_drawn_by_batch_size(tmp_path: Path) -> None:
    material = made_up("hoffer-distance", tmp_path, published=PUBLISHED)
    curves = distance.curves(material, "before", "")
    assert [each.batch_size for each in curves] == [16, 32, 64, 128, 256, 512]
    smallest = curves[0]
    assert smallest.log is not None
    assert smallest.power is not None
    assert smallest.log.r2 > 0.999 > smallest.power.r2  # they were made up as log(1 + t)
    assert smallest.start == smallest.steps[-1] / 40
    assert smallest.shown()[0] == 0
    assert smallest.shown()[-1] == len(smallest.steps) - 1
    assert len(smallest.shown()) <= distance.SHOWN
    first = distance.curves(material, "before", ":first")[0]
    assert first.distances[-1] == pytest.approx(0.4 * smallest.distances[-1])
    assert [each.distances for each in distance.published_curves(PUBLISHED, "after")] == [PUBLISHED[1].distances]


def test_the_late_part_of_the_errors_and_the_lowest_loss(tmp_path: Path) -> None:
    curves = courses.error_curves(made_up("hoffer-regime", tmp_path))
    assert [each.n for each in curves] == [3, 3, 3]
    late = courses.late_part(curves[0])
    assert late.steps[0] >= 0.75 * curves[0].steps[-1] > curves[0].steps[-len(late.steps) - 1]
    material = made_up("hoffer-overfit", tmp_path)
    arm = material.arm(LONG)
    assert arm is not None
    loss = column_curve(arm, "validation_loss", examples=material.plan.examples)
    assert loss.steps[courses.lowest(loss)] == pytest.approx(loss.steps[-1] / 2, rel=0.05)


def test_the_spread_of_the_loss_is_a_geometric_mean_over_nets_beside_the_taylor_line(tmp_path: Path) -> None:
    material = made_up("hoffer-landscape", tmp_path)
    found = landscape.spread(material.arms[0])
    assert found is not None
    assert found.n == 3
    rows = [run.rows[4] for run in material.arms[0].runs]
    assert found.rms[4].estimate == pytest.approx(math.prod(row["rms"] for row in rows) ** (1 / 3))
    assert 0 < found.rms[4].low < found.rms[4].estimate < found.rms[4].high
    assert found.taylor[4] == pytest.approx(0.01 * found.distances[4])


def test_walks_are_drawn_against_their_own_clock_with_the_slope_of_the_law(tmp_path: Path) -> None:
    material = made_up("random-walk", tmp_path)
    for arm in material.arms:
        probe = material.planned(arm.name).probe
        assert probe is not None
        found = walk.walk(arm, probe)  # type: ignore[arg-type]
        assert found is not None
        clock, law = found.clock, found.law()
        assert math.log(law[-1] / law[0]) / math.log(clock[-1] / clock[0]) == pytest.approx(found.slope)
        estimates = [mean.estimate for mean in found.distances]
        assert math.prod(estimates) == pytest.approx(math.prod(law))  # through the middle of the points
        assert found.flat == (arm.name == "flat")
        assert found.slope == {"alpha = 1": 2.0, "alpha = 1.5": 2 / 1.5, "flat": 0.5}[arm.name]


def test_dose_and_columns_of_the_momentum_study(tmp_path: Path) -> None:
    material = made_up("hoffer-momentum-reset", tmp_path)
    doses = momentum_reset.dose_points(material, "large_batch")
    assert [point.at for point in doses] == [1, 2, 4, 8]
    kept = material.arm("large_batch")
    assert kept is not None
    assert list(doses[-1].seeds) == [run.accuracy for run in kept.runs]
    assert [point.at for point in momentum_reset.column_points(material, "authors:")] == [0, 1, 2, 3]


def test_runs_that_diverged_are_not_in_the_cloud(tmp_path: Path) -> None:
    store, plan = made_up_store("hoffer-diffusion", tmp_path)
    folder = store.run(plan.spec(plan.design.arms[0], 0))
    result = folder.result()
    assert result is not None
    folder.finish(type(result)(status="diverged", steps=1, accuracy=10.0, metrics=result.metrics))
    clouds = diffusion.clouds(gather(plan, store, summarize(plan, store)))
    assert [cloud.batch_size for cloud in clouds] == [32, 128, 512]
    assert [len(cloud.runs) for cloud in clouds] == [26, 27, 27]
    assert [len(cloud.arms) for cloud in clouds] == [9, 9, 9]


def test_ratios_have_intervals_and_the_region_that_a_claim_names(tmp_path: Path) -> None:
    material = made_up("hoffer-increments", tmp_path)
    ratios = {(each.arm, each.place): each for each in increments.ratios(material, "mean_ratio")}
    assert len(ratios) == 4 * 3
    one = ratios["large_batch+sqrt", 0.1]
    assert len(one.claimed) == 1
    assert one.claimed[0] == pytest.approx((0.9, 1.1))
    assert one.n == 3
    assert one.mean == material.quantity("mean_ratio:large_batch+sqrt@0.1")
    assert ratios["large_batch", 0.0].claimed == ()
    traces = {(each.arm, each.place): each for each in increments.ratios(material, "trace_ratio")}
    assert len(traces["large_batch+sqrt", 1.0].claimed) == 2  # with and without replacement
    low, high = increments.span(list(ratios.values()))
    assert 0 < low < min(each.mean.estimate for each in ratios.values())
    assert high > max(each.mean.high for each in ratios.values())


def test_published_curves_are_read_by_panel_and_batch_size(tmp_path: Path) -> None:
    path = tmp_path / "figure.csv"
    path.write_text(
        "# read off\npanel,batch,epoch,iteration,distance\na,64,2,200,3.5\na,64,1,100,2.5\nb,128,1,50,1.5\n"
    )
    first, second = read_published(path)
    assert (first.panel, first.batch_size, first.steps, first.distances) == ("a", 64, (100, 200), (2.5, 3.5))
    assert (second.panel, second.batch_size, second.steps) == ("b", 128, (50,))
