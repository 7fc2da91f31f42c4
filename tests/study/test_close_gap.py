"""`close-gap`: what its arms are made of, equal trials for both batches, and its numbers by hand."""

import pytest

from rebatch.averaging import Ema
from rebatch.execution import Execution
from rebatch.price import cost
from rebatch.recipe import Recipe, Sgd
from rebatch.schedule import Cosine
from rebatch.study.plan import Plan, make_plan
from rebatch.study.studies.rebatch.close_gap import (
    BEST_LARGE,
    BEST_LARGE_PENALTY,
    BEST_SMALL,
    BEST_SMALL_PENALTY,
    CLOSE_GAP,
    FIRST_TUNING_SEED,
    PENALIZED,
    SETTINGS,
    STRENGTHS,
    WORTH,
)
from rebatch.tasks import find_task


def plan_of(task: str, scale: str = "cpu") -> Plan:
    return make_plan(CLOSE_GAP, find_task(task), scale, execution=Execution())  # type: ignore[arg-type]


def recipes(task: str) -> dict[str, Recipe]:
    return {arm.name: arm.recipe for arm in plan_of(task).design.arms}


@pytest.mark.parametrize("task", ["digits/mlp", "mnist/f1", "cifar10/resnet8"])
def test_nobody_gets_more_examples_or_more_trials(task: str) -> None:
    plan = plan_of(task)
    arms = {arm.name: arm for arm in plan.design.arms}
    examples = {cost(arm.recipe, plan.examples).epochs for arm in arms.values()}
    assert max(examples) / min(examples) < 1.02  # whole steps
    assert len(arms[BEST_LARGE].best_of) == len(arms[BEST_SMALL].best_of) == 6 * len(SETTINGS)
    trials = 6 * (len(SETTINGS) + len(STRENGTHS) * len(PENALIZED))
    assert len(arms[BEST_LARGE_PENALTY].best_of) == len(arms[BEST_SMALL_PENALTY].best_of) == trials
    for best in (BEST_LARGE, BEST_LARGE_PENALTY):
        assert all(name.startswith("large:") for name in arms[best].best_of)
    for best in (BEST_SMALL, BEST_SMALL_PENALTY):
        assert all(name.startswith("small:") for name in arms[best].best_of)
    # The best without the penalty stays what it was before there was one.
    assert all(
        arms[name].recipe.gradient_penalty is None for name in (*arms[BEST_LARGE].best_of, *arms[BEST_SMALL].best_of)
    )
    reported = {seed for arm in arms.values() if not arm.candidate for seed in plan.seeds(arm)}
    tried = {seed for arm in arms.values() if arm.candidate for seed in plan.seeds(arm)}
    assert not reported & tried
    assert min(tried) == FIRST_TUNING_SEED


def test_settings_are_what_they_are_called() -> None:
    found = recipes("mnist/f1")
    plain, everything = found["large:rate lr x 4"], found["large:cosine+ghosts+all lr x 4"]
    assert (plain.batch_size, plain.ghost_batch_size) == (4096, None)
    assert plain.optimizer.lr == pytest.approx(0.4)
    assert plain.schedule == found["large_batch"].schedule
    assert everything.schedule == Cosine(warmup=0.1)
    assert everything.ghost_batch_size == 128
    assert isinstance(everything.optimizer, Sgd)
    assert everything.optimizer.nesterov
    assert everything.batch_sizes == (4096, 1024)
    assert isinstance(everything.averaging, Ema)
    assert everything.averaging.decay ** (55_000 / 4096) == pytest.approx(0.5, rel=0.03)
    small = found["small:cosine+ghosts lr x 0.25"]
    assert (small.batch_size, small.ghost_batch_size) == (128, 32)
    assert small.optimizer.lr == pytest.approx(0.025)
    assert found["large:ghosts lr x 1"].max_grad_norm == found["small_batch"].max_grad_norm


def test_the_penalty_is_on_ghosts_and_of_the_small_batchs_own_strength() -> None:
    found = recipes("digits/mlp")
    natural = found["large:cosine+ghosts+penalty x 1 lr x 8"].gradient_penalty
    assert natural is not None
    assert natural.strength == pytest.approx(0.025 / (1 - 0.9) / 4)
    assert natural.batch_size == 32
    stronger = found["small:cosine+ghosts+all+penalty x 4 lr x 1"]
    assert stronger.gradient_penalty is not None
    assert stronger.gradient_penalty.strength == pytest.approx(0.25)
    assert stronger.gradient_penalty.batch_size == 8
    assert stronger.replace(gradient_penalty=None) == found["small:cosine+ghosts+all lr x 1"]
    assert found["large_batch+best"].gradient_penalty is None


def test_what_a_means_is_worth_compares_settings_that_there_are() -> None:
    assert {setting for pair in WORTH.values() for setting in pair} <= {*SETTINGS, *PENALIZED}
