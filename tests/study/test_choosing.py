"""What is chosen is chosen on the validation split, by all candidates, the same way every time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.recipe import Steps
from rebatch.report.summary import summarize
from rebatch.study.choosing import choose, edge_of_grid, validation_accuracy
from rebatch.study.engine import Outcome, run_plan
from rebatch.study.execute import execute
from rebatch.study.plan import Arm, Design, Plan, Study, make_plan
from rebatch.study.store import Result, Store
from rebatch.tasks import TASKS
from study.processes import command, finish, numbers

STUDY = f"{Path(__file__).parent / 'choosing_study.py'}:choosing"
DIGITS = TASKS["digits/mlp"]
SHORT = DIGITS.recipe.replace(budget=Steps(2))
RATES = {"low": 0.01, "middle": 0.02, "high": 0.03}


def planned(arms: tuple[Arm, ...], **changes: Any) -> Plan:
    study = Study(name="s", title="", source="", design=lambda *_: Design(arms=arms, claims=(), seeds=2, evaluations=1))
    return make_plan(study, DIGITS, "quick", execution=Execution(), **changes)


CANDIDATES = tuple(
    Arm(name=name, recipe=SHORT.with_lr(lr), seeds=2, first_seed=1000, candidate=True) for name, lr in RATES.items()
)
BEST = Arm(name="best", recipe=SHORT, best_of=tuple(RATES))
PLAN = planned((*CANDIDATES, BEST))


def finished(
    store: Store, plan: Plan, validation: Mapping[str, float | None], test: Mapping[str, float] | None = None
) -> None:
    """Put made-up results of candidates into the store; None stands for a run that diverged."""
    for arm in plan.design.arms:
        if arm.name in validation:
            for seed in plan.seeds(arm):
                reached = validation[arm.name]
                store.begin(plan.spec(arm, seed)).finish(
                    Result(
                        status="diverged" if reached is None else "done",
                        steps=2,
                        accuracy=(test or {}).get(arm.name, 50.0),
                        metrics={"validation_accuracy": 99.9 if reached is None else reached},
                    )
                )


def chosen(plan: Plan) -> str:
    return next(arm.chosen for arm in plan.design.arms if arm.best_of)


def run(plan: Plan, store: Store, **options: Any) -> Outcome:
    return run_plan(plan, store, task=DIGITS.name, **options)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, whose runs are done in this process: workers take seconds to start."""
    monkeypatch.setattr("rebatch.study.engine._workers", lambda *_: nullcontext([]))
    monkeypatch.setattr("rebatch.study.engine._Engine", Here)
    return Store(tmp_path / "store", create=True)


class Here:
    """Stands for the engine's workers."""

    def __init__(self, store: Store, *rest: Any) -> None:
        self._store, self._missing = store, rest[4]

    def run(self) -> None:
        for spec in self._missing:
            folder = self._store.begin(spec)
            execute(spec, folder, DIGITS, data_dir=None, environment={}, on_row=lambda _: None)


def test_the_best_is_that_of_the_validation_split_whatever_the_test_set_says(store: Store) -> None:
    finished(store, PLAN, {"low": 90.0, "middle": 95.0, "high": 80.0}, {"low": 99.0, "middle": 10.0, "high": 50.0})
    outcome = run(PLAN, store)
    assert chosen(outcome.plan) == "middle"
    best = next(arm for arm in outcome.plan.design.arms if arm.name == "best")
    assert best.recipe.optimizer.lr == RATES["middle"]
    specs = outcome.plan.specs(["best"])
    assert [(spec.seed, spec.recipe.optimizer.lr) for spec in specs] == [(0, 0.02), (1, 0.02)]
    assert all(store.run(spec).result() is not None for spec in specs)
    assert not outcome.failed
    assert store.plan(PLAN.name) == outcome.plan


def test_the_mean_over_all_seeds_counts_and_the_first_of_equals_wins(store: Store) -> None:
    finished(store, PLAN, {"low": 90.0, "middle": 90.0, "high": 80.0})
    assert chosen(choose(PLAN, store)) == "low"
    one = PLAN.spec(CANDIDATES[2], 1000)
    store.begin(one).finish(Result(status="done", steps=2, accuracy=50.0, metrics={"validation_accuracy": 99.0}))
    assert validation_accuracy(CANDIDATES[2], PLAN, store) == pytest.approx(89.5)
    assert chosen(choose(PLAN, store)) == "low"
    store.begin(one).finish(Result(status="done", steps=2, accuracy=50.0, metrics={"validation_accuracy": 100.5}))
    assert chosen(choose(PLAN, store)) == "high"


def test_a_candidate_that_diverged_counts_at_chance_whatever_it_had_reached(store: Store) -> None:
    finished(store, PLAN, {"low": None, "middle": 9.0, "high": None})
    assert validation_accuracy(CANDIDATES[0], PLAN, store) == 10.0
    assert chosen(choose(PLAN, store)) == "low"
    finished(store, PLAN, {"middle": 11.0})
    assert chosen(choose(PLAN, store)) == "middle"


def test_nothing_is_chosen_until_all_candidates_have_run(store: Store) -> None:
    finished(store, PLAN, {"low": 90.0, "middle": 95.0})
    waiting = choose(PLAN, store)
    assert chosen(waiting) == ""
    assert [arm.name for arm in waiting.waiting] == ["best"]
    assert waiting.seeds(BEST) == range(0)
    assert {spec.seed for spec in waiting.specs()} == {1000, 1001}
    one = PLAN.spec(CANDIDATES[2], 1000)
    store.begin(one).finish(Result(status="done", steps=2, accuracy=50.0, metrics={"validation_accuracy": 99.0}))
    assert chosen(choose(PLAN, store)) == ""
    assert chosen(run(PLAN, store).plan) in RATES


def test_the_second_command_chooses_the_same_and_runs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(PLAN, store)
    assert (first.reused, len(first.plan.specs())) == (0, 8)
    monkeypatch.setattr("rebatch.study.engine._Engine", None)
    again = run(PLAN, store)
    assert (again.reused, again.plan) == (8, first.plan)


def test_a_choice_that_was_made_stays_in_the_store_for_whoever_reads_it(store: Store) -> None:
    finished(store, PLAN, {"low": 90.0, "middle": 95.0, "high": 80.0})
    kept = run(PLAN, store).plan
    assert choose(kept, store) == kept
    assert msgspec.json.decode(msgspec.json.encode(kept), type=Plan) == kept


def test_more_seeds_do_not_touch_the_choice(store: Store) -> None:
    finished(store, PLAN, {"low": 90.0, "middle": 95.0, "high": 80.0})
    for seeds in (1, 3):
        plan = planned((*CANDIDATES, BEST), seeds=seeds)
        outcome = run(plan, store)
        assert chosen(outcome.plan) == "middle"
        assert [arm.name for arm in plan.design.arms if plan.seeds(arm) == range(1000, 1002)] == list(RATES)
        assert len(store.results(outcome.plan, "best")) == seeds


def test_asking_for_the_chosen_arm_runs_its_candidates_and_nothing_else(store: Store) -> None:
    other = Arm(name="other", recipe=SHORT.with_lr(0.5))
    outcome = run(planned((*CANDIDATES, BEST, other)), store, arms=["best"])
    assert chosen(outcome.plan) in RATES
    assert len(store.results(outcome.plan, "best")) == 2
    assert store.results(outcome.plan, "other") == {}


def test_asking_for_another_arm_runs_no_candidate(store: Store) -> None:
    other = Arm(name="other", recipe=SHORT.with_lr(0.5))
    outcome = run(planned((*CANDIDATES, BEST, other)), store, arms=["other"])
    assert chosen(outcome.plan) == ""
    assert {name: len(store.results(outcome.plan, name)) for name in ("other", "best", "low")} == {
        "other": 2,
        "best": 0,
        "low": 0,
    }


def test_an_arm_may_be_chosen_from_arms_that_were_chosen(store: Store) -> None:
    final = Arm(name="final", recipe=SHORT, best_of=("best", "low"))
    plan = planned((final, *CANDIDATES, BEST))
    finished(store, plan, {"low": 1.0, "middle": 95.0, "high": 80.0})
    arms = {arm.name: arm for arm in run(plan, store).plan.design.arms}
    assert (arms["best"].chosen, arms["final"].chosen) == ("middle", "best")
    assert arms["final"].recipe.optimizer.lr == RATES["middle"]


@pytest.mark.parametrize(
    ("validation", "grid"),
    [
        ({"low": 90.0, "middle": 95.0, "high": 91.0}, None),
        ({"low": 96.0, "middle": 95.0, "high": 91.0}, (0.01, 0.03)),
        ({"low": 90.0, "middle": 95.0, "high": 97.0}, (0.01, 0.03)),
    ],
)
def test_the_best_rate_at_the_edge_of_its_grid_is_told(
    validation: dict[str, float | None], grid: tuple[float, float] | None, tmp_path: Path
) -> None:
    store = Store(tmp_path, create=True)
    other = Arm(name="other", recipe=SHORT.with_lr(0.5).replace(batch_size=64), candidate=True, seeds=2)
    best = msgspec.structs.replace(BEST, best_of=(*RATES, "other"))  # another grid, of which there is but one rate
    plan = planned((*CANDIDATES, other, best))
    assert edge_of_grid(best, plan) is None  # nothing is chosen yet
    finished(store, plan, {**validation, "other": 5.0})
    chosen = choose(plan, store)
    assert edge_of_grid(chosen.design.arms[-1], chosen) == grid
    note = next(arm.note for arm in summarize(chosen, store).arms if arm.name == "best")
    assert note.startswith("chosen on the validation split: ")
    told = ", at the edge of its grid (learning rates 0.01 to 0.03): a better one may lie beyond"
    assert note.endswith(told) is (grid is not None)
    finished(store, plan, {**validation, "other": 99.0})
    alone = choose(plan, store)
    assert alone.design.arms[-1].chosen == "other"
    assert edge_of_grid(alone.design.arms[-1], alone) is None


def test_an_arm_runs_as_it_says_and_others_as_the_study_says() -> None:
    exact = Arm(name="exact", recipe=SHORT, execution=Execution(precision="float64"), seeds=1, first_seed=7)
    plan = planned((exact, Arm(name="plain", recipe=SHORT, finals=("train_evaluation",))))
    found = [(s.seed, s.execution.precision, s.finals) for s in plan.specs()]
    assert found == [(7, "float64", ()), (0, "float32", ("train_evaluation",)), (1, "float32", ("train_evaluation",))]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (Arm(name="b", recipe=SHORT, best_of=("lo",)), "arm 'b' of study 's' chooses from 'lo'; did you mean 'low'"),
        (Arm(name="b", recipe=SHORT, best_of=("b",)), "arm 'b' of study 's' chooses from itself"),
        (Arm(name="b", recipe=SHORT, seeds=0), "arm 'b' of study 's' has 0 seeds; it needs at least one"),
    ],
)
def test_an_arm_that_could_never_run_is_refused_in_one_line(arm: Arm, message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        planned((*CANDIDATES, arm))
    assert "\n" not in str(raised.value)


# From the command line, with a user's own study


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    store = tmp_path_factory.mktemp("choosing") / "store"
    return store, finish(STUDY, store, "--jobs", "2")


def test_a_users_study_chooses_measures_and_probes(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, document = undisturbed
    assert document["runs"] == {"done": 9, "diverged": 2, "failed": 0, "reused": 0}
    arms = {arm["name"]: arm for arm in document["arms"]}
    assert list(arms) == ["best", "fixed", "probed"]
    assert "chosen on the validation split: high" in arms["best"]["note"]
    assert (arms["probed"]["n"], arms["probed"]["accuracy"]) == (1, None)
    candidates = {each["name"]: each for each in document["candidates"]}
    assert [name for name, each in candidates.items() if each["chosen"]] == ["high"]
    assert candidates["wild"]["validation_accuracy"] == 10.0
    assert candidates["high"]["validation_accuracy"] > candidates["low"]["validation_accuracy"]
    quantities = {each["name"]: each for each in document["quantities"]}
    assert set(quantities) == {"twice", "rows", "train"}
    assert quantities["twice"]["values"] == [2 * value for value in arms["best"]["accuracy"]["values"]]
    claims = {each["id"]: each for each in document["claims"]}
    assert (claims["large"]["unit"], claims["better"]["unit"]) == ("half points", "points")
    assert claims["large"]["effect"]["estimate"] == pytest.approx(quantities["twice"]["mean"])


def test_the_store_is_judged_without_the_code_of_the_study(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    store, document = undisturbed
    shown = subprocess.run(
        [sys.executable, "-m", "rebatch", "study", "show", str(store), "--json"], capture_output=True, text=True
    )
    again = json.loads(shown.stdout)
    for part in ("arms", "candidates", "quantities", "claims"):
        assert again[part] == document[part]


def test_killed_after_it_has_chosen_it_ends_with_the_same_choice_and_numbers(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    process = subprocess.Popen(
        command(STUDY, store, "--jobs", "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(numbers(store)) < 7 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)  # until all candidates have run, and one more
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = numbers(store)
    document = finish(STUDY, store, "--jobs", "1")
    assert document["runs"]["reused"] == len(kept) >= 1
    assert numbers(store) == numbers(undisturbed[0])
    for part in ("arms", "candidates", "quantities", "claims"):
        assert document[part] == undisturbed[1][part]


def test_only_what_is_not_shown_any_more_counts_as_hidden(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(undisturbed[0], store)
    done = subprocess.run(command(STUDY, store, "--seeds", "1"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # The second seeds of `best` and `fixed`; the chosen run of the first seed is still shown.
    assert "seeds: 1 instead of 2; 2 finished runs are kept but not shown (--seeds 2)" in done.stderr
    assert "all 9 runs are in the store" in done.stderr


def test_a_chosen_arm_is_announced_with_its_candidates(tmp_path: Path) -> None:
    options = ("--arm", "best", "--seeds", "1", "--jobs", "1")
    done = subprocess.run(command(STUDY, tmp_path / "store", *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "choosing-digits-mlp-quick: 6 of 6 runs to do, 1 at a time" in done.stderr
    again = subprocess.run(command(STUDY, tmp_path / "store", *options), capture_output=True, text=True, timeout=120)
    assert "all 7 runs are in the store" in again.stderr


def test_the_same_command_again_runs_nothing(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    store, document = undisturbed
    before = numbers(store)
    again = finish(STUDY, store)
    assert again["runs"] == {"done": 9, "diverged": 2, "failed": 0, "reused": 11}
    assert again["candidates"] == document["candidates"]
    assert numbers(store) == before
