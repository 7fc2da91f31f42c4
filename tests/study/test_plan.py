from pathlib import Path
from typing import Any

import msgspec
import pytest

from rebatch.errors import RequestError
from rebatch.execution import Execution
from rebatch.recipe import Epochs, Recipe, Sgd
from rebatch.recipe_file import dumps_recipe
from rebatch.schedule import Constant
from rebatch.study.claims import Claim, Greater, Quantity
from rebatch.study.plan import Arm, Design, RunSpec, Study, make_plan
from rebatch.study.studies import STUDIES
from rebatch.study.studies.hoffer_2017.common import LARGE, RA, SMALL
from rebatch.study.studies.hoffer_2017.gap import GAP, PLATEAUS, SAME_EXAMPLES
from rebatch.tasks import TASKS, Task, find_task
from rebatch.transfer import transfer
from texts import lay_out

DIGITS = TASKS["digits/mlp"]
SPEC = RunSpec(task="digits/mlp", recipe=DIGITS.recipe, seed=0)


def task_for(study: str, task: str) -> Task:
    """`task`, or for a study that simulates the only one it runs on."""
    return find_task("simulation") if STUDIES[study].task == "simulation" else TASKS[task]


def test_the_hash_of_a_run_is_fixed_so_that_old_stores_stay_valid() -> None:
    recipe = Recipe(batch_size=32, optimizer=Sgd(lr=0.05, momentum=0.9), budget=Epochs(20))
    assert RunSpec(task="digits/mlp", recipe=recipe, seed=0).run_id == "6fcf0c499ff6f74e"


def test_fields_at_their_default_do_not_change_the_hash() -> None:
    recipe = Recipe(batch_size=32, optimizer=Sgd(lr=1.0), budget=Epochs(20.0))
    spelled = Recipe(
        batch_size=32,
        optimizer=Sgd(lr=1, momentum=float("0"), weight_decay=float("0")),
        budget=Epochs(20),
        schedule=Constant(warmup=float("0")),
        last_batch="keep",
    )
    ids = {RunSpec(task="t", recipe=each, seed=0, execution=Execution()).run_id for each in (recipe, spelled)}
    assert len(ids) == 1


def test_where_a_recipe_came_from_does_not_change_the_hash_but_its_numbers_do() -> None:
    moved = transfer(DIGITS.recipe, batch_size=64).recipe
    forgotten = msgspec.structs.replace(SPEC, recipe=moved.as_tuned())
    assert msgspec.structs.replace(SPEC, recipe=moved).run_id == forgotten.run_id
    different = [
        msgspec.structs.replace(SPEC, seed=1),
        msgspec.structs.replace(SPEC, recipe=DIGITS.recipe.with_lr(0.1)),
        msgspec.structs.replace(SPEC, execution=Execution(precision="bfloat16")),
        msgspec.structs.replace(SPEC, task_digest="other"),
    ]
    assert len({SPEC.run_id, *(spec.run_id for spec in different)}) == 5


def test_a_spec_survives_json() -> None:
    spec = msgspec.json.decode(msgspec.json.encode(SPEC), type=RunSpec)
    assert spec == SPEC
    assert spec.run_id == SPEC.run_id


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a text of some thousand sequences."""
    return lay_out(tmp_path_factory.mktemp("data"), words=200_000)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("study", STUDIES)
def test_every_study_can_be_planned_for_every_task_at_every_scale(study: str, task: str, texts: Path) -> None:
    found = task_for(study, task).sized(texts)
    for scale in ("quick", "cpu", "paper"):
        plan = make_plan(STUDIES[study], found, scale, execution=Execution())
        ids = [spec.run_id for spec in plan.specs()]
        assert len(ids) == len(set(ids)) <= len(plan.runs())
        names = {arm.name for arm in plan.design.arms}
        assert set(plan.design.gap or ()) <= names
        for arm in plan.design.arms:
            dumps_recipe(arm.recipe)


def test_the_gap_study_compares_what_the_paper_compares() -> None:
    plan = make_plan(GAP, DIGITS, "cpu", execution=Execution())
    assert [arm.name for arm in plan.design.arms] == [
        "small_batch",
        "large_batch",
        "large_batch+lr",
        "large_batch+lr+gbn",
        "large_batch+lr+gbn+ra",
        "large_batch+best",
        "small_batch+same_examples",
        *PLATEAUS.values(),
    ]
    steps = {arm.name: plan.steps(arm) for arm in plan.design.arms}
    examples = {arm.name: plan.steps(arm) * arm.recipe.batch_size for arm in plan.design.arms}
    assert steps[RA] == steps[SMALL] == 16 * steps[LARGE]
    assert examples[RA] == examples[SAME_EXAMPLES] == 16 * examples[SMALL]
    assert [claim.id for claim in plan.design.claims] == [
        *("H1", "H2", "H3", "H4", "H5", "H4-control"),
        *("H21", "H24"),
    ]


ARM = Arm(name="small", recipe=DIGITS.recipe)
OTHER = Arm(name="large", recipe=DIGITS.recipe.replace(batch_size=64))
CLAIM = Claim(
    id="c",
    statement="s",
    source="s",
    test=Greater("small", "large"),
    expected=None,
    why="",
)
DESIGN = Design(arms=(ARM, OTHER), claims=(CLAIM,), seeds=2)


def plan_of(design: Any) -> None:
    make_plan(Study(name="mine", title="", source="", design=lambda *_: design), DIGITS, "quick", execution=Execution())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": ()}, "study 'mine' has no arms"),
        ({"seeds": 0}, "study 'mine' has 0 seeds"),
        ({"arms": (ARM, OTHER, ARM)}, "has two arms named 'small'"),
        ({"claims": (CLAIM, CLAIM)}, "has two claims named 'c'"),
        ({"gap": ("small", "larg")}, "gap of study 'mine' names an unknown arm 'larg'; did you mean 'large'?"),
        ({"arms": (ARM,)}, "claim 'c' of study 'mine' names an unknown arm 'large'"),
        (
            {"claims": (msgspec.structs.replace(CLAIM, test=Quantity("slope", low=0.0)),)},
            "claim 'c' of study 'mine' speaks about 'slope'; the study has no quantities",
        ),
        ({"seeds": "2"}, r"is not valid: Expected `int`, got `str` - at `\$.seeds` \(.*test_plan.py:\d+\)"),
        ({"arms": (DIGITS.recipe,)}, "is not valid: .*arms"),
        (
            {"arms": (ARM, msgspec.structs.replace(OTHER, task="mnist/f1"))},
            r"arm 'large' trains the model of mnist/f1 with \(55000, 5000, 10000, 10\) training, .*, digits/mlp has",
        ),
        ({"arms": (ARM, msgspec.structs.replace(OTHER, task="mnst/f1"))}, "no task named 'mnst/f1'"),
    ],
)
def test_a_design_that_does_not_hold_together_is_refused_before_any_run(changed: dict[str, Any], message: str) -> None:
    plan_of(DESIGN)
    with pytest.raises(RequestError, match=message):
        plan_of(msgspec.structs.replace(DESIGN, **changed))


def test_a_design_that_is_none_or_fails_is_one_line_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match=r"must return a Design, got None \(.*test_plan.py:\d+\)"):
        plan_of(None)

    def loud(*_: object) -> Design:
        print("hello")
        raise KeyError("momentum")

    with pytest.raises(RequestError, match=r"'mine' cannot be planned: KeyError: 'momentum' \(.*test_plan.py:\d+\)"):
        make_plan(Study(name="mine", title="", source="", design=loud), DIGITS, "quick", execution=Execution())
    assert capsys.readouterr() == ("", "hello\n")


def test_simulations_and_trainings_do_not_run_on_each_others_tasks() -> None:
    for study, task in (("random-walk", "digits/mlp"), ("hoffer-gap", "simulation")):
        with pytest.raises(RequestError, match=f"study '{study}' does not run on task"):
            make_plan(STUDIES[study], find_task(task), "quick", execution=Execution())
