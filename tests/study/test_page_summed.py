"""`page-sums`: its arms, its numbers on made-up runs, and its probes on problems with a known answer."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rebatch.data.sets import DataSet, Splits
from rebatch.execution import Execution
from rebatch.measure.summed_steps import log_slope, summed_steps_distances
from rebatch.recipe import Epochs, Sgd
from rebatch.reduction import with_loss_reduction
from rebatch.schedule import Constant
from rebatch.study.claims import quantities_of
from rebatch.study.page_probing import partial_tail, parting, summed_steps
from rebatch.study.plan import SCALES, Arm, Plan, RunSpec, Scale, TrainingSet, make_plan
from rebatch.study.probes import PartialTail, Parting, Probe, SummedSteps
from rebatch.study.studies.page_2018.summed import RATES, SUMS, TOY, quantities
from rebatch.tasks import TASKS
from rebatch.tasks.task import Task
from study.made_up import run, seed_of
from toy import FLOAT64

PAGE, PROXY = "cifar10/page-resnet18", "cifar10/proxy"
DIGITS = TASKS["digits/mlp"]


def plan_of(task: str, scale: Scale) -> Plan:
    return make_plan(SUMS, TASKS[task], scale, execution=Execution())


def arms_of(task: str, scale: Scale) -> dict[str, Arm]:
    return {arm.name: arm for arm in plan_of(task, scale).design.arms}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("task", ["digits/mlp", "digits/mlp-plain", "mnist/f1", PROXY, PAGE])
def test_every_number_of_a_claim_is_made_of_the_design_s_arms(task: str, scale: Scale) -> None:
    plan = plan_of(task, scale)
    found = quantities(seed_of(plan))
    assert {name for claim in plan.design.claims for name in quantities_of(claim.compared)} <= found.keys()
    ids = {claim.id for claim in plan.design.claims}
    assert ids >= {"P2", "P3", "P22"}
    assert ("P2-batch-norm" in ids) == (task != "digits/mlp-plain")


def test_the_runs_differ_by_what_their_names_say() -> None:
    arms = arms_of(PAGE, "paper")
    own, second = arms["runs:recipe:x4"].recipe, arms["runs:second_order:x4"].recipe
    assert own.optimizer.lr * 128 == pytest.approx(0.4)
    assert own.schedule == second.schedule == Constant()
    assert second.optimizer == Sgd(lr=own.optimizer.lr, weight_decay=5e-4 * 128)
    assert (own.ghost_batch_size, second.ghost_batch_size) == (None, 128)
    part = arms_of(PROXY, "cpu")["runs:recipe:x1"]
    assert (part.data.examples, part.recipe.budget) == (5625, Epochs(5))


def test_numbers_are_those_of_the_probes() -> None:
    pair = {"growth": 0.5, "growth_orders": 0.4, "distance": 3.0, "distance_orders": 4.0}
    found = quantities(
        {
            "steps": run(metrics={"slope": 2.0, "relative": 0.1}),
            "tail:mean": run(metrics={"tail_weight": 1.6}),
            "runs:recipe:x4": run(metrics=pair),
            "runs:recipe:x1": run(metrics={"growth_orders": 0.4, "distance_orders": 4.0}),  # the large batch diverged
        }
    )
    assert found == {
        "slope:steps": 2.0,
        "relative:steps": 0.1,
        "tail_weight:tail:mean": 1.6,
        "growth:runs:recipe:x4": 0.5,
        "growth_orders:runs:recipe:x4": 0.4,
        "parted:runs:recipe:x4": 0.75,
        "diverged:runs:recipe:x4": 0.0,
        "growth_orders:runs:recipe:x1": 0.4,
        "diverged:runs:recipe:x1": 1.0,
    }


def test_steps_on_a_quadratic_part_by_the_square_of_the_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 2, generator=generator, dtype=torch.float64)

    def gradient(weights: Tensor, indices: Tensor) -> Tensor:  # of the sum of (x w)^2 / 2
        return inputs[indices].T @ (inputs[indices] @ weights)

    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    first, second = torch.arange(2), torch.arange(2, 6)
    # The second small step sees the first one's move: rate^2 H_2 g_1.
    curvature = inputs[second].T @ inputs[second]
    expected = float((curvature @ gradient(weights, first)).norm())
    rates = [1e-8, 1e-3]
    found = summed_steps_distances(weights, gradient, [first, second], rates)
    assert found == pytest.approx([expected * rate**2 for rate in rates], rel=1e-6)


def spec(probe: Probe, *, recipe: object = None, seed: int = 0) -> RunSpec:
    return RunSpec(task=DIGITS.name, recipe=recipe or DIGITS.recipe, seed=seed, probe=probe)  # type: ignore[arg-type]


def test_a_real_net_s_steps_agree_to_first_order_unless_batch_norm_couples_examples() -> None:
    apart, found = summed_steps(spec(SummedSteps(rates=RATES)), DIGITS, None)
    assert found["slope"] == pytest.approx(2.0, abs=0.01)
    assert [row["step"] for row in apart] == list(RATES)
    _, coupled = summed_steps(spec(SummedSteps(rates=RATES, training_mode=True)), DIGITS, None)
    assert coupled["slope"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_example_of_the_tail_weighs_more_in_the_mean_form_alone(seed: int) -> None:
    probe = PartialTail(examples=2 * 128 + 80)
    _, mean = partial_tail(spec(probe, recipe=TOY, seed=seed), DIGITS, None)
    assert mean["tail_weight"] == pytest.approx(128 / 80, rel=1e-12)
    _, summed = partial_tail(spec(probe, recipe=with_loss_reduction(TOY, "sum"), seed=seed), DIGITS, None)
    assert summed["tail_weight"] == pytest.approx(1.0, rel=1e-12)


def test_runs_are_compared_after_the_same_examples_whatever_the_tail() -> None:
    task, plain = TASKS["digits/mlp-plain"], Sgd(lr=1e-6)
    recipe = with_loss_reduction(task.recipe.replace(optimizer=plain, schedule=Constant(), budget=Epochs(3)), "sum")
    # 1,000 examples: 32 small steps, the last of 8, and 8 large ones, the last of 104.
    data = TrainingSet(examples=1000)
    one = RunSpec(task=task.name, recipe=recipe, seed=0, probe=Parting(), data=data, execution=FLOAT64)
    rows, _ = parting(one, task, None)
    assert (rows[0]["step"], rows[-1]["step"], rows[-1]["epoch"]) == (128, 3000, 3.0)
    # After other examples they would be as far apart as two orders are: in first order of the rate.
    assert all(0.0 < row["distance"] < 1e-3 * rows[0]["distance_orders"] for row in rows)


def test_a_pair_of_runs_leaves_its_distances_and_how_they_grow() -> None:
    recipe = DIGITS.recipe.replace(schedule=Constant(), budget=Epochs(2))
    rows, metrics = parting(spec(Parting(kappa=4), recipe=recipe), DIGITS, None)
    assert rows[-1]["distance"] == metrics["distance"] > 0.0
    late = [row for row in rows if row["epoch"] >= 0.2]
    slope = np.polyfit(np.log([row["epoch"] for row in late]), np.log([row["distance"] for row in late]), 1)[0]
    assert metrics["growth"] == pytest.approx(slope)
    assert metrics.keys() == {"growth", "growth_orders", "distance", "distance_orders"}


def convolutions() -> nn.Module:
    """A frozen first layer, as whitening is."""
    first = nn.Conv2d(3, 4, 3).requires_grad_(False)
    middle = (nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU())
    return nn.Sequential(first, *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def test_frozen_weights_and_channels_last_are_no_hindrance() -> None:
    images = torch.rand(40, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    data = DataSet(images, torch.arange(40) % 3)
    splits = Splits(data, data.subset(range(10)), data.subset(range(10)))
    recipe = DIGITS.recipe.replace(batch_size=5, budget=Epochs(2), schedule=Constant())
    task = Task("toy/net", recipe, 40, 10, 10, classes=3, build=convolutions, load=lambda *_: splits)
    execution = Execution(memory_format="channels_last")
    for probe, least in ((SummedSteps(rates=RATES), {"slope"}), (Parting(), {"growth", "growth_orders"})):
        one = RunSpec(task=task.name, recipe=recipe, seed=0, probe=probe, execution=execution)
        rows, metrics = (summed_steps if isinstance(probe, SummedSteps) else parting)(one, task, None)
        assert metrics.keys() >= least
        assert rows


def test_a_pair_that_diverged_has_no_growth() -> None:
    recipe = DIGITS.recipe.replace(schedule=Constant(), budget=Epochs(2)).with_lr(1e30)
    _, metrics = parting(spec(Parting(), recipe=recipe), DIGITS, None)
    assert metrics == {}


@pytest.mark.parametrize("y", [[1.0, 0.0, 2.0], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]])
def test_a_slope_that_cannot_be_drawn_is_nan_and_nothing_is_printed(
    y: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    assert math.isnan(log_slope([1.0, 2.0, 4.0], y))
    assert capfd.readouterr() == ("", "")
