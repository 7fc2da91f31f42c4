"""What page and terminal show of studies that train nothing, choose among many, or measure numbers of their own."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from rebatch.execution import Execution
from rebatch.report.drawings import draw
from rebatch.report.page import render
from rebatch.report.series import read_arms
from rebatch.report.summary import QuantitySummary, StudySummary, summarize
from rebatch.report.terminal import MANY, study_tables
from rebatch.study.archive import pack_runs, read_runs, unpack_runs
from rebatch.study.claims import Quantity
from rebatch.study.plan import make_plan
from rebatch.study.store import Store
from rebatch.study.studies import STUDIES
from rebatch.tasks import TASKS
from report.made_up import made_up_store


def printed(summary: StudySummary) -> str:
    out = io.StringIO()
    Console(file=out, width=240).print(study_tables(summary))
    return out.getvalue()


TRAIN_NOTHING = (
    "random-walk",
    "hoffer-landscape",
    "hoffer-increments",
    "hoffer-epoch",
    "gradient-error",
    "saddle-escape",
)


@pytest.mark.parametrize("study", TRAIN_NOTHING)
def test_a_study_that_trains_nothing_shows_no_accuracies_steps_or_curves(study: str, tmp_path: Path) -> None:
    store, plan = made_up_store(study, tmp_path)
    summary = summarize(plan, store)
    assert all(arm.probe for arm in summary.arms)
    page = render(store, tmp_path)
    for words in ("accuracy %", "gap closed", "steps  "):
        assert words not in printed(summary)
    for words in ("accuracy, %", ">epochs<", "The course of training", "Nothing to draw"):
        assert words not in page.split("<script")[0]


def test_an_arm_that_trains_nothing_has_dashes_beside_those_that_do_and_no_accuracy_is_drawn(tmp_path: Path) -> None:
    store, plan = made_up_store("hoffer-ghosts", tmp_path)
    summary = summarize(plan, store)
    (arm,) = [arm for arm in summary.arms if arm.probe]
    (line,) = [line for line in printed(summary).splitlines() if line.startswith(arm.name)]
    assert line.removeprefix(arm.name).split() == [f"{arm.batch_size:,}", "-", str(arm.n), "-"]
    drawn = draw(plan, summary, read_arms(plan, store))["accuracy"]
    assert "no run yet" not in drawn
    assert all((f"{each.name} " in drawn) == (not each.probe) for each in summary.arms)


def test_where_no_gap_is_known_it_has_no_column(tmp_path: Path) -> None:
    store, plan = made_up_store("hoffer-ghosts", tmp_path)
    assert "gap closed" not in printed(summarize(plan, store))
    assert "gap closed" not in render(store, tmp_path).split("<script")[0]


def test_quantities_stand_on_the_page_and_in_the_table_with_the_unit_of_their_claim(tmp_path: Path) -> None:
    store, plan = made_up_store("hoffer-overfit", tmp_path)
    summary = summarize(plan, store)
    units = {each.name: each.unit for each in summary.quantities}
    tests = [part.test for claim in summary.claims for part in claim.parts]
    claimed = {test.name: test.unit for test in tests if isinstance(test, Quantity) and test.unit}
    assert claimed
    assert units == dict.fromkeys(units, "") | claimed
    page = render(store, tmp_path)
    assert "<h4>Quantities</h4>" in page
    for name, unit in claimed.items():
        assert f"<td>{unit}</td>" in page
        assert any(line.startswith(name) and unit in line for line in printed(summary).splitlines())


def test_of_many_quantities_the_terminal_shows_those_that_claims_speak_about(tmp_path: Path) -> None:
    store, plan = made_up_store("hoffer-distance", tmp_path, seeds=1)
    summary = summarize(plan, store)
    assert len(summary.quantities) > MANY
    out = printed(summary)
    assert "log_over_power:before " in out
    assert "log_slope:before:16" not in out
    assert "quantities that no claim speaks about (--json has all)" in out
    page = render(store, tmp_path)
    assert f"<summary>{len(summary.quantities)} quantities</summary>" in page
    assert "log_slope:before:16" in page


def test_of_many_candidates_the_terminal_shows_the_chosen_and_the_page_all(tmp_path: Path) -> None:
    store, plan = made_up_store("hoffer-optimizers", tmp_path)
    summary = summarize(plan, store)
    chosen = [each for each in summary.candidates if each.chosen]
    assert len(summary.candidates) > MANY > len(chosen) > 0
    out, page = printed(summary), render(store, tmp_path)
    assert f"and {len(summary.candidates) - len(chosen)} candidates that were not chosen" in out
    assert f"<summary>{len(summary.candidates)} candidates, {len(chosen)} chosen by mean" in page


def test_candidates_that_have_not_run_are_counted_among_the_missing(tmp_path: Path) -> None:
    plan = make_plan(STUDIES["hoffer-optimizers"], TASKS["digits/mlp"], "quick", execution=Execution())
    store = Store(tmp_path / "store", create=True)
    store.save_plan(plan)
    page = render(store, tmp_path)
    waiting = plan.waiting[0]
    assert f"<li>{waiting.name}: waits for its candidates</li>" in page
    candidate = next(arm for arm in plan.design.arms if arm.candidate)
    assert f"<li>{candidate.name}: {len(plan.seeds(candidate))} seeds</li>" in page


def test_arms_may_share_runs_which_count_once(tmp_path: Path) -> None:
    store, plan = made_up_store("hoffer-distance", tmp_path, seeds=2)
    summary = summarize(plan, store)
    assert summary.runs.done == summary.planned == len(plan.specs()) < len(plan.runs())
    assert summary.seconds == summary.runs.done


def test_the_seeds_of_every_arm_are_told(tmp_path: Path) -> None:
    store, plan = made_up_store("hoffer-epoch", tmp_path, seeds=2)
    assert {arm.seeds for arm in summarize(plan, store).arms} == {(0, 1)}
    document = msgspec.json.decode(msgspec.json.encode(summarize(plan, store)))
    assert document["arms"][0]["seeds"] == [0, 1]
    assert QuantitySummary.__struct_fields__[:2] == ("name", "unit")


def test_the_page_of_imported_runs_has_their_numbers_and_no_curves(tmp_path: Path) -> None:
    store, plan = made_up_store("hoffer-overfit", tmp_path)
    (tmp_path / "a.runs.jsonl").write_bytes(pack_runs(plan, store))
    there = Store(tmp_path / "there", create=True)
    unpack_runs(read_runs(tmp_path / "a.runs.jsonl"), there)
    assert summarize(plan, there) == summarize(plan, store)
    page = render(there, tmp_path)
    assert "Nothing to draw: no finished run was evaluated on validation data." in page
    assert "<h4>Quantities</h4>" in page
