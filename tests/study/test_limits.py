"""What limits a learning rate: on digits, where both answers can be had, and the pieces one by one."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from rebatch.errors import RequestError
from rebatch.interval import Interval
from rebatch.measure import Decay
from rebatch.measure.curvature import TopEigenvalue, top_eigenvalue
from rebatch.recipe import AdamW, Epochs, Recipe, Sgd, Steps
from rebatch.schedule import Constant, Linear, MultiStep, Plateau
from rebatch.study.limits import Limits, high_rate_ends, measure_limits, unseen_loss
from rebatch.tasks import TASKS
from toy import RECIPE, assert_same_state, state_of, toy_model, toy_splits

DIGITS = TASKS["digits/mlp"]


def limits(*, low: float, forgotten: float) -> Limits:
    return Limits(
        step=10,
        lr=0.1,
        batch_size=32,
        curvature=TopEigenvalue(2.0, 0.0, 3, True, 7.0),
        stable_lr=1.0,
        breaks=Interval(low * 1.4, low, low * 2),
        decay=Decay(1.0, 0.5, Interval(0.1, 0.05, 0.2)),
        unseen_loss=1.0,
        forgotten=forgotten,
    )


@pytest.mark.parametrize(
    ("low", "forgotten", "verdict"),
    [(0.1, 2.0, "curvature"), (0.1, 0.5, "both"), (0.2, 0.5, "forgetting"), (0.2, math.inf, "neither")],
)
def test_the_verdict_says_which_limit_is_near(low: float, forgotten: float, verdict: str) -> None:
    assert limits(low=low, forgotten=forgotten).verdict == verdict


@pytest.mark.parametrize(
    ("recipe", "step"),
    [
        (RECIPE.replace(batch_size=4, budget=Epochs(20), schedule=MultiStep(milestones=(0.5,))), 100),
        (RECIPE.replace(batch_size=4, budget=Epochs(20), schedule=Constant()), 200),
        (RECIPE.replace(batch_size=4, budget=Epochs(20), schedule=Linear()), 100),
        (RECIPE.replace(batch_size=4, budget=Epochs(20), schedule=Linear(warmup=0.5)), 150),
    ],
)
def test_the_high_rate_ends_at_the_last_row_with_half_of_the_highest(recipe: Recipe, step: int) -> None:
    assert high_rate_ends(recipe, 37) == step


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"at least 8 steps to see forgetting within it, got 3 of batch_size 16; .* 4"
    ):
        high_rate_ends(RECIPE, 37)
    listens = RECIPE.replace(batch_size=4, schedule=Plateau(patience=0.1))
    with pytest.raises(RequestError, match="a function of progress, got 'plateau'"):
        high_rate_ends(listens, 37)


def test_the_unseen_loss_is_that_of_the_validation_set_and_leaves_the_model_alone() -> None:
    model, data = toy_model(), toy_splits()
    before = state_of(model)
    found = unseen_loss(model, data, seed=0)
    assert_same_state(state_of(model), before)
    frozen = copy.deepcopy(model).eval()
    expected = F.cross_entropy(frozen(data.validation.inputs), data.validation.targets)
    assert found == pytest.approx(expected.item())


def test_a_rate_just_below_the_breaking_one_is_limited_by_curvature_and_a_small_one_is_not() -> None:
    data = DIGITS.data(0)
    small = measure_limits(DIGITS.model(0), data, DIGITS.recipe.with_lr(0.1), seed=0)
    assert small.lr == 0.1
    assert small.step == 320
    assert small.verdict == "neither"
    large = measure_limits(DIGITS.model(0), data, DIGITS.recipe.with_lr(small.breaks.low), seed=0)
    assert large.verdict == "curvature"
    assert large.breaks.low < 2 * large.lr


def test_rates_of_a_summed_loss_are_given_on_the_mean_loss() -> None:
    """The same run in both forms; a partial last batch would make them differ, and digits has none."""
    data, mean = DIGITS.data(0), DIGITS.recipe.replace(budget=Epochs(4))
    size, lr = mean.batch_size, mean.optimizer.lr
    summed = mean.replace(loss_reduction="sum", optimizer=Sgd(lr=lr / size, momentum=0.9, weight_decay=1e-4 * size))
    found = [
        measure_limits(DIGITS.model(0), data, recipe, seed=0, factors=(1.0, 256.0), branch_steps=20)
        for recipe in (mean, summed)
    ]
    assert found[1].lr == pytest.approx(found[0].lr)
    assert found[1].breaks.low == pytest.approx(found[0].breaks.low)
    assert found[1].unseen_loss == pytest.approx(found[0].unseen_loss, rel=1e-3)


def test_another_optimizer_has_no_stable_rate_of_a_quadratic() -> None:
    recipe = Recipe(batch_size=32, optimizer=AdamW(lr=1e-3), budget=Steps(64))
    found = measure_limits(DIGITS.model(0), DIGITS.data(0), recipe, seed=0, factors=(1.0,), branch_steps=5)
    assert math.isnan(found.stable_lr)
    assert found.breaks.high == math.inf
    assert torch.isfinite(torch.tensor(found.curvature.value))


def test_a_top_eigenvalue_that_was_not_found_sets_no_stable_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebatch.study.limits.top_eigenvalue", partial(top_eigenvalue, max_products=2))
    recipe = Recipe(batch_size=32, optimizer=Sgd(lr=0.1), budget=Steps(64))
    found = measure_limits(DIGITS.model(0), DIGITS.data(0), recipe, seed=0, factors=(1.0,), branch_steps=5)
    assert not found.curvature.converged
    assert found.curvature.residual > 0.0
    assert math.isnan(found.stable_lr)
