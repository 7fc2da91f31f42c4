"""Runs that are carried to another store in a file: what comes along, what is refused, and what stays."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from rebatch.errors import RequestError, RunError
from rebatch.execution import Execution
from rebatch.recipe import Epochs
from rebatch.study.archive import pack_runs, read_runs, unpack_runs
from rebatch.study.claims import Claim, Quantity
from rebatch.study.plan import Arm, Design, Plan, RunSpec, Scale, Study, make_plan
from rebatch.study.quantify import quantify
from rebatch.study.records import SeedRuns
from rebatch.study.store import Result, Store
from rebatch.tasks import TASKS, Task


def design(task: Task, _: Scale) -> Design:
    short = task.recipe.replace(budget=Epochs(2))
    arms = (Arm(name="small", recipe=short), Arm(name="large", recipe=short.replace(batch_size=64)))
    test = Quantity("gap", low=0.0, unit="points")
    claim = Claim(id="c", statement="a gap", source="a test", test=test, expected=None, why="a test")
    return Design(arms=arms, claims=(claim,), seeds=2)


def from_metrics(runs: SeedRuns) -> Mapping[str, float]:
    """Needs no rows."""
    return {"gap": runs["small"].metrics["test_accuracy"] - runs["large"].metrics["test_accuracy"]}


def from_rows(runs: SeedRuns) -> Mapping[str, float]:
    """Needs the rows of every run."""
    return {"steps": sum(run.column("loss")[-1][0] for run in runs.values())}


STUDY = Study(name="made-up", title="Made up?", source="a test", design=design, quantities=from_rows)


def plan_of(study: Study = STUDY, seeds: int = 2) -> Plan:
    return make_plan(study, TASKS["digits/mlp"], "quick", execution=Execution(), seeds=seeds, command="a command")


def finish(store: Store, spec: RunSpec, accuracy: float = 90.0) -> None:
    folder = store.begin(spec)
    folder.append({"step": 64.0 + spec.seed, "loss": 0.5})
    folder.finish(Result(status="done", steps=64, accuracy=accuracy + spec.seed, environment={"date": "2026-01-01"}))


def filled(root: Path, study: Study = STUDY, seeds: int = 2) -> tuple[Store, Plan]:
    plan, store = plan_of(study, seeds), Store(root, create=True)
    store.save_plan(plan)
    for spec in plan.specs():
        finish(store, spec, 90.0 if spec.recipe.batch_size == 32 else 80.0)
    keep(study, plan, store)
    return store, plan


def keep(study: Study, plan: Plan, store: Store) -> list[int]:
    found = quantify(study, plan, store)
    store.save_quantities(plan, found.numbers, found.made_of)
    return found.stale


def exported(store: Store, plan: Plan, path: Path) -> Path:
    path.write_bytes(pack_runs(plan, store))
    return path


def test_runs_and_plan_come_back_as_they_were_and_nothing_is_missing(tmp_path: Path) -> None:
    store, plan = filled(tmp_path / "one")
    file = exported(store, plan, tmp_path / "made-up.runs.jsonl")
    assert len(file.read_bytes().splitlines()) == 1 + 4
    there = Store(tmp_path / "two", create=True)
    done = unpack_runs(read_runs(file), there)
    assert (done.new, done.known, done.other, done.other_plan) == (4, 0, [], False)
    assert there.plans() == [plan]
    assert there.missing(plan) == []
    for arm in ("small", "large"):
        assert there.results(plan, arm) == store.results(plan, arm)
    assert there.quantities(plan) == store.quantities(plan) == {"steps": {0: 128.0, 1: 130.0}}
    again = unpack_runs(read_runs(file), there)
    assert (again.new, again.known) == (0, 4)


def test_only_what_is_missing_is_left_to_run(tmp_path: Path) -> None:
    store, plan = filled(tmp_path / "one", seeds=1)
    there = Store(tmp_path / "two", create=True)
    unpack_runs(read_runs(exported(store, plan, tmp_path / "a.runs.jsonl")), there)
    assert [spec.seed for spec in there.missing(plan_of(seeds=2))] == [1, 1]


def test_numbers_made_of_rows_that_stayed_behind_survive_and_new_seeds_join_them(tmp_path: Path) -> None:
    store, plan = filled(tmp_path / "one", seeds=1)
    there = Store(tmp_path / "two", create=True)
    unpack_runs(read_runs(exported(store, plan, tmp_path / "a.runs.jsonl")), there)
    longer = plan_of(seeds=2)
    there.save_plan(longer)
    for spec in there.missing(longer):
        finish(there, spec)
    assert keep(STUDY, longer, there) == []
    assert there.quantities(longer) == {"steps": {0: 128.0, 1: 130.0}}


def test_numbers_made_of_results_are_made_anew_without_rows(tmp_path: Path) -> None:
    study = replace(STUDY, quantities=from_metrics)
    store, plan = filled(tmp_path / "one", study)
    there = Store(tmp_path / "two", create=True)
    unpack_runs(read_runs(exported(store, plan, tmp_path / "a.runs.jsonl")), there)
    doubled = replace(study, quantities=lambda runs: {"gap": 2 * from_metrics(runs)["gap"]})
    assert keep(doubled, plan, there) == []
    assert there.quantities(plan) == {"gap": {0: 20.0, 1: 20.0}}


def test_numbers_that_need_rows_stay_beside_those_that_are_made_anew(tmp_path: Path) -> None:
    def both(runs: SeedRuns) -> Mapping[str, float]:
        rows = from_rows(runs) if all(run.has_rows for run in runs.values()) else {}
        return {**from_metrics(runs), **rows}

    study = replace(STUDY, quantities=both)
    store, plan = filled(tmp_path / "one", study)
    there = Store(tmp_path / "two", create=True)
    unpack_runs(read_runs(exported(store, plan, tmp_path / "a.runs.jsonl")), there)
    doubled = replace(study, quantities=lambda runs: {**both(runs), "gap": 2 * from_metrics(runs)["gap"]})
    assert keep(doubled, plan, there) == []
    assert there.quantities(plan) == {"gap": {0: 20.0, 1: 20.0}, "steps": {0: 128.0, 1: 130.0}}


def test_numbers_that_lag_behind_their_seed_stay_and_are_named(tmp_path: Path) -> None:
    store, plan = Store(tmp_path / "one", create=True), plan_of(seeds=1)
    small, large = plan.specs()
    finish(store, small)
    keep(STUDY, plan, store)
    there = Store(tmp_path / "two", create=True)
    unpack_runs(read_runs(exported(store, plan, tmp_path / "a.runs.jsonl")), there)
    finish(there, large)
    assert keep(STUDY, plan, there) == [0]
    assert there.quantities(plan) == {"steps": {0: 64.0}}


def test_numbers_made_of_runs_that_the_plan_no_longer_has_are_dropped(tmp_path: Path) -> None:
    store, plan = filled(tmp_path / "one", seeds=1)
    there = Store(tmp_path / "two", create=True)
    unpack_runs(read_runs(exported(store, plan, tmp_path / "a.runs.jsonl")), there)
    small, large = plan.design.arms
    changed = msgspec.structs.replace(large, recipe=large.recipe.with_lr(0.5))
    other = msgspec.structs.replace(plan, design=msgspec.structs.replace(plan.design, arms=(small, changed)))
    finish(there, other.spec(changed, 0))
    keep(STUDY, other, there)
    assert there.quantities(other) == {}


def test_a_result_that_is_there_with_other_numbers_stays(tmp_path: Path) -> None:
    store, plan = filled(tmp_path / "one")
    there = Store(tmp_path / "two", create=True)
    finish(there, plan.specs()[0], accuracy=50.0)
    done = unpack_runs(read_runs(exported(store, plan, tmp_path / "a.runs.jsonl")), there)
    assert (done.new, len(done.other)) == (3, 1)
    result = there.run(plan.specs()[0]).result()
    assert result is not None
    assert result.accuracy == 50.0
    assert there.quantities(plan) == {"steps": {1: 130.0}}  # what was made of the other result is left out


def test_a_plan_that_is_there_stays(tmp_path: Path) -> None:
    store, plan = filled(tmp_path / "one", seeds=1)
    there = Store(tmp_path / "two", create=True)
    there.save_plan(plan_of(seeds=2))
    done = unpack_runs(read_runs(exported(store, plan, tmp_path / "a.runs.jsonl")), there)
    assert done.other_plan
    assert there.plans() == [plan_of(seeds=2)]


def test_a_store_from_before_its_numbers_said_what_they_are_made_of_is_exported_whole(tmp_path: Path) -> None:
    store, plan = filled(tmp_path / "one")
    next(store.root.glob("quantities/*.runs.json")).unlink()
    there = Store(tmp_path / "two", create=True)
    unpack_runs(read_runs(exported(store, plan, tmp_path / "a.runs.jsonl")), there)
    assert there.quantities(plan) == store.quantities(plan)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [], "holds no runs of a study"),
        (lambda lines: [b"{}", *lines[1:]], "holds no runs of a study"),
        (lambda lines: lines[1:], "holds no runs of a study"),
        (lambda lines: [b"\xff\x00", *lines], "holds no runs of a study"),
        (
            lambda lines: [lines[0].replace(b'"format":1', b'"format":2'), *lines[1:]],
            "has format 2, this rebatch reads",
        ),
        (lambda lines: [lines[0].replace(b'"plan":{', b'"plan":{"x":1,'), lines[1][:-9]], "line 2 is damaged"),
        (lambda lines: [lines[0].replace(b'"scale":"quick"', b'"scale":"qick"')], "line 1 is damaged"),
        (lambda lines: [lines[0], b"\xff", *lines[2:]], "line 2 is damaged"),
        (lambda lines: [lines[0], lines[1].replace(b'"lr":', b'"lr":-')], "line 2 is damaged"),
        (lambda lines: [*lines[:2], lines[2].replace(b'"seed":0', b'"seed":7')], r"line 3: run '\w+' does not match"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(damage, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = exported(*filled(tmp_path / "one"), tmp_path / "a.runs.jsonl")
    file.write_bytes(b"\n".join(damage(file.read_bytes().splitlines())))
    with pytest.raises(RequestError, match=message):
        read_runs(file)


def test_an_absent_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no file .*absent; `rebatch study export DIR` writes such files"):
        read_runs(tmp_path / "absent")


def test_a_study_whose_numbers_fail_is_named_with_its_seed(tmp_path: Path) -> None:
    store, plan = filled(tmp_path / "one")
    broken = replace(STUDY, quantities=lambda runs: {"x": 1 / 0})
    with pytest.raises(RunError, match="the quantities of study 'made-up' failed on seed 0: ZeroDivisionError"):
        quantify(broken, plan, store)
