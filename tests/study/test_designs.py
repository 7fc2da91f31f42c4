"""Every study at every scale: what its claims speak about is what its arms and its quantities bring forth."""

import math
from pathlib import Path

import msgspec
import pytest

from rebatch.execution import Execution
from rebatch.recipe import BIGBATCH, Defects
from rebatch.study.archive import read_runs
from rebatch.study.choosing import with_candidates
from rebatch.study.claims import arms_of, quantities_of
from rebatch.study.plan import SCALES, Arm, Plan, Scale, TrainingSet, make_plan
from rebatch.study.probes import StepTime
from rebatch.study.store import Store
from rebatch.study.studies import STUDIES
from rebatch.study.studies.hoffer_2017.momentum_reset import COLUMNS
from rebatch.tasks import TASKS, Task, find_task
from study.made_up import seed_of

RESULTS = Path(__file__).parents[2] / "results"
CASES = [(study, task, scale) for study in STUDIES for task in ("digits/mlp", "mnist/f1") for scale in SCALES]


def task_for(study: str, task: str) -> Task:
    """`task`, or for a study that simulates the only one it runs on."""
    return find_task("simulation") if STUDIES[study].task == "simulation" else TASKS[task]


def plan_of(study: str, task: str, scale: Scale) -> Plan:
    return make_plan(STUDIES[study], task_for(study, task), scale, execution=Execution())


@pytest.mark.parametrize(("study", "task", "scale"), CASES)
def test_every_quantity_that_a_claim_names_is_made_of_the_study_s_own_arms(study: str, task: str, scale: Scale) -> None:
    plan = plan_of(study, task, scale)
    named = {name for claim in plan.design.claims for name in quantities_of(claim.test)}
    quantities = STUDIES[study].quantities
    found = {} if quantities is None else quantities(seed_of(plan))
    assert named <= found.keys()
    assert all(math.isfinite(found[name]) for name in named)
    assert plan.design.claims


@pytest.mark.parametrize(("study", "task", "scale"), CASES)
def test_no_arm_of_a_claim_is_judged_on_the_runs_it_was_chosen_by(study: str, task: str, scale: Scale) -> None:
    plan = plan_of(study, task, scale)
    arms = {arm.name: arm for arm in plan.design.arms}
    named = {name for claim in plan.design.claims for name in arms_of(claim.test)}
    assert not any(arms[name].candidate for name in named)
    for arm in arms.values():
        tuned_on = {seed for name in arm.best_of for seed in plan.seeds(arms[name])}
        reported = range(arm.first_seed, arm.first_seed + (arm.seeds or plan.design.seeds))
        assert tuned_on.isdisjoint(reported)
        assert all(arms[name].candidate for name in arm.best_of)


@pytest.mark.parametrize("study", STUDIES)
def test_quantities_are_made_of_whatever_has_finished_yet(study: str) -> None:
    quantities = STUDIES[study].quantities
    runs = seed_of(plan_of(study, "digits/mlp", "cpu"))
    if quantities is None:
        return
    assert not any(map(math.isfinite, quantities({}).values()))
    whole = quantities(runs)
    for missing in runs:
        part = quantities({name: found for name, found in runs.items() if name != missing})
        assert part.keys() <= whole.keys()


@pytest.mark.parametrize("study", STUDIES)
def test_a_claim_can_be_decided_by_the_seeds_that_its_arms_share(study: str) -> None:
    for scale in SCALES[1:]:
        plan = plan_of(study, "digits/mlp", scale)
        arms = {arm.name: arm for arm in plan.design.arms}
        for claim in plan.design.claims:
            counts = [arms[name].seeds or plan.design.seeds for name in arms_of(claim.test)]
            assert min(counts, default=2) >= 2


def test_only_the_time_of_a_step_may_have_a_single_seed() -> None:
    for study in STUDIES:
        plan = plan_of(study, "digits/mlp", "quick")
        single = [arm for arm in plan.design.arms if arm.seeds == 1]
        assert all(isinstance(arm.probe, StepTime) for arm in single)


@pytest.mark.parametrize("study", STUDIES)
def test_a_plan_comes_back_from_a_store_as_it_was(study: str, tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    plan = plan_of(study, "digits/mlp", "cpu")
    store.save_plan(plan)
    again = Store(tmp_path).plan(plan.name)
    assert again == plan
    assert [spec.run_id for spec in again.specs()] == [spec.run_id for spec in plan.specs()]


@pytest.mark.parametrize("study", ["hoffer-optimizers", "hoffer-momentum-reset"])
def test_fewer_seeds_keep_the_candidates(study: str) -> None:
    full = plan_of(study, "digits/mlp", "cpu")
    few = make_plan(STUDIES[study], task_for(study, "digits/mlp"), "cpu", execution=Execution(), seeds=1)
    candidates = {arm.name for arm in full.design.arms if arm.candidate}
    assert candidates
    assert few.design.seeds == 1
    assert [s.run_id for s in few.specs(candidates)] == [s.run_id for s in full.specs(candidates)]
    assert {arm.seeds for arm in few.design.arms if not arm.candidate} <= {None, 1}


def test_an_arm_is_named_together_with_what_it_is_chosen_from() -> None:
    plan = plan_of("hoffer-optimizers", "digits/mlp", "quick")
    named = with_candidates(plan, ["sgd"])
    assert named == {"sgd", *(arm.name for arm in plan.design.arms if arm.name.startswith("sgd lr"))}
    assert len(named) == 6


def momentum_arms(task: str) -> dict[str, Arm]:
    return {arm.name: arm for arm in plan_of("hoffer-momentum-reset", task, "cpu").design.arms}


@pytest.mark.parametrize("task", [name for name in TASKS if "code" in TASKS[name].regimes])
def test_the_authors_arms_train_by_the_code_s_regime_where_a_task_has_one(task: str) -> None:
    code, fixed = TASKS[task].regime("code"), TASKS[task].recipe
    arms = momentum_arms(task)
    for name, arm in arms.items():
        if not name.startswith("warmup:"):
            assert arm.recipe.schedule == (code if "authors" in name else fixed).schedule
    assert arms["authors:small_batch"].recipe == code.replace(defects=BIGBATCH)
    assert arms["authors:large_batch"].recipe.optimizer == code.optimizer
    assert arms["small_batch"].recipe == fixed


def test_the_plain_script_s_learning_rate_is_an_arm_with_as_many_seeds_as_its_siblings() -> None:
    arms = momentum_arms("mnist/f1")
    plain, large = arms["authors_base_256:large_batch+lr"], arms["authors:large_batch"]
    assert plain.seeds is None
    assert plain.recipe == large.recipe.with_lr(0.4)
    assert plain.recipe.replace(defects=Defects()).as_tuned() == arms["base_256:large_batch+lr"].recipe.as_tuned()
    claims = plan_of("hoffer-momentum-reset", "mnist/f1", "cpu").design.claims
    assert plain.name not in {name for claim in claims for name in arms_of(claim.test)}  # a search, not a test


def test_resnet8_is_a_short_look_on_a_cpu_with_the_very_runs_of_hoffer_gap() -> None:
    plan, gap = (plan_of(study, "cifar10/resnet8", "cpu") for study in ("hoffer-momentum-reset", "hoffer-gap"))
    arms = {arm.name: arm for arm in plan.design.arms}
    shared = {arm.name: arm for arm in gap.design.arms if arm.name in COLUMNS}
    assert plan.design.seeds == 3
    assert [plan.spec(arms[name], 0).run_id for name in COLUMNS] == [
        gap.spec(shared[name], 0).run_id for name in COLUMNS
    ]
    assert not any(name.startswith(("best:", "warmup:")) for name in arms)
    assert plan_of("hoffer-momentum-reset", "cifar10/resnet8", "paper").design.seeds == 10


def test_digits_are_trained_unmirrored_too_and_nothing_else_is_changed() -> None:
    arms = momentum_arms("mnist/f1")
    unflipped = {name: arm for name, arm in arms.items() if arm.data != TrainingSet()}
    assert list(unflipped) == [f"no_flip:{name}" for name in COLUMNS]
    for name, arm in unflipped.items():
        assert arm.data == TrainingSet(without=("flip",))
        assert arm.recipe == arms[name.removeprefix("no_flip:")].recipe
    assert not any(name.startswith("no_flip:") for name in momentum_arms("fashion-mnist/f1"))


def test_the_kept_runs_are_runs_of_the_study_as_it_is() -> None:
    kept = read_runs(RESULTS / "hoffer-momentum-reset" / "mnist-f1-cpu.runs.jsonl")
    study, task = STUDIES["hoffer-momentum-reset"], TASKS["mnist/f1"]
    plan = make_plan(study, task, "cpu", execution=kept.plan.execution)
    named, known = {arm.name: arm for arm in plan.design.arms}, set()
    for arm in kept.plan.design.arms:
        own = named[arm.name]
        if arm.chosen:  # from its candidates, as the engine does when all of them have run
            own = msgspec.structs.replace(own, recipe=named[arm.chosen].recipe, chosen=arm.chosen)
        ids = [plan.spec(own, seed).run_id for seed in plan.seeds(own)]
        assert [kept.plan.spec(arm, seed).run_id for seed in kept.plan.seeds(arm)] == ids
        known |= set(ids)
    assert {spec.run_id for spec, _ in kept.runs} <= known


def test_the_authors_residual_nets_start_batch_norm_at_one_and_the_others_do_not() -> None:
    arms = {
        name: STUDIES["hoffer-momentum-reset"].design(TASKS[name], "paper").arms
        for name in ("mnist/f1", "cifar10/c1", "cifar10/resnet44", "cifar100/wrn16-4")
    }
    scales = {
        name: {arm.recipe.defects.batch_norm_scale for arm in each if arm.name.startswith("authors")}
        for name, each in arms.items()
    }
    assert scales == {
        "mnist/f1": {"uniform"},
        "cifar10/c1": {"uniform"},
        "cifar10/resnet44": {"ones"},
        "cifar100/wrn16-4": {"ones"},
    }
