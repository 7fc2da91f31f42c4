"""`page-directions`: its arms keep what their names say, its numbers on made-up runs, its probes on a real net."""

import math
from dataclasses import replace

import msgspec
import pytest

from rebatch.execution import Execution
from rebatch.recipe import AdamW, Sgd
from rebatch.schedule import Constant
from rebatch.study.claims import quantities_of
from rebatch.study.equilibrium_probing import relative_steps, rescaled
from rebatch.study.plan import SCALES, Arm, Plan, Scale, make_plan
from rebatch.study.studies.page_2018.directions import BATCH, DECAY, DIRECTIONS, MOMENTUM, quantities
from rebatch.tasks import TASKS
from study.made_up import run, seed_of

DIGITS = TASKS["digits/mlp"]


def plan_of(task: str, scale: Scale) -> Plan:
    return make_plan(DIRECTIONS, TASKS[task], scale, execution=Execution())


def arms_of(task: str, scale: Scale) -> dict[str, Arm]:
    return {arm.name: arm for arm in plan_of(task, scale).design.arms}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "task", ["digits/mlp", "digits/mlp-plain", "mnist/f1", "cifar10/proxy", "cifar10/page-resnet18"]
)
def test_every_number_of_a_claim_is_made_of_the_design_s_arms(task: str, scale: Scale) -> None:
    plan = plan_of(task, scale)
    found = quantities(seed_of(plan))
    assert {name for claim in plan.design.claims for name in quantities_of(claim.compared)} <= found.keys()
    ids = {claim.id for claim in plan.design.claims}
    assert ids >= {"P17-batch", "P17-momentum"}
    assert ids.isdisjoint({"P18", "P19"}) == (task == "digits/mlp-plain")


@pytest.mark.parametrize("task", ["digits/mlp", "cifar10/page-resnet18"])
def test_along_a_direction_the_combination_stays_and_across_it_changes_sixteenfold(task: str) -> None:
    arms = arms_of(task, "paper")

    def combined(name: str, direction: str) -> float:
        recipe = arms[name].recipe
        sgd = recipe.optimizer
        assert isinstance(sgd, Sgd)
        assert recipe.loss_reduction == "mean"
        second = {"lr/B": 1 / recipe.batch_size, "lr/(1-m)": 1 / (1 - sgd.momentum), "lr wd": sgd.weight_decay}
        return sgd.lr * second[direction]

    for each in (BATCH, MOMENTUM, DECAY):
        center = combined(each.from_arm, each.name)
        for pair in each.along:
            assert combined(each.arm(pair), each.name) == pytest.approx(center)
        factors = sorted(combined(each.arm(pair), each.name) / center for pair in each.across)
        assert factors == pytest.approx([1 / 16, 16])


def test_arms_at_rest_have_a_constant_rate_and_enough_decay_and_no_clipping() -> None:
    recipe = arms_of("cifar10/resnet8", "cpu")["at rest"].recipe
    assert (recipe.schedule, recipe.max_grad_norm) == (Constant(), None)
    of_digits = arms_of("digits/mlp", "cpu")["at rest"].recipe.optimizer
    assert isinstance(of_digits, Sgd)
    assert (1 - 0.9) / (4 * 0.025 * of_digits.weight_decay) == pytest.approx(4 * 640 / 10)


def test_without_much_momentum_only_rate_and_batch_move() -> None:
    for optimizer in (AdamW(lr=0.001), Sgd(lr=0.1, momentum=0.7)):
        task = replace(DIGITS, recipe=DIGITS.recipe.replace(optimizer=optimizer))
        design = make_plan(DIRECTIONS, task, "quick", execution=Execution()).design
        assert [claim.id for claim in design.claims] == ["P17-batch"]
        assert len(design.arms) == 5


def test_a_quarter_of_the_change_across_is_allowed_along() -> None:
    up, down = BATCH.along
    losses = {"base": 1.0, BATCH.arm(up): 1.1, BATCH.arm(down): 0.8}
    losses |= dict(zip(map(BATCH.arm, BATCH.across), (1.6, 2.0), strict=True))
    found = quantities({name: run(metrics={"validation_loss": loss}) for name, loss in losses.items()})
    assert found["across:lr/B"] == pytest.approx(0.8)
    named = [found[f"{side}:{BATCH.arm(pair)}"] for pair in (up, down) for side in ("rise", "fall")]
    assert named == pytest.approx([0.1, 0.3, 0.4, 0.0])
    del losses["base"]
    assert quantities({name: run(metrics={"validation_loss": loss}) for name, loss in losses.items()}) == {}


def test_longer_weights_at_a_higher_rate_with_less_decay_are_the_same_run_unless_clipping_knows_their_length() -> None:
    plan = plan_of("digits/mlp", "quick")
    arm = next(arm for arm in plan.design.arms if arm.name == "same run")
    _, found = rescaled(plan.spec(arm, 0), DIGITS, None)
    assert max(found.values()) < 1e-9
    clipped = msgspec.structs.replace(arm, recipe=arm.recipe.replace(max_grad_norm=0.1))
    _, apart = rescaled(plan.spec(clipped, 0), DIGITS, None)
    assert min(apart.values()) > 1e-3


def test_a_diverged_run_has_no_steps_at_rest() -> None:
    plan = plan_of("digits/mlp", "quick")
    arm = next(arm for arm in plan.design.arms if arm.name == "heavy ball")
    wild = msgspec.structs.replace(arm, recipe=arm.recipe.with_lr(1e30))
    assert relative_steps(plan.spec(wild, 0), DIGITS, None) == ([], {})
    assert math.isclose(relative_steps(plan.spec(arm, 0), DIGITS, None)[1]["ratio"], 1.0, rel_tol=0.25)
