"""Branches of one run at several batch sizes."""

import copy
import math

import pytest
import torch
from torch import nn

from rebatch import RequestError
from rebatch.averaging import Ema
from rebatch.recipe import Defects, Epochs, Recipe, Sgd, Steps
from rebatch.schedule import Constant, Cosine, Plateau
from rebatch.study.branch import branch_recipe
from rebatch.study.critical_batch import measure_critical_batch_size
from rebatch.tasks import TASKS
from toy import assert_same_state, state_of

TASK = TASKS["digits/mlp-plain"]
DATA = TASK.data(0)


def test_branches_tell_steps_and_examples_beside_the_noise_scale() -> None:
    torch.set_num_threads(1)
    model = TASK.model(0, DATA)
    found = measure_critical_batch_size(
        model, DATA, TASK.recipe, at=0.05, batch_sizes=(8, 32, 128), seeds=2, branch_steps=50
    )
    assert {(branch.batch_size, branch.seed) for branch in found.branches} == {
        (b, s) for b in (8, 32, 128) for s in (0, 1)
    }
    assert len({(branch.batch_size, branch.lr) for branch in found.branches}) == 3  # one rate for each batch size
    assert found.target < found.loss
    steps = {size: [b.steps for b in found.branches if b.batch_size == size] for size in (8, 32, 128)}
    assert max(steps[128]) < min(steps[8])
    # The recipe's own rate is one of those tried at its own batch size, and is judged in the same way.
    assert len(found.own_steps) == 2
    if {branch.lr for branch in found.branches if branch.batch_size == 32} == {found.lr}:
        assert [branch.steps for branch in found.branches if branch.batch_size == 32] == list(found.own_steps)
    assert sum(steps[32]) <= 1.5 * sum(found.own_steps)
    # The reference branches ended at the loss that is to be reached, at their own rate: the best one is no slower.
    assert sum(steps[32]) / 2 <= 1.3 * 50
    assert found.fit is not None
    assert found.fit.runs == 6
    assert found.noise_scale is not None
    assert found.noise_scale.steps > 10


def test_branches_from_a_fresh_model_start_at_the_recipes_own_rate() -> None:
    recipe = TASK.recipe.replace(schedule=Cosine(warmup=0.1))
    found = measure_critical_batch_size(
        TASK.model(0, DATA), DATA, recipe, at=0.0, batch_sizes=(16, 32), seeds=1, branch_steps=30
    )
    assert (found.step, found.lr) == (0, recipe.optimizer.lr)
    assert found.loss == pytest.approx(math.log(10), abs=0.2)
    assert found.no_noise_scale == "the model is fresh"


def test_each_seed_may_have_fresh_weights_of_its_own() -> None:
    made: list[int] = []

    def fresh(seed: int) -> nn.Module:
        made.append(seed)
        return TASK.model(seed, DATA)

    options = {"at": 0.0, "batch_sizes": (16, 32), "seeds": 2, "branch_steps": 20, "seed": 4}
    own = measure_critical_batch_size(TASK.model(4, DATA), DATA, TASK.recipe, fresh=fresh, **options)  # type: ignore[arg-type]
    assert made == [5, 6]
    shared = measure_critical_batch_size(TASK.model(4, DATA), DATA, TASK.recipe, **options)  # type: ignore[arg-type]
    assert own.target != shared.target


def test_the_model_is_left_where_it_branches() -> None:
    models = [TASK.model(0, DATA) for _ in range(2)]
    for model, sizes in zip(models, ((16, 32), (32, 64)), strict=True):
        measure_critical_batch_size(model, DATA, TASK.recipe, at=0.05, batch_sizes=sizes, seeds=1, branch_steps=30)
    assert_same_state(state_of(models[0]), state_of(models[1]))


def test_a_model_without_a_noise_scale_has_a_critical_batch_size() -> None:
    task = TASKS["digits/mlp"]
    data = task.data(0)
    found = measure_critical_batch_size(
        task.model(0, data), data, task.recipe, at=0.05, batch_sizes=(32, 128), seeds=2, branch_steps=30
    )
    assert found.noise_scale is None
    assert "batch norm" in found.no_noise_scale
    assert found.fit is not None


def test_a_branch_does_not_treat_its_model_as_a_fresh_one() -> None:
    recipe = TASK.recipe.replace(defects=Defects(batch_norm_scale="uniform", reset_momentum_epochs=1))
    branch = branch_recipe(recipe, 7)
    assert (branch.schedule, branch.budget, branch.defects) == (Constant(), Steps(7), Defects())
    assert branch.optimizer == recipe.optimizer
    assert branch_recipe(recipe.replace(averaging=Ema(decay=0.9)), 7) == branch


def test_what_cannot_be_branched_is_refused() -> None:
    recipe = Recipe(batch_size=32, optimizer=Sgd(lr=0.05), schedule=Constant(), budget=Epochs(5))
    model = TASK.model(0, DATA)

    def measure(recipe: Recipe = recipe, at: float = 0.1, batch_sizes: tuple[int, ...] = (16, 32)) -> None:
        measure_critical_batch_size(
            copy.deepcopy(model), DATA, recipe, at=at, batch_sizes=batch_sizes, seeds=1, branch_steps=2
        )

    with pytest.raises(RequestError, match=r"in \[0, 1\), got 1\.5"):
        measure(at=1.5)
    with pytest.raises(RequestError, match=r"at least 2 batch sizes of 1 or more, got \[32\]"):
        measure(batch_sizes=(32,))
    with pytest.raises(RequestError, match="function of progress, got 'plateau'"):
        measure(recipe.replace(schedule=Plateau(patience=0.2)))
    with pytest.raises(RequestError, match=r"not below the .* before them, so there is no loss to reach"):
        measure(recipe.with_lr(1e-300))


def test_a_rate_that_diverges_leaves_no_loss_to_reach() -> None:
    with pytest.raises(RequestError, match="the validation loss is nan, not below"):
        measure_critical_batch_size(
            TASK.model(0, DATA), DATA, TASK.recipe.with_lr(1e6), at=0.0, batch_sizes=(16, 32), seeds=1, branch_steps=30
        )
